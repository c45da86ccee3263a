"""The challenger and the champion on the test split."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from report.comparison import compare, compare_classes
from report.foreign import foreign
from report.latency import BATCH, latency, parity
from report.loaded import Loaded, load
from report.metrics import classification_metrics
from report.predictions import Predictions, predict
from report.ranking import ranking
from report.robustness import robustness


@dataclass(frozen=True)
class Tested:
    """One model's answers on the test split, with what they cost and what they are worth."""

    loaded: Loaded
    predictions: Predictions
    metrics: dict[str, Any]
    seconds_per_image: float


def run_model(
    loaded: Loaded,
    test: Path,
    out: Path,
    confidence: float,
    classes: tuple[str, ...] | None = None,
    prior: Mapping[str, int] | None = None,
) -> Tested:
    """Answer the test split, each answer to `out` as it comes; `classes` as for `predict`, `prior` for baselines."""
    start = time.perf_counter()
    predictions = predict(loaded.served, test, out, classes)
    seconds = (time.perf_counter() - start) / len(predictions.answers)
    metrics = classification_metrics(predictions.answers, predictions.classes, confidence, prior)
    metrics["ranking"] = ranking(predictions.scores, predictions.classes)
    return Tested(loaded, predictions, metrics, seconds)


def measured(tested: Tested, test: Path, confidence: float) -> dict[str, Any]:
    """`latency`, `parity`, `robustness` and `foreign` of a model that has answered the test split."""
    predictions, model = tested.predictions, tested.loaded.served
    # Of all classes: they may differ in what it takes to decode them.
    rows = np.unique(np.linspace(0, len(predictions.answers) - 1, BATCH).astype(int))
    files = [test / predictions.file(int(i)) for i in rows]
    return {
        "latency": {
            "load_seconds": tested.loaded.seconds,
            "archive_bytes": tested.loaded.archive_bytes,
            **latency(model, files),
        },
        "parity": parity(model, files, predictions.answers.confidence[rows]),
        "robustness": robustness(model, predictions, test, confidence),
        "foreign": foreign(model, predictions, test),
    }


def against_champion(
    challenger: Tested, archive: Path, test: Path, folder: Path, out: Path, confidence: float
) -> dict[str, Any]:
    """report.json's `champion`. Whatever keeps the champion from answering is the reason given in it.

    Its answers go to `out`, in the challenger's order of images and classes.
    """
    ours = challenger.predictions
    try:
        loaded = load(archive, folder)
        known = set(loaded.model.classes)
        if known != set(ours.classes):
            added, gone = set(ours.classes) - known, known - set(ours.classes)
            return not_comparable(
                f"its classes are others ({len(added)} are new to it, {len(gone)} are gone from the challenger)."
            )
        champion = run_model(loaded, test, out, confidence, tuple(ours.classes))
        more = measured(champion, test, confidence)
    except Exception as error:  # an old or broken champion must not block its replacement
        out.unlink(missing_ok=True)
        return not_comparable(f"it does not answer ({type(error).__name__}: {error}).")
    theirs = champion.predictions
    # An image may be readable at one model's size and broken at the other's.
    _, mine, its = np.intersect1d(ours.indices, theirs.indices, assume_unique=True, return_indices=True)
    right, its_right = ours.answers.correct[mine], theirs.answers.correct[its]
    kept = (
        "accuracy",
        "accuracy_interval",
        "log_loss",
        "macro_f1",
        "expected_calibration_error",
        "per_class",
    )
    return {
        "comparable": True,
        "reason": None,
        **{key: champion.metrics[key] for key in kept},
        "images": len(mine),
        **compare(right, its_right, confidence),
        "classes": compare_classes(right, its_right, ours.answers.labels[mine], ours.classes),
        "seconds_per_image": champion.seconds_per_image,
        "archive_sha256": loaded.archive_sha256,
        "archive_bytes": loaded.archive_bytes,
        **more,
    }


def not_comparable(reason: str) -> dict[str, Any]:
    numbers = ("accuracy", "log_loss", "difference", "difference_interval", "mcnemar_p")
    return {"comparable": False, "reason": reason, **dict.fromkeys(numbers)}
