"""The challenger in 8-bit integers, where the pipeline allows it and its accuracy does."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

from data.decoding import UnreadableImageError
from data.images import list_images
from model.artifact import LoadedModel
from report.loaded import Loaded, load_unpacked
from report.sample import spread
from serving.backends import INT8
from serving.quantization import Labelled, quantize

ARCHIVE = "model.tar.gz"
# More tell little more, and each is a forward pass in float32 and one in int8.
IMAGES = 1000
NOT_ASKED = "not asked for: assess.int8_max_accuracy_loss is not set"


def quantised(
    loaded: Loaded, unpacked: Path, validation: Path | None, bound: float | None, output: Path
) -> tuple[Loaded, dict[str, Any]]:
    """What is to be served, and report.json's `int8`: whether that is the quantised network, and why.

    An accepted one goes, with all that the challenger's archive has, into a new archive in `output`: that is the one
    to deploy, and `archive` names it.

    :param unpacked: the challenger's archive, unpacked. :param bound: None where nobody asked.
    """
    result: dict[str, Any] = {"accepted": False, "reason": NOT_ASKED, "archive": None}
    if bound is None:
        return loaded, result
    if validation is None:
        return loaded, result | {"reason": "not evaluated: no validation images were given (--validation)"}
    result |= quantize(loaded.model, _readable(loaded.model, validation), unpacked / INT8, bound)
    if not result["accepted"]:
        return loaded, result
    with tarfile.open(output / ARCHIVE, "w:gz", compresslevel=1) as tar:
        tar.add(unpacked, ".")
    return load_unpacked(output / ARCHIVE, unpacked), result | {"archive": ARCHIVE}


def _readable(model: LoadedModel, folder: Path) -> Labelled:
    """At most 1,000 of the images, evenly, with their labels."""
    samples = list_images(folder, model.classes).samples
    chosen = [samples[int(i)] for i in spread(len(samples), IMAGES)]
    return [(folder / file, label) for file, label in chosen if _can_be_read(model, folder / file)]


def _can_be_read(model: LoadedModel, file: Path) -> bool:
    try:
        model.preprocessing.decode(file.read_bytes())
    except (UnreadableImageError, OSError):
        return False  # features and training list it with its reason
    return True
