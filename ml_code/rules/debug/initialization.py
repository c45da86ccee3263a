"""A rule over the first steps: PoorWeightInitialization.

Definition: AWS, "List of Debugger built-in rules". Its implementation is closed; the docstring states how the text
is read here.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from rules.debug.gradients import SAVE_GRADIENTS
from rules.debug.plots import by_step
from rules.debug.saved_tensors import SavedTensors
from rules.debug.short_runs import cut
from rules.verdict import Finding, NotEvaluatedError

_ADVICE = (
    "Check how the trainable layers are initialised (kaiming_normal_ in front of a ReLU, xavier_normal_ in front of "
    "tanh or sigmoid) and the learning rate of the first steps."
)


@dataclass(frozen=True)
class PoorWeightInitialization:
    """Fires when, among the first `steps` training steps, any of three conditions holds.

    1. Activation inputs (names matching `activation_inputs_regex`): at one step, the largest
       per-layer variance over the smallest is > `threshold`. AWS writes "ratio between minimum and
       maximum", which could never exceed 10, so max/min is meant.
    2. Gradients: at one step, the smallest p95 - p5 over the gradient tensors is < `distribution_range`.
    3. The TRAIN loss has set no new minimum for `patience` saved steps, up to the last of the `steps`: one that
       overshoots at first and then falls is decreasing.

    Readings: `steps` counts training iterations, so it means the same whatever the save interval;
    layers whose parameters are frozen do not count (their weights were not initialised by this job),
    and a layer is known as trainable by a gradient tensor of the same block (all count where no gradient
    was saved). A condition whose tensors were not saved is named in the detail; the rule is NotEvaluated
    when all three lack theirs.
    A `patience` of 5 is cut where fewer losses were saved. The reduction variance is enough for 1.
    """

    activation_inputs_regex: str = ".*relu_input"
    threshold: float = 10.0
    distribution_range: float = 0.001
    patience: int = 5
    steps: int = 10

    def check(self, tensors: SavedTensors) -> Finding:
        findings, missing = [], []
        for part in (self._activations, self._gradients, self._loss):
            try:
                findings.append(part(tensors))
            except NotEvaluatedError as error:
                missing.append(str(error))
        if not findings:
            raise NotEvaluatedError("; ".join(missing))
        chosen = next((finding for finding in findings if finding.issue), findings[0])
        others = [finding.detail for finding in findings if finding is not chosen]
        notes = [f"not evaluated: {reason}" for reason in missing]
        detail = "; ".join([chosen.detail, *others, *notes]) + "."
        return dataclasses.replace(chosen, detail=detail, recommendation=_ADVICE if chosen.issue else "")

    def _activations(self, tensors: SavedTensors) -> Finding:
        trainable = {_gradient_block(name) for name in tensors.gradients()}
        variances: dict[int, dict[str, float]] = {}
        for name in tensors.names(regex=self.activation_inputs_regex):
            if not trainable or _activation_block(name) in trainable:
                for step, variance in tensors.statistic(name, "TRAIN", "variance", before=self.steps):
                    variances.setdefault(step, {})[name] = variance
        ratios = [
            (max(layers.values()) / max(min(layers.values()), np.finfo(float).tiny), step, layers)
            for step, layers in variances.items()
            if len(layers) > 1
        ]
        if not ratios:
            raise NotEvaluatedError(
                f"fewer than two trainable layers have activation inputs matching "
                f"{self.activation_inputs_regex!r} in the first {self.steps} steps "
                "(the `relu_input` collection saves them, where the trained layers have any)"
            )
        ratio, step, layers = max(ratios, key=lambda item: item[0])
        name = min(layers, key=lambda layer: layers[layer])
        detail = (
            f"activation variances differ by a factor of at most {ratio:.3g} between layers (step {step}), "
            f"threshold {self.threshold:g}"
        )
        by_name: dict[str, list[tuple[float, float]]] = {}
        for at in sorted(variances):
            for layer, variance in variances[at].items():
                by_name.setdefault(layer, []).append((at, variance))
        worst = sorted(layers, key=lambda layer: layers[layer])
        plot = by_step("variance of the activation's inputs", by_name, worst=[name, *reversed(worst)])
        return Finding(ratio > self.threshold, detail, step, name, ratio, self.threshold, plot=plot)

    def _gradients(self, tensors: SavedTensors) -> Finding:
        by_name = {
            name: [
                (step, float(np.subtract(*np.percentile(gradient, [95, 5]))))
                for step, gradient in tensors.values(name, "TRAIN", before=self.steps)
            ]
            for name in tensors.gradients()
        }
        spreads = [(spread, step, name) for name, points in by_name.items() for step, spread in points]
        if not spreads:
            raise NotEvaluatedError(
                f"no gradient was saved in the first {self.steps} training steps; {SAVE_GRADIENTS}"
            )
        spread, step, name = min(spreads)
        detail = (
            f"the narrowest gradient spans {spread:.3g} from p5 to p95 ({name}, step {step}), "
            f"threshold {self.distribution_range:g}"
        )
        plot = by_step(
            "p95 - p5 of the gradient", by_name, worst=[one for *_, one in sorted(spreads)],
            threshold=self.distribution_range,
        )  # fmt: skip
        issue = not spread >= self.distribution_range
        return Finding(issue, detail, step, name, spread, self.distribution_range, plot=plot)

    def _loss(self, tensors: SavedTensors) -> Finding:
        losses = tensors.losses("TRAIN")
        early = {name: [p for p in points if p.step < self.steps] for name, points in losses.items()}
        name, points = max(early.items(), key=lambda item: len(item[1]), default=("", []))
        try:
            patience, note = cut(
                "patience", self.patience, default=5, needs=self.patience + 1, points=len(points),
                unit=f"training losses in the first {self.steps} steps",
            )  # fmt: skip
        except NotEvaluatedError as error:
            raise NotEvaluatedError(
                f"{error}; save the `losses` collection at train.save_interval 1"
            ) from None
        lowest = min(points, key=lambda point: point.value)
        waited = sum(point.step > lowest.step for point in points)
        last = points[-1].step
        detail = (
            f"the training loss has set no new minimum for {waited} saved steps by step {last}, patience "
            f"{patience}"
        )
        if note:
            detail += f" ({note})"
        plot = by_step("training loss", {name: [(p.step, p.value) for p in points]}, worst=[name])
        return Finding(waited >= patience, detail, last, name, float(waited), float(patience), plot=plot)


def _gradient_block(name: str) -> str:
    """The module path around a layer: `gradient/ResNet_layer4.0.conv1.weight` gives `layer4.0`."""
    path = name.removeprefix("gradient/").partition("_")[2]  # smdebug puts the model's class name first
    return ".".join(path.split(".")[:-2])


def _activation_block(name: str) -> str:
    """The module path around an activation: `layer4.0.relu_input_0` gives `layer4.0`."""
    return name.rpartition(".")[0]
