"""A rule over one loss: LossNotDecreasing.

Definition: AWS, "List of Debugger built-in rules". Its implementation is closed; the docstring states how the text
is read here. Where the text says validation loss, the saved EVAL batches of one pass are averaged first: single
batches differ by their images, not by what the model learned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rules.debug.plots import by_step
from rules.debug.saved_tensors import LOSS_REGEX, EvaluationPass, Mode, Point, SavedTensors, evaluation_passes
from rules.debug.short_runs import cut
from rules.verdict import Finding, NotEvaluatedError

Series = Sequence[Point | EvaluationPass]

SAVE_LOSSES = "save the `losses` collection in TRAIN and EVAL mode"

# Below this overall fall, a flat loss is called stuck and not converged (in the recommendation only).
_CONVERGED_PERCENT = 50


@dataclass(frozen=True)
class LossNotDecreasing:
    """Fires when the loss fell by less than `diff_percent` %, or rose by more than
    `increase_threshold_percent` %, since a saved step at least `num_steps` earlier.

    Readings: every rise is also a fall of less than `diff_percent`, so the second condition never
    decides; it tells a rising loss from a flat one in the detail. Checks lie at least `num_steps`
    apart, and a step is compared with the latest saved one that is old enough (saved each 3 with
    num_steps 10: 21 against 9, then 33). `mode` left out means the first of EVAL and TRAIN with
    enough steps, or GLOBAL where the script set no mode (elsewhere GLOBAL mixes the two); EVAL uses
    the mean of each pass at the step of its last batch. A loss that is not finite is an issue. At
    AWS's defaults a run that has converged fires: the detail says how far the loss had fallen before.

    The tensors are those of `collection_names` and `tensor_regex` where either is given, else the `losses`
    collection, or with `use_losses_collection` False whatever smdebug names as losses; the first tensor with
    enough steps is judged. A `num_steps` of 10 is cut where no loss was saved over so many steps.
    """

    unit: ClassVar[str] = "%"
    collection_names: str | None = None
    tensor_regex: str | None = None
    use_losses_collection: bool = True
    num_steps: int = 10
    diff_percent: float = 0.1
    increase_threshold_percent: float = 5.0
    mode: str | None = None

    def check(self, tensors: SavedTensors) -> Finding:
        name, mode, series, num_steps, note = self._series(tensors)
        plot = by_step(
            "loss", {name: [(point.step, point.value) for point in series]}, worst=[name], x=f"{mode} step"
        )
        for point in series:
            if not math.isfinite(point.value):
                detail = f"{name} is {point.value} at {mode} step {point.step}."
                return Finding(
                    True, detail, point.step, name, None, self.diff_percent, "Lower the learning rate.", plot
                )
        checks = list(_checks(series, num_steps))
        issue = next((check for check in checks if check[2] < self.diff_percent), None)
        before, now, fall = issue or min(checks, key=lambda check: check[2])
        compared = (
            f"between {mode} steps {before.step} and {now.step} ({before.value:.4g} to {now.value:.4g})"
        )
        advice = ""
        if issue is None:
            detail = (
                f"the loss fell by at least {fall:.2f} % per check, least {compared}; "
                f"{self.diff_percent:g} % is asked for."
            )
        else:
            kind = "rose by" if -fall > self.increase_threshold_percent else "fell by only"
            change = abs(fall) if kind == "rose by" else fall
            lowest = min(point.value for point in series)
            overall = 100 * (series[0].value - lowest) / abs(series[0].value or 1)
            detail = (
                f"the loss {kind} {change:.2f} % {compared}; a fall of {self.diff_percent:g} % is asked for. "
                f"Over the whole run it fell by {overall:.0f} %."
            )
            advice = _advice(overall, mode)
        if note:
            detail += f" ({note})"
        return Finding(issue is not None, detail, now.step, name, fall, self.diff_percent, advice, plot)

    def _series(self, tensors: SavedTensors) -> tuple[str, Mode, Series, int, str]:
        """(tensor, mode, its losses, num_steps in force, what was done to it)."""
        modes: tuple[Mode, ...] = ("EVAL", "TRAIN")
        if self.mode is not None:
            every: tuple[Mode, ...] = ("EVAL", "TRAIN", "GLOBAL")
            modes = tuple(mode for mode in every if mode == self.mode)
            if not modes:
                raise ValueError(f"mode is {self.mode!r}, not EVAL, TRAIN or GLOBAL")
        names = None
        if self.collection_names is not None or self.tensor_regex is not None:
            names = tensors.select(self.collection_names, self.tensor_regex)
        elif not self.use_losses_collection:
            names = tensors.names(regex=LOSS_REGEX)
        found: list[tuple[int, str, Mode, Series]] = []
        for mode in modes:
            for name, points in tensors.losses(mode, names).items():
                series: Series = evaluation_passes(points) if mode == "EVAL" else points
                found.append((series[-1].step - series[0].step, name, mode, series))
        if not found:
            raise NotEvaluatedError(f"no loss was saved in {' or '.join(modes)} mode; {SAVE_LOSSES}")
        reasons = []
        for span, name, mode, series in sorted(found, key=lambda one: one[0] < self.num_steps):
            try:
                num_steps, note = cut(
                    "num_steps", self.num_steps, default=10, needs=self.num_steps, points=span, least=5,
                    unit=f"{mode} steps from the first saved loss to the last",
                )  # fmt: skip
            except NotEvaluatedError as error:
                reasons.append(str(error))
            else:
                return name, mode, series, num_steps, note
        raise NotEvaluatedError("; ".join(reasons))


def _checks(
    series: Series, num_steps: int
) -> list[tuple[Point | EvaluationPass, Point | EvaluationPass, float]]:
    """Each check as (earlier point, point, fall in percent of the earlier loss)."""
    checks, next_step = [], series[0].step
    for now in series:
        old = [point for point in series if point.step <= now.step - num_steps]
        if not old or now.step < next_step:
            continue
        before = old[-1]
        fall = 100 * (before.value - now.value) / abs(before.value) if before.value else 0.0
        checks.append((before, now, fall))
        next_step = now.step + num_steps
    return checks


def _advice(overall_fall: float, mode: Mode) -> str:
    if overall_fall <= _CONVERGED_PERCENT:
        return "It hardly learns: change the learning rate, or look at the labels."
    if mode == "EVAL":
        return "It had converged, so fewer epochs would do."
    return "It does learn; single batches are noisy, and more evaluation passes would say more."
