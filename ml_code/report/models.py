"""The challenger and the champion on the test split."""

from __future__ import annotations

import tarfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model.artifact import load_model, sha256_of
from report.comparison import compare
from report.metrics import classification_metrics
from report.predictions import Predictions, predict


@dataclass(frozen=True)
class Tested:
    """One model's answers on the test split, with what they cost and what they are worth."""

    manifest: Mapping[str, Any]
    predictions: Predictions
    metrics: dict[str, Any]
    seconds_per_image: float
    archive_sha256: str
    archive_bytes: int


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a tar.gz, refusing links out of the folder, devices and absolute paths; returns `folder`.

    Raises FileNotFoundError, or tarfile.TarError for a damaged or hostile archive.
    """
    if not archive.is_file():
        raise FileNotFoundError(f"folder {archive.parent.name} holds no {archive.name}")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder


def run_model(archive: Path, test: Path, folder: Path, confidence: float) -> Tested:
    """Unpack a model archive into `folder` and answer the test split with it."""
    model = load_model(unpack(archive, folder))
    start = time.perf_counter()
    predictions = predict(model, test)
    seconds = (time.perf_counter() - start) / len(predictions.files)
    return Tested(
        manifest=model.manifest,
        predictions=predictions,
        metrics=classification_metrics(
            predictions.labels, predictions.probabilities, predictions.classes, confidence
        ),
        seconds_per_image=seconds,
        archive_sha256=sha256_of(archive),
        archive_bytes=archive.stat().st_size,
    )


def against_champion(
    challenger: Tested, archive: Path, test: Path, folder: Path, confidence: float
) -> dict[str, Any]:
    """report.json's `champion`. Whatever keeps the champion from answering is the reason given in it."""
    try:
        champion = run_model(archive, test, folder, confidence)
    except Exception as error:  # an old or broken champion must not block its replacement
        return _not_comparable(f"it does not answer ({type(error).__name__}: {error}).")
    ours, theirs = challenger.predictions, champion.predictions
    if set(theirs.classes) != set(ours.classes):
        added, gone = set(ours.classes) - set(theirs.classes), set(theirs.classes) - set(ours.classes)
        return _not_comparable(
            f"its classes are others ({len(added)} are new to it, {len(gone)} are gone from the challenger)."
        )
    # Classes in another order put the images in another order.
    right = dict(zip(theirs.files, theirs.correct.tolist(), strict=True))
    compared = compare(ours.correct, np.array([right[file] for file in ours.files]), confidence)
    kept = ("accuracy", "accuracy_interval", "log_loss", "macro_f1", "per_class")
    return {
        "comparable": True,
        "reason": None,
        **{key: champion.metrics[key] for key in kept},
        **compared,
        "seconds_per_image": champion.seconds_per_image,
        "archive_sha256": champion.archive_sha256,
        "archive_bytes": champion.archive_bytes,
    }


def _not_comparable(reason: str) -> dict[str, Any]:
    numbers = ("accuracy", "log_loss", "difference", "difference_interval", "mcnemar_p")
    return {"comparable": False, "reason": reason, **dict.fromkeys(numbers)}
