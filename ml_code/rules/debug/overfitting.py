"""Rules over the training loss and the validation loss: Overfit, Overtraining.

Definitions: AWS, "List of Debugger built-in rules". Their implementation is closed; each docstring states how the
text is read here. The validation loss of a pass is the mean of its saved EVAL batches, the training loss that belongs
to it the mean of the TRAIN losses saved since the pass before: what one would plot per epoch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rules.debug.losses import SAVE_LOSSES
from rules.debug.saved_tensors import EvaluationPass, Point, SavedTensors, evaluation_passes
from rules.debug.short_runs import cut
from rules.verdict import Finding, NotEvaluatedError, Plot, Series


@dataclass(frozen=True)
class Overfit:
    """Fires when (validation loss - training loss) / training loss > `ratio_threshold` for `patience`
    checks in a row.

    Readings: one check per evaluation pass, of its mean validation loss against the mean training loss since the
    pass before; `start_step` is the number of training steps before the first pass that counts. Near zero loss the
    ratio is large however small the gap, so a model that fits its training data perfectly fires at AWS's default
    0.1, and nothing in the definition speaks against it.
    """

    tensor_regex: str | None = None
    start_step: int = 0
    patience: int = 1
    ratio_threshold: float = 0.1

    def check(self, tensors: SavedTensors) -> Finding:
        names = None if self.tensor_regex is None else tensors.select(None, self.tensor_regex)
        train, evaluation = tensors.losses("TRAIN", names), tensors.losses("EVAL", names)
        name = next((name for name in train if name in evaluation), None)
        if name is None:
            found = [mode for mode, losses in (("TRAIN", train), ("EVAL", evaluation)) if losses]
            raise NotEvaluatedError(
                f"losses of both modes are needed, found {' and '.join(found) or 'none'}; {SAVE_LOSSES}"
            )
        passes = [
            (one, mean)
            for one, mean in epochs(train[name], evaluation_passes(evaluation[name]))
            if one.train_steps >= self.start_step
        ]
        if not passes:
            raise NotEvaluatedError(
                f"no training loss was saved between evaluation passes after step {self.start_step}; "
                "lower the losses' train.save_interval"
            )
        ratios = [(one, mean, _ratio(one, mean)) for one, mean in passes]
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
        advice = ""
        if fired is None:
            detail = (
                f"at the widest, {gap}; above {self.ratio_threshold:+.0%} it fires, with patience {self.patience} "
                f"(longest stretch above: {longest})."
            )
        else:
            above = sum(ratio[2] > self.ratio_threshold for ratio in ratios)
            detail = f"{gap}, above {self.ratio_threshold:+.0%} ({above} of {len(ratios)} passes are)."
            advice = (
                "Take more data, augmentation, weight decay or fewer epochs; "
                "the saved weights are those of the best epoch."
            )
        return Finding(
            fired is not None, detail, at.step, name, value, self.ratio_threshold, advice, _plot(passes)
        )


@dataclass(frozen=True)
class Overtraining:
    """Fires when the training loss has no new optimum for `patience_train` steps, or the validation
    loss for `patience_validation` steps; an optimum is new when it is at least `delta` lower.

    Readings: either condition is enough. A step is an evaluation pass, for both losses, so that the noise between
    single batches is no lack of progress; a run without EVAL losses is judged by its saved TRAIN steps. A loss whose
    optimum is below `delta` can have no new one: there a step counts as waiting only when the loss has risen by
    `delta`. A patience that is AWS's default is cut where the run has too few passes for it.
    """

    patience_train: int = 5
    patience_validation: int = 10
    delta: float = 0.01

    def check(self, tensors: SavedTensors) -> Finding:
        train, evaluation = tensors.losses("TRAIN"), tensors.losses("EVAL")
        name = next(iter(evaluation or train), None)
        if name is None:
            raise NotEvaluatedError(f"no loss was saved; {SAVE_LOSSES}")
        passes = evaluation_passes(evaluation.get(name, []))
        steps = [(one.step, one.value) for one in train.get(name, [])]
        if passes:
            steps = [(one.train_steps, mean) for one, mean in epochs(train.get(name, []), passes)]
        findings, missing = [], []
        for kind, mode, points, unit in (
            ("validation", "EVAL", [(one.step, one.value) for one in passes], "evaluation passes"),
            ("training", "TRAIN", steps, "evaluation passes" if passes else "saved steps"),
        ):
            try:
                findings.append(self._part(name, kind, mode, points, unit))
            except NotEvaluatedError as error:
                missing.append(str(error))
        if not findings:
            raise NotEvaluatedError("; ".join(missing))
        chosen = next((finding for finding in findings if finding.issue), findings[0])
        others = [finding.detail for finding in findings if finding is not chosen]
        notes = [f"not evaluated: {reason}" for reason in missing]
        lines = [Series.of("training loss", steps)]
        if passes:
            lines.append(Series.of("validation loss", [(one.train_steps, one.value) for one in passes]))
        return Finding(
            chosen.issue,
            "; ".join([chosen.detail, *others, *notes]) + ".",
            chosen.step,
            chosen.tensor,
            chosen.value,
            chosen.threshold,
            "Fewer epochs may do; the saved weights are those of the best epoch." if chosen.issue else "",
            Plot("training step", "loss", tuple(lines)),
        )

    def _part(
        self, name: str, kind: str, mode: str, series: Sequence[tuple[int, float]], unit: str
    ) -> Finding:
        parameter, given, default = (
            ("patience_validation", self.patience_validation, 10)
            if kind == "validation"
            else ("patience_train", self.patience_train, 5)
        )
        if not series:
            raise NotEvaluatedError(f"no {kind} loss was saved; {SAVE_LOSSES}")
        if not all(math.isfinite(value) for _, value in series):
            raise NotEvaluatedError(f"{kind} loss is not finite")
        patience, note = cut(
            parameter, given, default=default, needs=given + 1, points=len(series), unit=unit
        )
        best_step, best = series[0]
        waited, longest, fired = 0, 0, None
        for step, value in series[1:]:
            if best - value >= self.delta:
                best, best_step, waited = value, step, 0
            elif best >= self.delta or value - best >= self.delta:
                waited += 1
            else:
                waited = 0
            longest = max(longest, waited)
            if fired is None and waited >= patience:
                fired = step
        detail = (
            f"the {kind} loss did not improve by {self.delta:g} for {longest} {unit} in a row, "
            f"patience {patience} (last optimum {best:.4g} at {mode} step {best_step})"
        )
        if note:
            detail += f" ({note})"
        step = series[-1][0] if fired is None else fired
        return Finding(fired is not None, detail, step, name, float(longest), float(patience))


def epochs(train: Sequence[Point], passes: Sequence[EvaluationPass]) -> list[tuple[EvaluationPass, float]]:
    """(pass, mean training loss since the pass before) for each pass with training losses."""
    means = []
    for start, one in zip(itertools.chain([0], (p.train_steps for p in passes)), passes, strict=False):
        losses = [point.value for point in train if start <= point.step < one.train_steps]
        if losses:
            means.append((one, float(np.mean(losses))))
    return means


def _ratio(one: EvaluationPass, train_loss: float) -> float:
    if not (math.isfinite(train_loss) and math.isfinite(one.value)):
        raise NotEvaluatedError(f"a loss is not finite before training step {one.train_steps}")
    gap = one.value - train_loss
    return gap / train_loss if train_loss else math.copysign(math.inf, gap)


def _plot(passes: Sequence[tuple[EvaluationPass, float]]) -> Plot:
    return Plot(
        "training step",
        "loss",
        (
            Series.of("validation loss", [(one.train_steps, one.value) for one, _ in passes]),
            Series.of("training loss", [(one.train_steps, mean) for one, mean in passes]),
        ),
    )
