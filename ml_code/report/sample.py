"""A sample of a split, looked at: what its pictures are like and what the network makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image as Pillow
from PIL.Image import Image, Resampling
from torch import Tensor, nn

from data.decoding import UnreadableImageError
from model import architectures
from model.artifact import LoadedModel

IMAGES = 500
_BATCH = 32
_THUMBNAIL = 32

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    files: Sequence[str]
    """Relative to the split's folder."""
    brightness: Values
    """Mean grey level of each, 0 to 1."""
    contrast: Values
    """Standard deviation of its grey levels, 0 to 1."""
    pixels: Values
    """Of its shorter side, in the file."""
    thumbnails: npt.NDArray[np.float32]
    """[n, 1024]: 32 x 32 grey levels, of mean 0 and length 1; a flat picture is all 0."""
    embeddings: npt.NDArray[np.float32]
    """[n, d], what the last layer is given."""
    predicted: npt.NDArray[np.int64]


def spread(count: int, most: int = IMAGES) -> npt.NDArray[np.int64]:
    """At most `most` of the numbers below `count`, evenly."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).astype(np.int64))


def look(model: LoadedModel, folder: Path, files: Sequence[str]) -> Sample:
    """The readable ones of `files`, which lie in `folder`."""
    kept, rows = list[str](), list[tuple[float, float, int]]()
    thumbnails, embeddings, predicted = list[Values](), list[Tensor](), list[Tensor]()
    for start in range(0, len(files), _BATCH):
        crops = []
        for file in files[start : start + _BATCH]:
            try:
                image = model.preprocessing.decode((folder / file).read_bytes())
            except (UnreadableImageError, OSError):
                continue  # features, training and the test list it with its reason
            grey = np.asarray(image.convert("L"), dtype=np.float64) / 255
            kept.append(file)
            rows.append((float(grey.mean()), float(grey.std()), _shorter_side(folder / file)))
            thumbnails.append(_thumbnail(image))
            crops.append(model.preprocessing.crop(image))
        if crops:
            given, answered = _embed(model, torch.stack(crops))
            embeddings.append(given)
            predicted.append(answered)
    brightness, contrast, pixels = np.array(rows, dtype=np.float64).reshape(-1, 3).T
    return Sample(
        kept,
        brightness,
        contrast,
        pixels,
        np.array(thumbnails, dtype=np.float32),
        torch.cat(embeddings).numpy() if embeddings else np.empty((0, 0), np.float32),
        torch.cat(predicted).numpy() if predicted else np.empty(0, np.int64),
    )


def _shorter_side(file: Path) -> int:
    # Of the file's head: a large JPEG is decoded smaller than it is.
    with Pillow.open(file) as opened:
        return min(opened.size)


def _thumbnail(image: Image) -> Values:
    small = image.convert("L").resize((_THUMBNAIL, _THUMBNAIL), Resampling.BILINEAR)
    grey: Values = np.asarray(small, dtype=np.float64).ravel()
    grey -= grey.mean()
    length = float(np.linalg.norm(grey))
    if length:
        grey /= length
    return grey


def _embed(model: LoadedModel, crops: Tensor) -> tuple[Tensor, Tensor]:
    """What the last layer is given, [n, d], and the class that it answers, [n]."""
    given: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        given.append(inputs[0].flatten(1).float().cpu())

    watched = _last_layer(model).register_forward_pre_hook(keep)
    try:
        answered = model.predict_proba(model.preprocessing.normalize(crops.to(model.device)))
    finally:
        watched.remove()
    return given[0], answered.argmax(dim=1)


def _last_layer(model: LoadedModel) -> nn.Module:
    if model.manifest["tail"] == "all":
        return model.network.tail.get_submodule(architectures.HEADS[model.manifest["arch"]])
    return model.network.fc
