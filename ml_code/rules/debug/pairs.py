"""Labels and predictions, step by step.

Labels are class numbers, or one column per class (one-hot); so are predictions, of which the largest column is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rules.debug.saved_tensors import Array, Mode, SavedTensors
from rules.verdict import NotEvaluatedError

Classes = npt.NDArray[np.int64]


class Pairs(NamedTuple):
    """Labels and predictions of one saved step."""

    mode: Mode
    step: int
    global_step: int
    labels: Classes
    predictions: Classes


def read_pairs(
    tensors: SavedTensors, labels: Sequence[str], predictions: Sequence[str], mode: Mode, argmax: bool
) -> list[Pairs]:
    """Labels and predictions of the steps that have both; the first tensor of each kind that does."""
    for label in labels:
        for prediction in predictions:
            predicted = dict(tensors.values(prediction, mode))
            pairs = [
                Pairs(
                    mode,
                    step,
                    tensors.global_step(mode, step),
                    _classes(label, value, False),
                    _classes(prediction, predicted[step], argmax),
                )
                for step, value in tensors.values(label, mode)
                if step in predicted
            ]
            if pairs:
                for one in pairs:
                    if len(one.labels) != len(one.predictions):
                        raise NotEvaluatedError(
                            f"{label} has {len(one.labels)} values at {mode} step {one.step} and {prediction} "
                            f"{len(one.predictions)}"
                        )
                return pairs
    return []


def _classes(name: str, value: Array, argmax: bool) -> Classes:
    columns = value.ndim == 2 and value.shape[1] > 1
    if argmax and not columns:
        raise ValueError(f"argmax is True, and {name} has shape {value.shape}, not one column per class")
    classes = value.argmax(axis=1) if columns else value.reshape(-1)
    if not columns and not (np.mod(classes, 1) == 0).all():
        raise ValueError(
            f"{name} has values that are no class numbers; save classes, or one column per class"
        )
    if classes.size and classes.min() < 0:
        raise ValueError(f"{name} has the class {classes.min():g}; classes are counted from 0")
    return classes.astype(np.int64)


def last(pairs: Sequence[Pairs], count: int | None) -> tuple[Classes, Classes]:
    """Labels and predictions of the last steps that have `count` of them between them; of all steps without."""
    taken: list[Pairs] = []
    for one in reversed(pairs):
        if count is not None and sum(len(pair.labels) for pair in taken) >= count:
            break
        taken.insert(0, one)
    return (
        np.concatenate([one.labels for one in taken]),
        np.concatenate([one.predictions for one in taken]),
    )
