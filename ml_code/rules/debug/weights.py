"""Rules over how tensors change: WeightUpdateRatio, UnchangedTensor.

Definitions: AWS, "List of Debugger built-in rules". Their implementation is closed; each docstring states how the
text is read here. Both compare TRAIN steps with TRAIN steps: what is saved of a weight in EVAL repeats the training
step before. Both leave out weights without a gradient tensor where gradients were saved: they are frozen on purpose.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rules.debug.plots import by_step
from rules.debug.saved_tensors import Array, SavedTensors
from rules.debug.short_runs import cut
from rules.verdict import Finding, NotEvaluatedError

_PARAMETER = re.compile(r"^(?!gradient/).*(weight|bias)")
_Ratio = tuple[int, float, str]


@dataclass(frozen=True)
class WeightUpdateRatio:
    """Fires when the ratio of a weight's update to the weight is > `large_threshold` or < `small_threshold`.

    Readings: the ratio is |w(s) - w(r)| / (|w(r)| + `epsilon`) in Euclidean norms, one number for each tensor and
    step (element by element, any weight near zero would fire). r is the TRAIN step saved before s, or with
    `num_steps` the earliest saved at s - num_steps or later. A weight that is all zero at r is not compared: it
    has no size yet. The weights are the `weights` collection.
    """

    num_steps: int | None = None
    large_threshold: float = 10.0
    small_threshold: float = 1e-8
    epsilon: float = 1e-9

    def check(self, tensors: SavedTensors) -> Finding:
        names, frozen = _trained(tensors, tensors.names(collection="weights"))
        if not names:
            raise NotEvaluatedError(
                "no trainable weight was saved in TRAIN mode; add the `weights` collection to the debugger hook"
            )
        by_name = {name: list(self._ratios(tensors, name)) for name in names}
        ratios: list[_Ratio] = [(step, ratio, name) for name in names for step, ratio in by_name[name]]
        if not ratios:
            within = "" if self.num_steps is None else f" within {self.num_steps} steps"
            raise NotEvaluatedError(
                f"too short: no weight was saved at two training steps{within}; lower the weights' train.save_interval"
            )
        issues = [one for one in ratios if not self.small_threshold <= one[1] <= self.large_threshold]
        # Of the first step, what is furthest outside.
        first = min(issues, key=lambda one: (one[0], -self._severity(one[1])), default=None)
        largest, smallest = max(ratios, key=lambda one: one[1]), min(ratios, key=lambda one: one[1])
        bounds = f"from {self.small_threshold:g} to {self.large_threshold:g} is asked for"
        step, value, name = first or max(ratios, key=lambda one: self._severity(one[1]))
        too_large = not value * value <= self.large_threshold * self.small_threshold
        threshold = self.large_threshold if too_large else self.small_threshold
        if first is None:
            detail = (
                f"updates are {smallest[1]:.3g} ({smallest[2]}, step {smallest[0]}) to {largest[1]:.3g} "
                f"({largest[2]}, step {largest[0]}) of the weight; {bounds}."
            )
            advice = ""
        else:
            affected = len({one[2] for one in issues})
            detail = (
                f"the update of {name} at step {step} is {value:.3g} of the weight; {bounds} ({affected} of "
                f"{len(names)} weights are outside at some step)."
            )
            advice = (
                "Lower the learning rate, or clip gradients."
                if too_large
                else "Raise the learning rate; see that the optimizer has this parameter and that its gradient is not "
                "zero. A weight that is frozen on purpose is known by having no gradient tensor: save `gradients`."
            )
        if frozen:
            detail += f" Frozen weights are left out ({frozen})."
        plot = by_step(
            "update / weight", by_name, threshold=threshold,
            worst=[name, largest[2], smallest[2], *(one[2] for one in issues)],
        )  # fmt: skip
        return Finding(first is not None, detail, step, name, value, threshold, advice, plot)

    def _severity(self, ratio: float) -> float:
        """How many times a ratio is outside; below 1, how near to it."""
        if math.isnan(ratio):
            return math.inf
        return max(ratio / self.large_threshold, self.small_threshold / ratio if ratio else math.inf)

    def _ratios(self, tensors: SavedTensors, name: str) -> Iterator[tuple[int, float]]:
        earlier: deque[tuple[int, Array]] = deque(maxlen=1 if self.num_steps is None else None)
        for step, weight in tensors.values(name, "TRAIN"):
            while earlier and self.num_steps is not None and earlier[0][0] < step - self.num_steps:
                earlier.popleft()
            if earlier:
                before = earlier[0][1]
                size = float(np.linalg.norm(before))
                if size:
                    yield step, float(np.linalg.norm(weight - before)) / (size + self.epsilon)
            earlier.append((step, weight))


@dataclass(frozen=True)
class UnchangedTensor:
    """Fires when a tensor is the same over the last `num_steps` available steps, by numpy.allclose with `rtol`,
    `atol` and `equal_nan`.

    Readings: at every saved TRAIN step, the tensor and the num_steps - 1 saved before it, each against the latest.
    `value` is the largest |difference| / (atol + rtol |latest|) over elements and steps, so that allclose holds
    where it is <= 1. Only tensors of one shape are compared (the last batch of an epoch may be smaller).
    AWS has no default for what to look at: collection_names or tensor_regex must be given. A `num_steps` of 3 is cut
    to 2 where only two steps were saved.
    """

    collection_names: str | None = None
    tensor_regex: str | None = None
    num_steps: int = 3
    rtol: float = 1e-5
    atol: float = 1e-8
    equal_nan: bool = False

    def check(self, tensors: SavedTensors) -> Finding:
        if self.collection_names is None and self.tensor_regex is None:
            raise NotEvaluatedError(
                "give it collection_names (weights, for example) or tensor_regex to look at"
            )
        selected = tensors.select(self.collection_names, self.tensor_regex)
        names, frozen = _trained(tensors, selected)
        saved = {name: len(tensors.steps(name, "TRAIN")) for name in names}
        if not saved:
            raise NotEvaluatedError(
                f"of {', '.join(selected[:4])} none was saved in TRAIN mode with a gradient; save the collection in "
                "TRAIN mode"
            )
        num_steps, note = cut(
            "num_steps", self.num_steps, default=3, needs=self.num_steps, points=max(saved.values()), least=2,
            unit="saved steps",
        )  # fmt: skip
        by_name = {name: list(self._changes(tensors, name, num_steps)) for name in names}
        changes = [(step, change, name) for name in names for step, change in by_name[name]]
        if not changes:
            raise NotEvaluatedError(f"no tensor has the same shape at {num_steps} saved steps in a row")
        unchanged = [one for one in changes if one[1] <= 1]
        step, value, name = min(unchanged, default=min(changes, key=lambda one: one[1]))
        if unchanged:
            detail = (
                f"{name} is the same at {num_steps} saved steps, until step {step} "
                f"({len({one[2] for one in unchanged})} of {len(names)} tensors are at some step)."
            )
            advice = (
                "See that the optimizer has this parameter and that its gradient is not zero; "
                "raise the learning rate."
            )
        else:
            detail = (
                f"every tensor changed over {num_steps} saved steps; the least changed is {name} until step {step}, by "
                f"{value:.3g} times the tolerance."
            )
            advice = ""
        if note:
            detail += f" ({note}.)"
        if frozen:
            detail += f" Frozen weights are left out ({frozen})."
        worst = sorted(
            (one for one in names if by_name[one]), key=lambda one: min(c for _, c in by_name[one])
        )
        plot = by_step("largest change / tolerance", by_name, worst=[name, *worst], threshold=1.0)
        return Finding(bool(unchanged), detail, step, name, value, 1.0, advice, plot)

    def _changes(self, tensors: SavedTensors, name: str, num_steps: int) -> Iterator[tuple[int, float]]:
        earlier: deque[Array] = deque(maxlen=num_steps - 1)
        for step, value in tensors.values(name, "TRAIN"):
            if len(earlier) == num_steps - 1 and all(one.shape == value.shape for one in earlier):
                yield step, max(self._change(one, value) for one in earlier)
            earlier.append(value)

    def _change(self, before: Array, now: Array) -> float:
        with np.errstate(invalid="ignore", divide="ignore"):
            change = np.abs(now - before) / (self.atol + self.rtol * np.abs(now))
        change[now == before] = 0
        if self.equal_nan:
            change[np.isnan(now) & np.isnan(before)] = 0
        return float(np.max(np.nan_to_num(change, nan=np.inf), initial=0))


def _trained(tensors: SavedTensors, names: Sequence[str]) -> tuple[list[str], int]:
    """Tensors saved in TRAIN mode without frozen parameters, and how many those were."""
    gradients = {name.removeprefix("gradient/") for name in tensors.gradients()}
    known = [name for name in names if tensors.modes_of(name)[:1] == ["TRAIN"]]
    trained = [name for name in known if not gradients or name in gradients or _PARAMETER.match(name) is None]
    return trained, len(known) - len(trained)
