"""What is kept of a model's answers: six numbers an image, whatever the number of classes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.float64]
Correct = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Answers:
    """Every array is [N]; labels and predictions index the classes."""

    labels: Labels
    predicted: Labels
    """The most probable class, of equals the first."""
    confidence: Probabilities
    """The prediction's probability."""
    margin: Probabilities
    """How much more probable the prediction is than the class after it."""
    likelihood: Probabilities
    """The true class's probability."""
    rank: Labels
    """How many classes come before the true one; 0 where the prediction is right."""

    @classmethod
    def of(cls, labels: Labels, probabilities: Probabilities) -> Self:
        """From `probabilities` [N, C], whose rows sum to one."""
        rows = np.arange(len(labels))
        predicted = probabilities.argmax(axis=1)
        first_two = -np.partition(-probabilities, 1, axis=1)[:, :2]
        likelihood = probabilities[rows, labels]
        before = np.arange(probabilities.shape[1]) < labels[:, None]
        ahead = (probabilities > likelihood[:, None]) | (before & (probabilities == likelihood[:, None]))
        return cls(
            np.asarray(labels, dtype=np.int64),
            np.asarray(predicted, dtype=np.int64),
            first_two[:, 0],
            first_two[:, 0] - first_two[:, 1],
            likelihood,
            ahead.sum(axis=1),
        )

    @classmethod
    def room(cls, count: int) -> Self:
        """For `count` images, to be filled by `put`; a list of parts would lie between the batches' temporaries."""

        def whole() -> Labels:
            return np.zeros(count, dtype=np.int64)

        def real() -> Probabilities:
            return np.zeros(count, dtype=np.float64)

        return cls(whole(), whole(), real(), real(), real(), whole())

    def put(self, start: int, part: Answers) -> None:
        """Overwrite what lies from `start` on."""
        for one in fields(self):
            getattr(self, one.name)[start : start + len(part)] = getattr(part, one.name)

    def head(self, count: int) -> Answers:
        """The first `count`."""
        return Answers(*(getattr(self, one.name)[:count] for one in fields(self)))

    @property
    def correct(self) -> Correct:
        """Whether each prediction is right, [N]."""
        return np.equal(self.predicted, self.labels)

    def __len__(self) -> int:
        return len(self.labels)
