"""Rules over activations: DeadRelu, SaturatedActivation.

Definitions: AWS, "List of Debugger built-in rules". Their implementation is closed; each docstring states how the
text is read here. Both ask, for each unit of a layer, in how many of the values it was at work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from rules.debug.plots import by_step
from rules.debug.saved_tensors import Array, SavedTensors
from rules.verdict import Finding, NotEvaluatedError

_Active = Callable[[Array], npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class DeadRelu:
    """Fires when more than `threshold_layer` % of a layer's ReLUs are dead: active in less than
    `threshold_inactivity` % of their values.

    Readings: a ReLU is a feature, of a convolution a whole channel (every position counts as a value), active where
    its output is > 0. Activity is taken over the TRAIN steps saved one after another until each ReLU has
    100 / threshold_inactivity values, since fewer cannot show so small a share and the last batch of an epoch may be
    of one image; so a ReLU that dies later is seen then.
    """

    unit: ClassVar[str] = "%"
    tensor_regex: str = ".*relu_output"
    threshold_inactivity: float = 1.0
    threshold_layer: float = 50.0

    def check(self, tensors: SavedTensors) -> Finding:
        layers = _training_activations(tensors, tensors.names(regex=self.tensor_regex))
        if not layers:
            raise NotEvaluatedError(
                f"no activation matching {self.tensor_regex!r} was saved in TRAIN mode; add a collection with "
                "include_regex .*relu_output to the debugger hook, where the trained layers have ReLUs by that name"
            )
        return _judge(
            tensors, layers, lambda name: lambda value: value > 0, self.threshold_inactivity, self.threshold_layer,
            _Words("dead", "ReLUs", f"active in less than {self.threshold_inactivity:g} % of their values",
                   "Lower the learning rate, start the biases above zero, or use LeakyReLU or GELU."),
        )  # fmt: skip


@dataclass(frozen=True)
class SaturatedActivation:
    """Fires when more than `threshold_layer` % of a layer's tanh or sigmoid nodes are saturated: their input lies
    within [min, max] in less than `threshold_inactivity` % of their values.

    Readings: nodes, values and steps are those of DeadRelu. A tensor with `sigmoid` in its name is held against
    the sigmoid's limits, one with `tanh` against the tanh's, and no other is judged. Inputs that are not numbers
    lie outside.
    """

    unit: ClassVar[str] = "%"
    collection_names: str | None = None
    tensor_regex: str = ".*tanh_input|.*sigmoid_input"
    threshold_tanh_min: float = -9.4999
    threshold_tanh_max: float = 9.4999
    threshold_sigmoid_min: float = -23.0
    threshold_sigmoid_max: float = 16.99999
    threshold_inactivity: float = 1.0
    threshold_layer: float = 50.0

    def check(self, tensors: SavedTensors) -> Finding:
        names = set(tensors.names(regex=self.tensor_regex))
        if self.collection_names is not None:
            names |= set(tensors.select(self.collection_names, None))
        judged = [name for name in sorted(names) if self._limits(name) is not None]
        layers = _training_activations(tensors, judged)
        if not layers:
            other = f" ({', '.join(sorted(names))} is neither)" if names and not judged else ""
            raise NotEvaluatedError(
                f"no input of a tanh or sigmoid matching {self.tensor_regex!r} was saved in TRAIN mode{other}; add a "
                "collection with include_regex .*tanh_input|.*sigmoid_input to the debugger hook, where the trained "
                "layers have such modules by that name"
            )

        def within(name: str) -> _Active:
            low, high = self._limits(name) or (-math.inf, math.inf)
            return lambda value: (value >= low) & (value <= high)

        return _judge(
            tensors, layers, within, self.threshold_inactivity, self.threshold_layer,
            _Words("saturated", "nodes", f"within limits in less than {self.threshold_inactivity:g} % of their values",
                   "Start from smaller weights (xavier_normal_), normalise the layer's inputs (batch or layer norm), "
                   "or lower the learning rate."),
        )  # fmt: skip

    def _limits(self, name: str) -> tuple[float, float] | None:
        if "sigmoid" in name.lower():
            return self.threshold_sigmoid_min, self.threshold_sigmoid_max
        if "tanh" in name.lower():
            return self.threshold_tanh_min, self.threshold_tanh_max
        return None


@dataclass(frozen=True)
class _Words:
    state: str
    units: str
    meaning: str
    advice: str


@dataclass
class _Window:
    """Values of each unit, gathered over steps until there are enough."""

    active: npt.NDArray[np.int64] | None = None
    values: int = 0
    steps: list[int] = field(default_factory=list)

    def add(self, step: int, active: npt.NDArray[np.bool_]) -> None:
        counts = active.sum(axis=0)
        self.active = counts if self.active is None else self.active + counts
        self.values += len(active)
        self.steps.append(step)


def _judge(
    tensors: SavedTensors,
    layers: Sequence[str],
    active: Callable[[str], _Active],
    threshold_inactivity: float,
    threshold_layer: float,
    words: _Words,
) -> Finding:
    needed = math.ceil(100 / threshold_inactivity) if threshold_inactivity > 0 else 1
    shares: dict[str, list[tuple[int, float]]] = {}
    few: dict[str, int] = {}
    for name in layers:
        for step, share, values in _idle_shares(tensors, name, active(name), needed, threshold_inactivity):
            if values >= needed:
                shares.setdefault(name, []).append((step, share))
            else:
                few[name] = values
    if not shares:
        raise NotEvaluatedError(
            f"too short: {max(few.values())} values of each of the {words.units} were saved, {needed} are needed to "
            f"see {threshold_inactivity:g} %"
        )
    every = [(step, name, share) for name, points in shares.items() for step, share in points]
    above = [item for item in every if item[2] > threshold_layer]
    first = min(above, key=lambda item: (item[0], -item[2]), default=None)
    step, name, value = first or max(every, key=lambda item: item[2])
    what = f"{value:.1f} % of the {words.units} of {name} are {words.state} at step {step} ({words.meaning})"
    if first is None:
        detail = f"at most, {what}; the threshold is {threshold_layer:g} %."
    else:
        affected = sorted({layer for _, layer, _ in above})
        detail = f"{what}, more than {threshold_layer:g} % ({len(affected)} of {len(shares)} layers are so)."
    plot = by_step(
        f"% of {words.units} {words.state}", shares, threshold=threshold_layer,
        worst=[name, *sorted(shares, key=lambda one: -max(share for _, share in shares[one]))],
    )  # fmt: skip
    advice = words.advice if first else ""
    return Finding(first is not None, detail, step, name, value, threshold_layer, advice, plot)


def _idle_shares(
    tensors: SavedTensors, name: str, active: _Active, needed: int, threshold_inactivity: float
) -> Iterator[tuple[int, float, int]]:
    """(last step, % of units that are idle, values of each unit) of each window; a rest that is too short is
    dropped, or alone."""
    window, complete = _Window(), False
    for step, value in tensors.values(name, "TRAIN"):
        window.add(step, active(by_unit(value)))
        if window.values >= needed:
            yield step, _share(window, threshold_inactivity), window.values
            window, complete = _Window(), True
    if window.steps and not complete:
        yield window.steps[-1], _share(window, threshold_inactivity), window.values


def _share(window: _Window, threshold_inactivity: float) -> float:
    assert window.active is not None
    activity = 100 * window.active / window.values
    return float(100 * np.mean(activity < threshold_inactivity))


def by_unit(value: Array) -> Array:
    """(values, units). Units are the second dimension of (images, channels, height, width), as of (images,
    features), and the last of (images, tokens, features)."""
    if value.ndim < 2:
        return value.reshape(-1, 1)
    if value.ndim == 3:
        return value.reshape(-1, value.shape[-1])
    return np.moveaxis(value, 1, -1).reshape(-1, value.shape[1])


def _training_activations(tensors: SavedTensors, names: Sequence[str]) -> list[str]:
    return [name for name in names if tensors.modes_of(name)[:1] == ["TRAIN"]]
