"""Whether an explanation is true: does hiding what it calls important take the answer away?

Source: Petsiuk et al., "RISE: Randomized Input Sampling for Explanation of Black-box Models", 2018, the deletion
metric; against random orders on the same pictures, since a network can lose its answer over any hole.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import ttest_1samp
from torch import Tensor
from torch.nn.functional import interpolate

from data.allocator import release_freed
from model.artifact import LoadedModel

STEPS = 8
RANDOM_ORDERS = 3
_SEED = 0

_SENTENCES = {
    True: "These explanations can be believed as far as they go: hiding what they call important takes the answer away "
    "sooner than hiding anything else.",
    False: "Do not believe these explanations: hiding what they call important takes the answer away no sooner than "
    "hiding anything else, as far as these pictures can tell.",
    None: "Nothing says whether to believe these explanations: with so few pictures the score has no interval.",
}

Areas = npt.NDArray[np.float64]


def areas(model: LoadedModel, images: Tensor, targets: Tensor, importance: Tensor) -> tuple[Areas, Areas]:
    """Areas under the curve of the targets' probability over the share of cells hidden, [N] each.

    The first hides the cells of `importance` [N, g, g] from the most important down, the second in random orders (the
    mean of three). Hidden is the preprocessing's mean colour. `images` [N, 3, S, S] are preprocessed.
    """
    count, cells = len(images), importance[0].numel()
    found = importance.reshape(count, -1).argsort(dim=1, descending=True)
    generator = torch.Generator().manual_seed(_SEED)
    drawn = [
        torch.stack([torch.randperm(cells, generator=generator) for _ in range(count)])
        for _ in range(RANDOM_ORDERS)
    ]
    grid = importance.shape[1:]
    curves = [_curve(model, images, targets, order, (grid[0], grid[1])) for order in (found, *drawn)]
    under = [np.asarray(np.trapezoid(curve, dx=1 / STEPS, axis=0)) for curve in curves]
    return under[0], np.asarray(np.mean(under[1:], axis=0))


def _curve(
    model: LoadedModel, images: Tensor, targets: Tensor, order: Tensor, grid: tuple[int, int]
) -> npt.NDArray[np.float64]:
    """[steps + 1, N]: the target's probability with none of the cells hidden, …, with all of them."""
    rows = torch.arange(len(images))
    shown = []
    for step in range(STEPS + 1):
        keep = torch.ones(order.shape)
        keep.scatter_(1, order[:, : order.shape[1] * step // STEPS], 0)
        mask = interpolate(keep.view(-1, 1, *grid), images.shape[2:]).to(images.device)
        shown.append(model.predict_proba(images * mask)[rows, targets.cpu()])
        release_freed()
    return torch.stack(shown).double().numpy()


def deletion_score(found: Areas, random: Areas, confidence: float) -> dict[str, Any]:
    """report.json's `explanations.deletion`: the mean areas, and their difference with Student's interval.

    An interval needs two pictures; with fewer, or with equal differences, there is no verdict on the explanations.
    """
    gained = random - found
    if len(gained) > 1 and gained.std() > 0:
        bounds = ttest_1samp(gained, 0).confidence_interval(confidence)
        interval = [float(bounds.low), float(bounds.high)]
    else:
        interval = None
    believable = None if interval is None else interval[0] > 0
    return {
        "images": len(found),
        "steps": STEPS,
        "random_orders": RANDOM_ORDERS,
        "area": float(found.mean()),
        "random_area": float(random.mean()),
        "difference": float(gained.mean()),
        "difference_interval": interval,
        "confidence": confidence,
        "believable": believable,
        "sentence": _SENTENCES[believable],
    }
