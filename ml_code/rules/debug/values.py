"""Rules over the values of any tensor: ExplodingTensor, AllZero, TensorVariance.

Definitions: AWS, "List of Debugger built-in rules". Their implementation is closed; each docstring states how the
text is read here. All look at every saved step, of every mode.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from rules.debug.plots import by_step
from rules.debug.saved_tensors import Mode, SavedTensors
from rules.verdict import Finding, NotEvaluatedError, Plot

_GIVE_NAMES = "give it collection_names (weights, for example) or tensor_regex to look at"


class _Seen(NamedTuple):
    """What one saved tensor came to."""

    global_step: int
    name: str
    mode: Mode
    step: int
    value: float


@dataclass(frozen=True)
class ExplodingTensor:
    """Fires when a tensor has a value that is not finite; with `only_nan`, one that is not a number.

    Readings: without `collection_names` and `tensor_regex`, all saved tensors. `value` is how many such values the
    tensor has, and reported is the step at which they came first. Several tensors explode in one step, most of them
    from another's values: reported is the one that smdebug met first, in the order of the forward pass. Where a
    tensor was saved as reductions, `value` counts those of its reductions that are not finite, which is the case
    when one of its values is not.
    """

    unit: ClassVar[str] = "values"
    collection_names: str | None = None
    tensor_regex: str | None = None
    only_nan: bool = False

    def check(self, tensors: SavedTensors) -> Finding:
        names = tensors.select(self.collection_names, self.tensor_regex)
        kind = "not a number" if self.only_nan else "not finite"
        largest: dict[str, list[tuple[float, float]]] = {}
        exploded: list[_Seen] = []
        for name in names:
            for mode, step, global_step, values in tensors.values_or_reductions(name):
                bad = int(np.sum(np.isnan(values) if self.only_nan else ~np.isfinite(values)))
                size = np.max(np.abs(values), where=np.isfinite(values), initial=0)
                largest.setdefault(name, []).append((global_step, float(size)))
                if bad:
                    exploded.append(_Seen(global_step, name, mode, step, bad))
        tops = {name: max(size for _, size in points) for name, points in largest.items()}
        worst = sorted(tops, key=lambda name: -tops[name])
        if not exploded:
            detail = (
                f"no value of {len(names)} tensors is {kind}; the largest in magnitude is {tops[worst[0]]:.3g}, in "
                f"{worst[0]}."
            )
            plot = by_step("largest |value|", largest, worst=worst, x="step of all modes")
            return Finding(False, detail, value=0.0, threshold=0.0, plot=plot)
        at = min(one.global_step for one in exploded)
        order = {name: place for place, name in enumerate(tensors.order(at))}
        together = sorted((one for one in exploded if one.global_step == at), key=lambda one: order[one.name])
        first = together[0]
        detail = (
            f"{first.value:.0f} values of {first.name} are {kind} at {first.mode} step {first.step}; "
            f"{len(together)} tensors have such values in that step."
        )
        plot = by_step(
            "largest finite |value|", largest, worst=[one.name for one in together], x="step of all modes"
        )
        advice = "Lower the learning rate, clip gradients, and look for divisions and logarithms of zero."
        return Finding(True, detail, first.step, first.name, first.value, 0.0, advice, plot)


@dataclass(frozen=True)
class AllZero:
    """Fires when at least `threshold` % of a tensor's values are zero.

    AWS has no default for what to look at: collection_names or tensor_regex must be given. Reported is the first
    step, and there the tensor with the largest share.
    """

    unit: ClassVar[str] = "%"
    collection_names: str | None = None
    tensor_regex: str | None = None
    threshold: float = 100.0

    def check(self, tensors: SavedTensors) -> Finding:
        if self.collection_names is None and self.tensor_regex is None:
            raise NotEvaluatedError(_GIVE_NAMES)
        names = tensors.select(self.collection_names, self.tensor_regex)
        seen = [
            _Seen(one.global_step, name, one.mode, one.step, 100 * float(np.mean(one.value == 0)))
            for name in names
            for one in tensors.saved(name)
        ]
        zero = [one for one in seen if one.value >= self.threshold]
        chosen = min(
            zero, key=lambda one: (one.global_step, -one.value), default=max(seen, key=lambda one: one.value)
        )
        detail = f"{chosen.value:.4g} % of {chosen.name} is zero at {chosen.mode} step {chosen.step}"
        if zero:
            detail += (
                f"; {len({one.name for one in zero})} of {len(names)} tensors reach {self.threshold:g} %."
            )
            advice = (
                "A weight: see how it is initialised. A gradient: look for a layer that is cut off from the loss, or "
                "that dead ReLUs cut off. An activation: look at the layer in front of it."
            )
        else:
            detail = f"at most, {detail}; the threshold is {self.threshold:g} %."
            advice = ""
        plot = _plot("% of values that are zero", seen, chosen.name, self.threshold)
        return Finding(
            bool(zero), detail, chosen.step, chosen.name, chosen.value, self.threshold, advice, plot
        )


@dataclass(frozen=True)
class TensorVariance:
    """Fires when the variance of a tensor's values is > `max_threshold` or < `min_threshold`.

    AWS has defaults neither for the thresholds nor for what to look at: one threshold at least, and
    collection_names or tensor_regex, must be given. Reported is the first step outside. Tensors of one value are
    left out, having no variance. The reduction variance is enough.
    """

    collection_names: str | None = None
    tensor_regex: str | None = None
    max_threshold: float | None = None
    min_threshold: float | None = None

    def check(self, tensors: SavedTensors) -> Finding:
        if self.collection_names is None and self.tensor_regex is None:
            raise NotEvaluatedError(_GIVE_NAMES)
        low = -math.inf if self.min_threshold is None else self.min_threshold
        high = math.inf if self.max_threshold is None else self.max_threshold
        if (low, high) == (-math.inf, math.inf):
            raise NotEvaluatedError("give it max_threshold or min_threshold")
        names = tensors.select(self.collection_names, self.tensor_regex)
        seen = [
            _Seen(tensors.global_step(mode, step), name, mode, step, variance)
            for name in names
            for mode in tensors.modes_of(name)
            for step, variance in tensors.statistic(name, mode, "variance")
        ]
        outside = [one for one in seen if not low <= one.value <= high]
        # Nearest to a threshold, as far as that can be said of two: the largest where there is a largest allowed.
        nearest = max(seen, key=lambda one: one.value if math.isfinite(high) else -one.value)
        chosen = min(outside, key=lambda one: (one.global_step, one.name), default=nearest)
        threshold = low if chosen.value < low or not math.isfinite(high) else high
        detail = (
            f"the variance of {chosen.name} is {chosen.value:.3g} at {chosen.mode} step {chosen.step}; {low:g} to "
            f"{high:g} is asked for"
        )
        if outside:
            detail += (
                f" ({len({one.name for one in outside})} of {len(names)} tensors are outside at some step)."
            )
            advice = (
                "Normalise the layer's inputs; see how its weights start and how large their updates are."
            )
        else:
            detail += f", as of all of {len(names)} tensors."
            advice = ""
        plot = _plot("variance", seen, chosen.name, threshold)
        return Finding(bool(outside), detail, chosen.step, chosen.name, chosen.value, threshold, advice, plot)


def _plot(y: str, seen: Sequence[_Seen], chosen: str, threshold: float) -> Plot:
    """The chosen tensor and those that come nearest to the threshold."""
    by_name: dict[str, list[tuple[float, float]]] = {}
    for one in sorted(seen):
        by_name.setdefault(one.name, []).append((one.global_step, one.value))
    near = sorted(by_name, key=lambda name: min(abs(value - threshold) for _, value in by_name[name]))
    return by_step(y, by_name, worst=[chosen, *near], threshold=threshold, x="step of all modes")
