"""A rule over gradients: VanishingGradient.

Definition: AWS, "List of Debugger built-in rules". Its implementation is closed; the docstring states how the text
is read here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rules.debug.plots import by_step
from rules.debug.saved_tensors import SavedTensors
from rules.verdict import Finding, NotEvaluatedError

SAVE_GRADIENTS = "add the `gradients` collection to the debugger hook"


@dataclass(frozen=True)
class VanishingGradient:
    """Fires when mean(|gradient|) < `threshold`.

    Reading: per gradient tensor and per saved TRAIN step, not over the whole network, since one
    dead layer stops learning however lively the others are. The first occurrence is reported with
    the smallest value of its step. Gradients that are not finite leave the rule unevaluated. The
    reduction abs_mean is enough.
    """

    threshold: float = 1e-7

    def check(self, tensors: SavedTensors) -> Finding:
        by_name = {name: list(tensors.statistic(name, "TRAIN", "abs_mean")) for name in tensors.gradients()}
        means = [(step, mean, name) for name, points in by_name.items() for step, mean in points]
        if not means:
            raise NotEvaluatedError(f"no gradient was saved in TRAIN mode; {SAVE_GRADIENTS}")
        for step, mean, name in means:
            if not np.isfinite(mean):
                raise NotEvaluatedError(f"{name} is not finite at step {step}; lower the learning rate")
        vanished = [item for item in means if item[1] < self.threshold]
        first = min(vanished, default=None)
        step, value, name = first or min(means, key=lambda item: item[1])
        if first is None:
            detail = (
                f"the smallest mean |gradient| is {value:.3g}, in {name} at step {step}; the threshold is "
                f"{self.threshold:g}."
            )
            advice = ""
        else:
            detail = (
                f"mean |gradient| fell below {self.threshold:g} in {len(vanished)} of {len(means)} saved "
                f"gradients, first in {name} at step {step} ({value:.3g}). That layer no longer learns."
            )
            advice = (
                "Train for fewer epochs if the loss had converged; otherwise raise the learning rate, or look for "
                "a layer that is cut off."
            )
        plot = by_step(
            "mean |gradient|",
            by_name,
            worst=[
                name,
                *sorted((n for n in by_name if by_name[n]), key=lambda n: min(m for _, m in by_name[n])),
            ],
            threshold=self.threshold,
        )
        return Finding(first is not None, detail, step, name, value, self.threshold, advice, plot)
