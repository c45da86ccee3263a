"""Rules over losses: LossNotDecreasing, Overfit, Overtraining.

Definitions: AWS, "List of Debugger built-in rules". Their implementation is closed; each docstring
states how the text is read here. Where the text says validation loss, the saved EVAL batches of one
pass are averaged first: single batches differ by their images, not by what the model learned.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rules.debug.saved_tensors import EvaluationPass, Mode, Point, SavedTensors, evaluation_passes
from rules.verdict import Finding, NotEvaluatedError

Series = Sequence[Point | EvaluationPass]

_SAVE_LOSSES = "save the `losses` collection in TRAIN and EVAL mode"


@dataclass(frozen=True)
class LossNotDecreasing:
    """Fires when the loss fell by less than `diff_percent` %, or rose by more than
    `increase_threshold_percent` %, since a saved step at least `num_steps` earlier.

    Readings: every rise is also a fall of less than `diff_percent`, so the second condition never
    decides; it tells a rising loss from a flat one in the detail. Checks lie at least `num_steps`
    apart, and a step is compared with the latest saved one that is old enough (saved each 3 with
    num_steps 10: 21 against 9, then 33). `mode` left out means the first of EVAL, TRAIN, GLOBAL with
    enough steps; EVAL uses the mean of each pass at the step of its last batch. A loss that is not
    finite is an issue. At AWS's defaults a run that has converged fires: the detail says how far
    the loss had fallen before.
    """

    collection_names: str | None = None
    tensor_regex: str | None = None
    use_losses_collection: str = "True"
    num_steps: int = 10
    diff_percent: float = 0.1
    increase_threshold_percent: float = 5.0
    mode: str | None = None

    def check(self, tensors: SavedTensors) -> Finding:
        name, mode, series = self._series(tensors)
        for point in series:
            if not math.isfinite(point.value):
                detail = f"{name} is {point.value} at {mode} step {point.step}; lower the learning rate."
                return Finding(True, detail, point.step, name, None, self.diff_percent)
        checks = list(self._checks(series))
        issue = next((check for check in checks if check[2] < self.diff_percent), None)
        before, now, fall = issue or min(checks, key=lambda check: check[2])
        compared = (
            f"between {mode} steps {before.step} and {now.step} ({before.value:.4g} to {now.value:.4g})"
        )
        if issue is None:
            detail = (
                f"the loss fell by at least {fall:.2f} % per check, least {compared}; "
                f"{self.diff_percent:g} % is asked for."
            )
        else:
            kind = "rose by" if fall < 0 else "fell by only"
            lowest = min(point.value for point in series)
            overall = 100 * (series[0].value - lowest) / abs(series[0].value or 1)
            detail = (
                f"the loss {kind} {abs(fall):.2f} % {compared}; "
                f"a fall of {self.diff_percent:g} % is asked for. "
                f"Over the whole run it fell by {overall:.0f} %: " + _meaning(overall, mode)
            )
        return Finding(issue is not None, detail, now.step, name, fall, self.diff_percent)

    def _series(self, tensors: SavedTensors) -> tuple[str, Mode, Series]:
        modes: tuple[Mode, ...] = ("EVAL", "TRAIN", "GLOBAL")
        if self.mode is not None:
            modes = tuple(mode for mode in modes if mode == self.mode)
            if not modes:
                raise ValueError(f"mode is {self.mode!r}, not EVAL, TRAIN or GLOBAL")
        if self.collection_names is not None:
            raise ValueError("collection_names is not supported; use tensor_regex")
        for mode in modes:
            for name, points in tensors.losses(mode, self.tensor_regex).items():
                series: Series = evaluation_passes(points) if mode == "EVAL" else points
                if series[-1].step - series[0].step >= self.num_steps:
                    return name, mode, series
        raise NotEvaluatedError(
            f"no loss was saved over {self.num_steps} steps or more in {' or '.join(modes)} mode; "
            f"{_SAVE_LOSSES}"
        )

    def _checks(self, series: Series) -> list[tuple[Point | EvaluationPass, Point | EvaluationPass, float]]:
        """Each check as (earlier point, point, fall in percent of the earlier loss)."""
        checks, next_step = [], series[0].step
        for now in series:
            old = [point for point in series if point.step <= now.step - self.num_steps]
            if not old or now.step < next_step:
                continue
            before = old[-1]
            fall = 100 * (before.value - now.value) / abs(before.value) if before.value else 0.0
            checks.append((before, now, fall))
            next_step = now.step + self.num_steps
        return checks


def _meaning(overall_fall: float, mode: Mode) -> str:
    if overall_fall <= _CONVERGED_PERCENT:
        return "it hardly learns, so change the learning rate or look at the labels."
    if mode == "EVAL":
        return "it had converged, so fewer epochs would do."
    return "it does learn; single batches are noisy, and more evaluation passes would say more."


# Below this overall fall, a flat loss is called stuck and not converged (in the detail only).
_CONVERGED_PERCENT = 50


@dataclass(frozen=True)
class Overfit:
    """Fires when (validation loss - training loss) / training loss > `ratio_threshold` for `patience`
    checks in a row.

    Readings: one check per evaluation pass, the mean of its EVAL batches against the mean of the TRAIN
    losses saved since the pass before (the losses one would plot per epoch); `start_step` is the number
    of training steps before the first pass that counts. Near zero loss the ratio is large however
    small the gap, so a model that fits its training data perfectly fires at AWS's default 0.1.
    """

    tensor_regex: str | None = None
    start_step: int = 0
    patience: int = 1
    ratio_threshold: float = 0.1

    def check(self, tensors: SavedTensors) -> Finding:
        train, evaluation = (tensors.losses(mode, self.tensor_regex) for mode in ("TRAIN", "EVAL"))
        name = next((name for name in train if name in evaluation), None)
        if name is None:
            found = [mode for mode, losses in (("TRAIN", train), ("EVAL", evaluation)) if losses]
            raise NotEvaluatedError(
                f"losses of both modes are needed, found {' and '.join(found) or 'none'}; {_SAVE_LOSSES}"
            )
        ratios = [
            ratio
            for ratio in _gaps(train[name], evaluation_passes(evaluation[name]))
            if ratio[0].train_steps >= self.start_step
        ]
        if not ratios:
            raise NotEvaluatedError(
                f"no training loss was saved between evaluation passes after step {self.start_step}; "
                "lower the losses' train.save_interval"
            )
        run, longest, fired = 0, 0, None
        for ratio in ratios:
            run = run + 1 if ratio[2] > self.ratio_threshold else 0
            longest = max(longest, run)
            if fired is None and run >= self.patience:
                fired = ratio
        at, train_loss, value = fired or max(ratios, key=lambda ratio: ratio[2])
        gap = (
            f"validation loss {at.value:.4g} is {value:+.0%} against training loss {train_loss:.4g} after "
            f"{at.train_steps} training steps"
        )
        if fired is None:
            detail = (
                f"at the widest, {gap}; above {self.ratio_threshold:+.0%} it fires, with patience {self.patience} "
                f"(longest stretch above: {longest})."
            )
        else:
            above = sum(ratio[2] > self.ratio_threshold for ratio in ratios)
            detail = (
                f"{gap}, above {self.ratio_threshold:+.0%} ({above} of {len(ratios)} passes are). "
                "Take more data, augmentation, weight decay or fewer epochs; "
                "the saved weights are those of the best epoch."
            )
        return Finding(fired is not None, detail, at.step, name, value, self.ratio_threshold)


def _gaps(train: list[Point], passes: list[EvaluationPass]) -> list[tuple[EvaluationPass, float, float]]:
    """(pass, mean training loss since the pass before, relative gap) for each pass with training losses."""
    gaps = []
    for start, one in zip(itertools.chain([0], (p.train_steps for p in passes)), passes, strict=False):
        losses = [point.value for point in train if start <= point.step < one.train_steps]
        if not losses:
            continue
        mean = float(np.mean(losses))
        if not (math.isfinite(mean) and math.isfinite(one.value)):
            raise NotEvaluatedError(f"a loss is not finite before training step {one.train_steps}")
        ratio = (one.value - mean) / mean if mean else math.copysign(math.inf, one.value - mean)
        gaps.append((one, mean, ratio))
    return gaps


@dataclass(frozen=True)
class Overtraining:
    """Fires when the training loss has no new optimum for `patience_train` steps, or the validation
    loss for `patience_validation` steps; an optimum is new when it is at least `delta` lower.

    Readings: either condition is enough; a step is one that the rule sees, i.e. a saved TRAIN step or
    an evaluation pass. With losses saved per batch the training condition fires on the noise between
    batches of nearly every healthy run, so the detail says which condition fired, and when the
    validation loss last improved.
    """

    patience_train: int = 5
    patience_validation: int = 10
    delta: float = 0.01

    def check(self, tensors: SavedTensors) -> Finding:
        findings, missing = [], []
        for kind, mode, patience in (
            ("validation", "EVAL", self.patience_validation),
            ("training", "TRAIN", self.patience_train),
        ):
            try:
                findings.append(self._part(tensors, kind, "EVAL" if mode == "EVAL" else "TRAIN", patience))
            except NotEvaluatedError as error:
                missing.append(str(error))
        if not findings:
            raise NotEvaluatedError("; ".join([*missing, _SAVE_LOSSES]))
        chosen = next((finding for finding in findings if finding.issue), findings[0])
        others = [finding.detail for finding in findings if finding is not chosen]
        detail = (
            "; ".join([chosen.detail, *others, *(f"not evaluated: {reason}" for reason in missing)]) + "."
        )
        if chosen.issue:
            detail += " Fewer epochs may do; the saved weights are those of the best epoch."
        return Finding(chosen.issue, detail, chosen.step, chosen.tensor, chosen.value, chosen.threshold)

    def _part(self, tensors: SavedTensors, kind: str, mode: Mode, patience: int) -> Finding:
        name, points = next(iter(tensors.losses(mode).items()), ("", []))
        series: Series = evaluation_passes(points) if mode == "EVAL" else points
        unit = "evaluation passes" if mode == "EVAL" else "saved steps"
        if len(series) <= patience:
            raise NotEvaluatedError(f"{kind} loss has {len(series)} {unit}, patience is {patience}")
        if not all(math.isfinite(point.value) for point in series):
            raise NotEvaluatedError(f"{kind} loss is not finite")
        best, best_step, waited, fired, longest = series[0].value, series[0].step, 0, None, 0
        for point in series[1:]:
            if best - point.value >= self.delta:
                best, best_step, waited = point.value, point.step, 0
            else:
                waited += 1
            longest = max(longest, waited)
            if fired is None and waited >= patience:
                fired = (point.step, waited)
        detail = (
            f"the {kind} loss did not improve by {self.delta:g} for {longest} {unit} in a row, "
            f"patience {patience} (last optimum {best:.4g} at {mode} step {best_step})"
        )
        step = fired[0] if fired else series[-1].step
        return Finding(fired is not None, detail, step, name, float(longest), float(patience))
