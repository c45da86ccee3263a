"""Accuracy on pictures that are a little worse than those of the test split."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ImageEnhance, ImageFilter
from PIL.Image import Image, Resampling
from torch import Tensor

from data.preprocessing import Preprocessing
from model.artifact import LoadedModel
from report.answers import Correct
from report.comparison import paired_bootstrap
from report.metrics import wilson_interval
from report.predictions import BATCH, Predictions, probabilities

IMAGES = 128
_SEED = 0


@dataclass(frozen=True)
class Change:
    """What is done to a decoded picture; `strength` says how much, with its unit."""

    name: str
    strength: str
    apply: Callable[[Image], Image | bytes]


def _blur(share: float) -> Change:
    def apply(image: Image) -> Image:
        return image.filter(ImageFilter.GaussianBlur(share * min(image.size)))

    return Change("blur", f"Gaussian, radius {share:.0%} of the shorter side", apply)


def _jpeg(quality: int) -> Change:
    def apply(image: Image) -> bytes:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return file.getvalue()

    return Change("JPEG", f"saved again with quality {quality} of 100", apply)


def _brightness(factor: float) -> Change:
    return Change(
        "darker" if factor < 1 else "brighter",
        f"{factor:g} times as bright",
        lambda image: ImageEnhance.Brightness(image).enhance(factor),
    )


def _zoom(share: float) -> Change:
    def apply(image: Image) -> Image:
        width, height = (max(1, round(share * side)) for side in image.size)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return image.crop((left, top, left + width, top + height))

    return Change("crop", f"the middle {share:.0%} of each side", apply)


def _rotation(degrees: float) -> Change:
    def apply(image: Image) -> Image:
        # Corners take the picture's mean colour: black ones would be another change.
        mean = tuple(int(value) for value in np.asarray(image).reshape(-1, 3).mean(axis=0))
        return image.rotate(degrees, Resampling.BILINEAR, fillcolor=mean)

    return Change("rotation", f"{degrees:g} degrees, counter-clockwise", apply)


CHANGES = (
    _blur(0.03),
    _jpeg(10),
    _brightness(0.5),
    _brightness(1.5),
    _zoom(0.8),
    _rotation(20),
)


def robustness(model: LoadedModel, predictions: Predictions, test: Path, confidence: float) -> dict[str, Any]:
    """report.json's `robustness`: accuracy under each change, and the drop from the same images unchanged.

    At most 128 images, drawn with a fixed seed from those that `predictions` answered, are decoded once, at the size
    that the model decodes for its own preprocessing, changed, and preprocessed and answered as when serving. The
    drop's interval is a paired bootstrap over the images.
    """
    count = min(IMAGES, len(predictions.answers))
    drawn = np.random.default_rng(_SEED).choice(len(predictions.answers), count, replace=False)
    rows = np.sort(drawn)
    before = predictions.answers.correct[rows]
    after = np.zeros((len(CHANGES), count), dtype=bool)
    for start in range(0, count, BATCH):
        part = rows[start : start + BATCH]
        pictures = [_square(model.preprocessing, test / predictions.file(int(i))) for i in part]
        for number, change in enumerate(CHANGES):
            crops = torch.stack([_crop(model.preprocessing, change, picture) for picture in pictures])
            # As `predictions` numbers them: a champion's own order may be another.
            guessed = [model.classes[i] for i in probabilities(model, crops).argmax(axis=1)]
            after[number, start : start + len(part)] = [
                guess == predictions.classes[label]
                for guess, label in zip(guessed, predictions.answers.labels[part], strict=True)
            ]
    return {
        "images": count,
        "of": len(predictions.answers),
        "seed": _SEED,
        "confidence": confidence,
        "accuracy": float(before.mean()),
        "changes": [
            _measured(change, before, after[number], confidence) for number, change in enumerate(CHANGES)
        ],
    }


def _square(preprocessing: Preprocessing, file: Path) -> Image:
    """The middle of the picture, of which the preprocessing keeps a part: a panorama costs no more than another."""
    picture = preprocessing.decode(file.read_bytes())
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def _crop(preprocessing: Preprocessing, change: Change, picture: Image) -> Tensor:
    return preprocessing.crop(change.apply(picture))


def _measured(change: Change, before: Correct, after: Correct, confidence: float) -> dict[str, Any]:
    lost, won, count = int((before & ~after).sum()), int((after & ~before).sum()), len(before)
    return {
        "name": change.name,
        "strength": change.strength,
        "accuracy": float(after.mean()),
        "accuracy_interval": wilson_interval(int(after.sum()), count, confidence),
        "drop": (lost - won) / count,
        "drop_interval": paired_bootstrap(lost, won, count, confidence),
    }
