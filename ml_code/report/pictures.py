"""Small inline pictures of test images, and which of them are worth showing."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from data.decoding import decode
from report.predictions import Predictions

_SIDE = 96
_WORST = 12
_PER_PAIR = 3
_NEAR = 6
_SMOKE_SURE, _SMOKE_BORDERLINE = 3, 2
# Closer than this, the last bits of float arithmetic could turn the answer.
_LEAST_MARGIN = 0.02


@dataclass(frozen=True)
class Picture:
    """A small test image as a data URI, with what the model said of it."""

    uri: str
    file: str
    label: str
    prediction: str
    probability: float


@dataclass(frozen=True)
class Pair:
    """A test image and the training image that it nearly is, as data URIs."""

    test: str
    train: str
    test_file: str
    train_file: str


def worst_errors(predictions: Predictions, folder: Path) -> list[Picture]:
    """The 12 wrong answers that the model was surest of."""
    return [_picture(predictions, folder, i) for i in surest_errors(predictions)[:_WORST]]


def surest_errors(predictions: Predictions) -> list[int]:
    """Rows of the wrong answers, those with the highest probability first."""
    wrong = np.flatnonzero(~predictions.answers.correct)
    order: list[int] = wrong[np.argsort(-predictions.answers.confidence[wrong], kind="stable")].tolist()
    return order


def confused_pairs(
    predictions: Predictions, folder: Path, pairs: list[dict[str, Any]]
) -> list[tuple[dict[str, Any], list[Picture]]]:
    """Up to three images of each of the metrics' most confused pairs."""
    shown = []
    for pair in pairs:
        label, guess = (predictions.classes.index(pair[key]) for key in ("label", "prediction"))
        answers = predictions.answers
        members = np.flatnonzero((answers.labels == label) & (answers.predicted == guess))
        shown.append((pair, [_picture(predictions, folder, int(i)) for i in members[:_PER_PAIR]]))
    return shown


def near_duplicate_pairs(found: dict[str, Any] | None, test: Path, train: Path | None) -> list[Pair]:
    """The first six of report.json's `near_duplicates`."""
    if not found or train is None:
        return []
    return [
        Pair(_small(test / row["test"]), _small(train / row["train"]), row["test"], row["train"])
        for row in found["examples"][:_NEAR]
    ]


def smoke_sample(predictions: Predictions) -> list[int]:
    """Rows to ask a new endpoint about: sure right answers of different classes, and borderline ones.

    Borderline answers show a difference in preprocessing first. Those nearer than 0.02 to a tie are
    left out, since the order of a sum could turn them.
    """
    answers, margin = predictions.answers, predictions.answers.margin
    sure: list[int] = []
    for i in np.argsort(-margin, kind="stable").tolist():
        if len(sure) == _SMOKE_SURE:
            break
        if answers.correct[i] and answers.labels[i] not in answers.labels[sure]:
            sure.append(i)
    borderline = [
        i for i in np.argsort(margin, kind="stable").tolist() if margin[i] >= _LEAST_MARGIN and i not in sure
    ]
    return sure + borderline[:_SMOKE_BORDERLINE]


def _picture(predictions: Predictions, folder: Path, i: int) -> Picture:
    return Picture(_small(folder / predictions.file(i)), **predictions.row(i))


def _small(file: Path) -> str:
    image = decode(file.read_bytes())
    image.thumbnail((_SIDE, _SIDE))
    return data_uri(image)


def data_uri(image: Image) -> str:
    """A small JPEG inside a URI."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
