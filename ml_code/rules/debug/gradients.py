"""Rules over gradients and activations: VanishingGradient, PoorWeightInitialization.

Definitions: AWS, "List of Debugger built-in rules". Their implementation is closed; each docstring
states how the text is read here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rules.debug.saved_tensors import SavedTensors
from rules.verdict import Finding, NotEvaluatedError

_SAVE_GRADIENTS = "add the `gradients` collection to the debugger hook"


@dataclass(frozen=True)
class VanishingGradient:
    """Fires when mean(|gradient|) < `threshold`.

    Reading: per gradient tensor and per saved TRAIN step, not over the whole network, since one
    dead layer stops learning however lively the others are. The first occurrence is reported with
    the smallest value of its step. Gradients that are not finite leave the rule unevaluated.
    """

    threshold: float = 1e-7

    def check(self, tensors: SavedTensors) -> Finding:
        means = [
            (step, float(np.abs(gradient).mean()), name)
            for name in tensors.gradients()
            for step, gradient in tensors.values(name, "TRAIN")
        ]
        if not means:
            raise NotEvaluatedError(f"no gradient was saved in TRAIN mode; {_SAVE_GRADIENTS}")
        for step, mean, name in means:
            if not np.isfinite(mean):
                raise NotEvaluatedError(f"{name} is not finite at step {step}; lower the learning rate")
        vanished = [item for item in means if item[1] < self.threshold]
        first = min(vanished, default=None)
        step, value, name = first or min(means, key=lambda item: item[1])
        summary = f"the smallest mean |gradient| is {value:.3g}, in {name} at step {step}"
        if first is None:
            detail = f"{summary}; the threshold is {self.threshold:g}."
        else:
            detail = (
                f"mean |gradient| fell below {self.threshold:g} in {len(vanished)} of {len(means)} saved "
                f"gradients, first in {name} at step {step} ({value:.3g}). That layer no longer learns: "
                "train for fewer epochs if the loss had converged, otherwise raise the learning rate or "
                "look for a layer that is cut off."
            )
        return Finding(first is not None, detail, step, name, value, self.threshold)


@dataclass(frozen=True)
class PoorWeightInitialization:
    """Fires when, among the first `steps` training steps, any of three conditions holds.

    1. Activation inputs (names matching `activation_inputs_regex`): at one step, the largest
       per-layer variance over the smallest is > `threshold`. AWS writes "ratio between minimum and
       maximum", which could never exceed 10, so max/min is meant.
    2. Gradients: at one step, the smallest p95 - p5 over the gradient tensors is < `distribution_range`.
    3. The TRAIN loss sets no new minimum for `patience` saved steps in a row.

    Readings: `steps` counts training iterations, so it means the same whatever the save interval;
    layers whose parameters are frozen do not count (their weights were not initialised by this job),
    and a layer is known as trainable by a gradient tensor of the same block. A condition whose
    tensors were not saved is named in the detail; the rule is NotEvaluated when all three lack theirs.
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
        if chosen.issue:
            detail += (
                " Check how the trainable layers are initialised and the learning rate of the first steps."
            )
        return Finding(chosen.issue, detail, chosen.step, chosen.tensor, chosen.value, chosen.threshold)

    def _activations(self, tensors: SavedTensors) -> Finding:
        trainable = {_gradient_block(name) for name in tensors.gradients()}
        variances: dict[int, dict[str, float]] = {}
        for name in tensors.names(regex=self.activation_inputs_regex):
            if _activation_block(name) in trainable:
                for step, value in tensors.values(name, "TRAIN", before=self.steps):
                    variances.setdefault(step, {})[name] = float(value.var())
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
        return Finding(ratio > self.threshold, detail, step, name, ratio, self.threshold)

    def _gradients(self, tensors: SavedTensors) -> Finding:
        spreads = [
            (float(np.subtract(*np.percentile(gradient, [95, 5]))), step, name)
            for name in tensors.gradients()
            for step, gradient in tensors.values(name, "TRAIN", before=self.steps)
        ]
        if not spreads:
            raise NotEvaluatedError(
                f"no gradient was saved in the first {self.steps} training steps; {_SAVE_GRADIENTS}"
            )
        spread, step, name = min(spreads)
        detail = (
            f"the narrowest gradient spans {spread:.3g} from p5 to p95 ({name}, step {step}), "
            f"threshold {self.distribution_range:g}"
        )
        return Finding(
            not spread >= self.distribution_range, detail, step, name, spread, self.distribution_range
        )

    def _loss(self, tensors: SavedTensors) -> Finding:
        losses = tensors.losses("TRAIN")
        early = {name: [p for p in points if p.step < self.steps] for name, points in losses.items()}
        name, points = max(early.items(), key=lambda item: len(item[1]), default=("", []))
        if len(points) <= self.patience:
            raise NotEvaluatedError(
                f"{len(points)} training losses were saved in the first {self.steps} steps and patience is "
                f"{self.patience}; save the `losses` collection at train.save_interval 1"
            )
        best, waited, longest = points[0].value, 0, (0, points[0].step)
        for point in points[1:]:
            waited = 0 if point.value < best else waited + 1
            best = min(best, point.value)
            longest = max(longest, (waited, point.step), key=lambda item: item[0])
        detail = (
            f"the training loss went {longest[0]} saved steps without a new minimum (until step "
            f"{longest[1]}), patience {self.patience}"
        )
        return Finding(
            longest[0] >= self.patience, detail, longest[1], name, float(longest[0]), float(self.patience)
        )


def _gradient_block(name: str) -> str:
    """The module path around a layer: `gradient/ResNet_layer4.0.conv1.weight` gives `layer4.0`."""
    path = name.removeprefix("gradient/").partition("_")[2]  # smdebug puts the model's class name first
    return ".".join(path.split(".")[:-2])


def _activation_block(name: str) -> str:
    """The module path around an activation: `layer4.0.relu_input_0` gives `layer4.0`."""
    return name.rpartition(".")[0]
