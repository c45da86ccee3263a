"""How well each class's probability ranks the images: precision and recall at every threshold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from report.answers import Labels, Probabilities

# Probabilities crowd near 0 and 1, so the bins are equal in the logit, up to what float32 tells from 1.
_LARGEST_LOGIT, _BIN = 17.0, 0.01
BINS = round(2 * _LARGEST_LOGIT / _BIN)
_POINTS = 60
_CURVES = 3

Counts = npt.NDArray[np.int32]


def score_bin(probabilities: Probabilities) -> Labels:
    """The bin of each probability, 0 to `BINS` - 1; larger is surer."""
    with np.errstate(divide="ignore"):
        logits = np.log(probabilities) - np.log1p(-probabilities)
    return np.clip((logits + _LARGEST_LOGIT) / _BIN, 0, BINS - 1).astype(np.int64)


@dataclass(frozen=True)
class Scores:
    """How many images have a class's probability in a bin: its own images, and the others'. Both are [C, BINS]."""

    own: Counts
    others: Counts

    @classmethod
    def room(cls, classes: int) -> Scores:
        """Of no image yet; the memory that it takes does not depend on how many come."""
        return cls(np.zeros((classes, BINS), np.int32), np.zeros((classes, BINS), np.int32))

    def add(self, labels: Labels, probabilities: Probabilities) -> None:
        """Count `probabilities`, [N, C]."""
        bins = score_bin(probabilities)
        columns = np.broadcast_to(np.arange(probabilities.shape[1]), bins.shape)
        own = columns == labels[:, None]
        np.add.at(self.own, (columns[own], bins[own]), 1)
        np.add.at(self.others, (columns[~own], bins[~own]), 1)


def ranking(scores: Scores, classes: Sequence[str]) -> dict[str, Any]:
    """report.json's `ranking`: average precision, and the curves of all classes together and of the worst ones.

    Average precision is the sum of (R_n - R_n-1) P_n over the thresholds, as scikit-learn has it; thresholds are the
    bins' edges. Classes without an image have none, and do not count in the macro mean.
    """
    per_class = [
        _average_precision(own, others) for own, others in zip(scores.own, scores.others, strict=True)
    ]
    known = {name: value for name, value in zip(classes, per_class, strict=True) if value is not None}
    together = scores.own.sum(axis=0), scores.others.sum(axis=0)
    worst = sorted(known, key=lambda name: known[name])[:_CURVES]
    return {
        "bins": BINS,
        "macro_average_precision": float(np.mean(list(known.values()))),
        "micro_average_precision": _average_precision(*together),
        "average_precision": [
            {"class": name, "value": value} for name, value in zip(classes, per_class, strict=True)
        ],
        "curves": [{"class": None, "points": list(_points(*together))}]
        + [
            {"class": name, "points": list(_points(scores.own[at], scores.others[at]))}
            for name, at in ((name, classes.index(name)) for name in worst)
        ],
    }


def _curve(own: Counts, others: Counts) -> tuple[Probabilities, Probabilities]:
    """Recall and precision from the surest threshold on, where a threshold lets another image in."""
    used = (own + others)[::-1] > 0
    right, wrong = np.cumsum(own[::-1])[used], np.cumsum(others[::-1])[used]
    return right / right[-1], right / (right + wrong)


def _average_precision(own: Counts, others: Counts) -> float | None:
    if not own.any():
        return None
    recall, precision = _curve(own, others)
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def _points(own: Counts, others: Counts) -> Iterator[list[float]]:
    """[recall, precision], at most 60 of them: enough for a drawing."""
    recall, precision = _curve(own, others)
    for at in np.unique(np.linspace(0, len(recall) - 1, _POINTS).astype(int)):
        yield [float(recall[at]), float(precision[at])]
