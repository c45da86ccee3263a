"""Classification metrics of one model on one set of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest
from sklearn import metrics as sk

Labels = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.float64]

CONFIDENCE = 0.95
_TOP = 5
_CALIBRATION_BINS = 15
_PAIRS = 10


def classification_metrics(
    labels: Labels, probabilities: Probabilities, classes: Sequence[str], confidence: float = CONFIDENCE
) -> dict[str, Any]:
    """Every metric of report.json's `metrics`.

    `labels` [N] indexes `classes`; `probabilities` [N, C] has rows that sum to one. The prediction is
    the most probable class. Precision, recall and F1 of a class without images or predictions are 0,
    and `macro_f1` is the mean over the classes that have images. Raises ValueError without images.
    """
    if not len(labels):
        raise ValueError("there is no image to measure on")
    predictions = probabilities.argmax(axis=1)
    index = np.arange(len(classes))
    precision, recall, f1, count = sk.precision_recall_fscore_support(
        labels, predictions, labels=index, zero_division=0
    )
    correct = int((predictions == labels).sum())
    confusion = sk.confusion_matrix(labels, predictions, labels=index)
    return {
        "count": len(labels),
        "correct": correct,
        "accuracy": correct / len(labels),
        "accuracy_interval": wilson_interval(correct, len(labels), confidence),
        "confidence": confidence,
        "log_loss": log_loss(labels, probabilities),
        **_top_5(labels, probabilities),
        "macro_f1": float(f1[count > 0].mean()),
        "expected_calibration_error": expected_calibration_error(labels, probabilities),
        "majority_class_accuracy": float(count.max() / count.sum()),
        "per_class": [
            {
                "class": name,
                "count": int(count[i]),
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
            }
            for i, name in enumerate(classes)
        ],
        "confusion": confusion.tolist(),
        "most_confused": _most_confused(confusion, classes),
    }


def wilson_interval(successes: int, count: int, confidence: float = CONFIDENCE) -> list[float]:
    """Wilson's score interval of a proportion (E. B. Wilson, 1927), as [low, high]."""
    interval = binomtest(successes, count).proportion_ci(confidence, method="wilson")
    return [float(interval.low), float(interval.high)]


def log_loss(labels: Labels, probabilities: Probabilities) -> float:
    """Mean negative log probability of the true class, in nats; probabilities are clipped at 2.2e-16."""
    return float(sk.log_loss(labels, probabilities, labels=np.arange(probabilities.shape[1])))


def expected_calibration_error(labels: Labels, probabilities: Probabilities) -> float:
    """|confidence - accuracy| averaged over 15 equal bins of confidence, weighted by their images.

    Source: Guo et al., "On Calibration of Modern Neural Networks", 2017, equation 3.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    bins = np.clip(np.ceil(confidence * _CALIBRATION_BINS).astype(int) - 1, 0, _CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=confidence - correct, minlength=_CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def _top_5(labels: Labels, probabilities: Probabilities) -> dict[str, float | str | None]:
    classes = probabilities.shape[1]
    if classes <= _TOP:
        return {"top_5_accuracy": None, "top_5_reason": f"with {classes} classes it is always 100 %"}
    top = sk.top_k_accuracy_score(labels, probabilities, k=_TOP, labels=np.arange(classes))
    return {"top_5_accuracy": float(top), "top_5_reason": None}


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
