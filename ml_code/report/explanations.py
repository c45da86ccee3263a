"""Why the model answers what it answers, for a few test images, and whether that is to be believed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from model.artifact import LoadedModel
from report.deletion import areas, deletion_score
from report.pictures import Picture, data_uri, smoke_sample, surest_errors
from report.predictions import Predictions

EACH = 3
_SIDE = 96
_HEAT = (255, 96, 0)


@dataclass(frozen=True)
class Sample:
    """A test image and why it was chosen: `right`, `wrong` or `borderline`."""

    kind: str
    row: int


@dataclass(frozen=True)
class Explained:
    """Preprocessed images [N, 3, S, S] on the model's device, and the classes answered [N], of `samples`."""

    samples: Sequence[Sample]
    images: Tensor
    targets: Tensor


def choose(predictions: Predictions) -> list[Sample]:
    """Up to three each: the surest right answers of different classes, the surest wrong ones, the nearest ties."""
    answers = predictions.answers
    right = [i for i in smoke_sample(predictions) if answers.correct[i]][:EACH]
    wrong = surest_errors(predictions)[:EACH]
    ties = [i for i in np.argsort(answers.margin, kind="stable").tolist() if i not in (*right, *wrong)][:EACH]
    chosen = {"right": right, "wrong": wrong, "borderline": ties}
    return [Sample(kind, row) for kind, rows in chosen.items() for row in rows]


def explanations(
    wanted: str, model: LoadedModel, predictions: Predictions, test: Path, confidence: float, output: Path
) -> tuple[dict[str, Any], list[Picture]]:
    """report.json's `explanations`, and the pictures that belong to its images.

    Whatever keeps Captum from it is the document's `reason`: a model is not held for want of an explanation.

    :param wanted: `none`, `summary`, or `clarify`, which also writes `analysis.json` below `output`.
    :raises ValueError: when `wanted` is none of them.
    """
    if wanted not in {"none", "summary", "clarify"}:
        raise ValueError(f"context.json: assess.explanations is {wanted!r}, not none, summary or clarify")
    if wanted == "none":
        return _unexplained("Not asked for: assess.explanations is none."), []
    try:
        from report.clarify import write_analysis

        document, pictures, explained = _explain(model, predictions, test, confidence)
        if wanted == "clarify":
            write_analysis(output / "analysis.json", model, explained)
    except ImportError as error:
        return _unexplained(f"Captum is not installed ({error}): requirements.txt names it."), []
    except Exception as error:  # an architecture that Captum cannot follow costs this section alone
        return _unexplained(f"Captum could not explain the model ({type(error).__name__}: {error})."), []
    return document, pictures


def _explain(
    model: LoadedModel, predictions: Predictions, test: Path, confidence: float
) -> tuple[dict[str, Any], list[Picture], Explained]:
    from report.attribution import importance  # imports Captum, which may be missing

    samples = choose(predictions)
    crops = torch.stack(
        [model.preprocessing.crop((test / predictions.file(one.row)).read_bytes()) for one in samples]
    )
    rows = [predictions.row(one.row) for one in samples]
    explained = Explained(
        samples,
        model.preprocessing.normalize(crops.to(model.device)),
        torch.tensor([model.classes.index(row["prediction"]) for row in rows], device=model.device),
    )
    cells, method = importance(model, explained.images, explained.targets)
    found, random = areas(model, explained.images, explained.targets, cells)
    pictures = [
        Picture(data_uri(_overlay(crop, heat)), **row)
        for crop, heat, row in zip(crops, cells, rows, strict=True)
    ]
    images = [
        {
            "kind": one.kind,
            **row,
            **_focus(heat),
            "area": float(found[i]),
            "random_area": float(random[i]),
        }
        for i, (one, row, heat) in enumerate(zip(samples, rows, cells, strict=True))
    ]
    document = {
        "reason": None,
        "method": method,
        "images": images,
        "deletion": {"cells": cells[0].numel(), **deletion_score(found, random, confidence)},
    }
    return document, pictures, explained


def _unexplained(reason: str) -> dict[str, Any]:
    """report.json's `explanations` where there are none."""
    return {"reason": reason, "method": None, "images": [], "deletion": None}


def _focus(heat: Tensor) -> dict[str, Any]:
    """The ninth of the picture that matters most, in words, and its share of all importance."""
    ninths = torch.nn.functional.adaptive_avg_pool2d(heat[None, None], 3)[0, 0]
    best = int(ninths.argmax())
    row, column = ("upper", "middle", "lower")[best // 3], ("left", "centre", "right")[best % 3]
    return {"focus": f"{row} {column}", "focus_share": float(ninths.flatten()[best] / ninths.sum())}


def _overlay(crop: Tensor, heat: Tensor) -> Image.Image:
    """The crop [3, S, S], and beside it the same with its important cells in orange."""
    side = (_SIDE, _SIDE)
    plain = Image.fromarray(crop.permute(1, 2, 0).numpy()).resize(side, Image.Resampling.BICUBIC)
    span = (heat.max() - heat.min()).clamp_min(torch.finfo().tiny)
    strength = ((heat - heat.min()) / span).mul(255 * 0.8).byte().numpy()
    mask = Image.fromarray(strength).resize(side, Image.Resampling.BILINEAR)
    both = Image.new("RGB", (2 * _SIDE + 4, _SIDE), "white")
    both.paste(plain, (0, 0))
    both.paste(Image.composite(Image.new("RGB", side, _HEAT), plain, mask), (_SIDE + 4, 0))
    return both
