"""Classification metrics of one model on one set of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest
from sklearn import metrics as sk

from report.answers import Answers
from report.baselines import baselines
from report.calibration import expected_calibration_error, reliability

CONFIDENCE = 0.95
_TOP = 5
_PAIRS = 10
_WORST = 5


def classification_metrics(
    answers: Answers,
    classes: Sequence[str],
    confidence: float = CONFIDENCE,
    prior: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Every metric of report.json's `metrics`.

    Precision, recall and F1 of a class without images or predictions are 0, and macro means are over the classes
    that have images. Raises ValueError without images.

    :param prior: training images of each class, for the baselines.
    """
    if not len(answers):
        raise ValueError("there is no image to measure on")
    index = np.arange(len(classes))
    precision, recall, f1, count = sk.precision_recall_fscore_support(
        answers.labels, answers.predicted, labels=index, zero_division=0
    )
    correct, present = int(answers.correct.sum()), count > 0
    accuracy = correct / len(answers)
    confusion = sk.confusion_matrix(answers.labels, answers.predicted, labels=index)
    bins = reliability(answers)
    per_class = [
        {
            "class": name,
            "count": int(count[i]),
            "precision": float(precision[i]),
            "recall": float(recall[i]),
            "recall_interval": wilson_interval(int(confusion[i, i]), int(count[i]), confidence),
            "f1": float(f1[i]),
        }
        for i, name in enumerate(classes)
    ]
    return {
        "count": len(answers),
        "correct": correct,
        "accuracy": accuracy,
        "accuracy_interval": wilson_interval(correct, len(answers), confidence),
        "confidence": confidence,
        "log_loss": log_loss(answers),
        **_top_5(answers, len(classes)),
        "macro_precision": float(precision[present].mean()),
        "macro_recall": float(recall[present].mean()),
        "macro_f1": float(f1[present].mean()),
        # One label an image: a wrong answer is a false positive of one class and a false negative of another, so
        # that the three are the accuracy.
        "micro_precision": accuracy,
        "micro_recall": accuracy,
        "micro_f1": accuracy,
        "balanced_accuracy": float(recall[present].mean()),
        "expected_calibration_error": expected_calibration_error(bins),
        "reliability": bins,
        "baselines": baselines(answers.labels, classes, prior),
        "per_class": per_class,
        "worst_classes": [classes[i] for i in np.lexsort((-count, recall)) if present[i]][:_WORST],
        "confusion": confusion.tolist(),
        "most_confused": _most_confused(confusion, classes),
    }


def wilson_interval(successes: int, count: int, confidence: float = CONFIDENCE) -> list[float] | None:
    """Wilson's score interval of a proportion (E. B. Wilson, 1927), as [low, high]; None of no trials."""
    if not count:
        return None
    interval = binomtest(successes, count).proportion_ci(confidence, method="wilson")
    return [float(interval.low), float(interval.high)]


def log_loss(answers: Answers) -> float:
    """Mean negative log probability of the true class, in nats; probabilities are clipped at 2.2e-16."""
    return float(-np.log(np.maximum(answers.likelihood, np.finfo(float).eps)).mean())


def _top_5(answers: Answers, classes: int) -> dict[str, float | str | None]:
    if classes <= _TOP:
        return {"top_5_accuracy": None, "top_5_reason": f"with {classes} classes it is always 100 %"}
    return {"top_5_accuracy": float((answers.rank < _TOP).mean()), "top_5_reason": None}


def _most_confused(confusion: npt.NDArray[np.int64], classes: Sequence[str]) -> list[dict[str, Any]]:
    errors = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-errors, axis=None, kind="stable")[:_PAIRS]
    pairs = [divmod(int(flat), len(classes)) for flat in order]
    return [
        {
            "label": classes[i],
            "prediction": classes[j],
            "count": int(errors[i, j]),
            "of": int(confusion[i].sum()),
        }
        for i, j in pairs
        if errors[i, j]
    ]
