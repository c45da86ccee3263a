"""Run a model over a folder of images through exactly the serving path, in batches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.allocator import release_freed
from data.images import ImageDataset, Samples, list_images, loader_workers, read_batches
from model.artifact import LoadedModel
from report.answers import Answers, Labels, Probabilities
from report.ranking import Scores

BATCH = 64


@dataclass(frozen=True)
class Predictions:
    """One model's answers; row i of `answers` belongs to the image `samples[indices[i]]`.

    Labels and predictions index `classes`. `samples` are all images of the folder, with paths relative to it.
    """

    classes: Sequence[str]
    samples: Samples
    indices: Labels
    answers: Answers
    scores: Scores
    unreadable: Sequence[dict[str, str]]

    def file(self, i: int) -> str:
        """Row i's image, relative to the folder."""
        return self.samples[int(self.indices[i])][0]

    def row(self, i: int) -> dict[str, Any]:
        """One image's file, label, prediction and the prediction's probability."""
        return {
            "file": self.file(i),
            "label": self.classes[self.answers.labels[i]],
            "prediction": self.classes[self.answers.predicted[i]],
            "probability": float(self.answers.confidence[i]),
        }


def predict(model: LoadedModel, folder: Path, out: Path, classes: Sequence[str] | None = None) -> Predictions:
    """Answer every readable image below `folder` (an ImageFolder, which may lack classes).

    Each answer is written to `out` (JSON lines: file, label, prediction, probability, probabilities) as it comes:
    memory holds a batch of images and some 100 bytes an image. Unreadable files are left out and listed.

    :param classes: the model's own in another order, which decides that of the images and of the indices.
    :raises ValueError: when the folder has a class that the model does not know, or no readable image.
    """
    names = tuple(classes or model.classes)
    order = [model.classes.index(name) for name in names]
    listing = list_images(folder, names)
    dataset = ImageDataset(folder, listing, model.preprocessing)
    indices, kept, count = np.zeros(len(dataset), dtype=np.int64), Answers.room(len(dataset)), 0
    scores = Scores.room(len(names))
    unreadable: list[dict[str, str]] = []
    with out.open("w", encoding="utf-8") as file:
        for batch in read_batches(dataset, BATCH, loader_workers(len(dataset))):
            unreadable.extend(asdict(item) for item in batch.unreadable)
            if not len(batch.indices):
                continue
            rows = probabilities(model, batch.views[:, 0])[:, order]
            chosen, answers = batch.indices.numpy(), Answers.of(batch.labels.numpy(), rows)
            scores.add(answers.labels, rows)
            part = Predictions(names, listing.samples, chosen, answers, scores, ())
            for i, shares in enumerate(rows.tolist()):
                line = {**part.row(i), "probabilities": dict(zip(names, shares, strict=True))}
                file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
            # Copied: a loader's tensors are shared memory, and an open file each, as long as they are looked at.
            indices[count : count + len(chosen)] = chosen
            kept.put(count, answers)
            count += len(chosen)
            release_freed()
    if not count:
        raise ValueError(
            f"none of the {len(dataset)} images of the test split is readable: {unreadable[0]['reason']}"
        )
    return Predictions(names, listing.samples, indices[:count], kept.head(count), scores, unreadable)


def probabilities(model: LoadedModel, crops: torch.Tensor) -> Probabilities:
    """[N, C] from uint8 [N, 3, S, S]; in double precision rows sum to one, in float32 only nearly.

    :raises ValueError: when one is not finite.
    """
    answered = model.predict_proba(model.preprocessing.normalize(crops.to(model.device)))
    rows: Probabilities = np.asarray(answered, dtype=np.float64)
    if not np.isfinite(rows).all():
        raise ValueError("the model answers with probabilities that are not finite")
    rows /= rows.sum(axis=1, keepdims=True)
    return rows
