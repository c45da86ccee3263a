"""Run a model over a folder of images through exactly the serving path, in batches."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.images import ImageDataset, list_images, loader_workers, read_batches
from model.artifact import LoadedModel
from report.comparison import Correct
from report.metrics import Labels, Probabilities

BATCH = 64


@dataclass(frozen=True)
class Predictions:
    """One model's answers. Row i of `labels` [N] and `probabilities` [N, C] belongs to `files[i]`.

    Labels and columns index `classes`, the model's own; `files` are paths relative to the test folder.
    """

    classes: Sequence[str]
    files: Sequence[str]
    labels: Labels
    probabilities: Probabilities
    unreadable: Sequence[dict[str, str]]

    @property
    def predicted(self) -> Labels:
        """Index of the most probable class per image, [N]."""
        return np.asarray(self.probabilities.argmax(axis=1), dtype=np.int64)

    @property
    def correct(self) -> Correct:
        """Whether each prediction is right, [N]."""
        return np.equal(self.predicted, self.labels)

    def write(self, path: Path) -> None:
        """Write predictions.jsonl: one object per image."""
        with path.open("w", encoding="utf-8") as file:
            file.writelines(
                json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in self._rows()
            )

    def row(self, i: int) -> dict[str, Any]:
        """One image's file, label, prediction and the prediction's probability."""
        best = int(self.predicted[i])
        return {
            "file": self.files[i],
            "label": self.classes[self.labels[i]],
            "prediction": self.classes[best],
            "probability": float(self.probabilities[i, best]),
        }

    def _rows(self) -> Iterator[dict[str, Any]]:
        for i in range(len(self.files)):
            shares = dict(zip(self.classes, self.probabilities[i].tolist(), strict=True))
            yield {**self.row(i), "probabilities": shares}


def predict(model: LoadedModel, folder: Path) -> Predictions:
    """Answer every readable image below `folder` (an ImageFolder, which may lack classes).

    Memory holds one batch of images whatever their number, and the N x C probabilities. Unreadable
    files are left out and listed. Raises ValueError when the folder has a class that the model does
    not know, or no readable image.
    """
    listing = list_images(folder, model.classes)
    dataset = ImageDataset(folder, listing, model.preprocessing)
    indices: list[int] = []
    answers: list[Probabilities] = []
    unreadable: list[dict[str, str]] = []
    for batch in read_batches(dataset, BATCH, loader_workers(len(dataset))):
        unreadable.extend(asdict(item) for item in batch.unreadable)
        if len(batch.indices):
            indices.extend(batch.indices.tolist())
            answers.append(_probabilities(model, batch.views[:, 0]))
    if not indices:
        raise ValueError(
            f"none of the {len(dataset)} images of the test split is readable: {unreadable[0]['reason']}"
        )
    files, labels = zip(*(listing.samples[i] for i in indices), strict=True)
    return Predictions(model.classes, files, np.array(labels), np.concatenate(answers), unreadable)


def _probabilities(model: LoadedModel, crops: torch.Tensor) -> Probabilities:
    """[N, C] in double precision with rows that sum to one, which float32 softmax only nearly does."""
    answered = model.predict_proba(model.preprocessing.normalize(crops.to(model.device)))
    rows: Probabilities = np.asarray(answered, dtype=np.float64)
    if not np.isfinite(rows).all():
        raise ValueError("the model answers with probabilities that are not finite")
    rows /= rows.sum(axis=1, keepdims=True)
    return rows
