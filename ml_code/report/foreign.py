"""What the model says to pictures that show none of its classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import Tensor

from model.artifact import LoadedModel
from report.predictions import BATCH, Predictions, probabilities

IMAGES = 64
SURE = 0.9
_SEED = 0
_TILES = 4


def foreign(model: LoadedModel, predictions: Predictions, test: Path) -> dict[str, Any]:
    """report.json's `foreign`: whether the prediction's probability tells foreign pictures from the test's.

    Three kinds, made with a fixed seed from as many test images, at most 64: noise, one colour, and the test image in
    4 x 4 tiles in random order. `auroc` is the chance that a test image's prediction is surer than a foreign
    picture's: 1 tells them apart, 0.5 does not (the baseline of Hendrycks and Gimpel, 2017). `sure` is the share that
    is answered with 90 % and more.
    """
    draw = np.random.default_rng(_SEED)
    count = min(IMAGES, len(predictions.answers))
    rows = np.sort(draw.choice(len(predictions.answers), count, replace=False))
    known = predictions.answers.confidence[rows]
    size = model.preprocessing.image_size

    def noise(_: int) -> Tensor:
        return torch.from_numpy(draw.integers(0, 256, (3, size, size), dtype=np.uint8))

    def colour(_: int) -> Tensor:
        return torch.from_numpy(draw.integers(0, 256, (3, 1, 1), dtype=np.uint8)).expand(3, size, size)

    def tiles(row: int) -> Tensor:
        content = (test / predictions.file(row)).read_bytes()
        return _shuffled(model.preprocessing.crop(content), draw)

    kinds = (
        ("noise", "every pixel of a random colour", noise),
        ("one colour", "all pixels of one random colour", colour),
        ("tiles", f"a test image cut in {_TILES} x {_TILES} tiles, in random order", tiles),
    )
    return {
        "images": count,
        "seed": _SEED,
        "sure_from": SURE,
        "known": {"confidence": float(known.mean()), "sure": float((known >= SURE).mean())},
        "kinds": [
            {"name": name, "what": what, **_told_apart(known, _confidence(model, make, rows))}
            for name, what, make in kinds
        ],
    }


def _shuffled(crop: Tensor, draw: np.random.Generator) -> Tensor:
    side = crop.shape[-1] // _TILES
    whole = crop[:, : side * _TILES, : side * _TILES]
    pieces = whole.unfold(1, side, side).unfold(2, side, side).flatten(1, 2)
    mixed = pieces[:, torch.from_numpy(draw.permutation(_TILES**2))]
    joined = mixed.reshape(3, _TILES, _TILES, side, side).permute(0, 1, 3, 2, 4)
    # Where the size is no multiple of four, the rest is left out and the whole is made larger again.
    picture = Image.fromarray(joined.reshape(3, side * _TILES, -1).permute(1, 2, 0).numpy())
    resized = np.array(picture.resize((crop.shape[-1], crop.shape[-1])), dtype=np.uint8)
    return torch.from_numpy(resized).permute(2, 0, 1)


def _confidence(
    model: LoadedModel, make: Callable[[int], Tensor], rows: np.ndarray[Any, np.dtype[np.int64]]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    parts = [
        probabilities(model, torch.stack([make(int(row)) for row in rows[start : start + BATCH]])).max(axis=1)
        for start in range(0, len(rows), BATCH)
    ]
    return np.concatenate(parts)


def _told_apart(known: Any, other: Any) -> dict[str, float]:
    labels = np.repeat([1, 0], [len(known), len(other)])
    return {
        "confidence": float(other.mean()),
        "sure": float((other >= SURE).mean()),
        "auroc": float(roc_auc_score(labels, np.concatenate([known, other]))),
    }
