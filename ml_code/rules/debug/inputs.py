"""A rule over the network's input: CheckInputImages.

Definition: AWS, "List of Debugger built-in rules". Its implementation is closed; the docstring states how the text
is read here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rules.debug.saved_tensors import SavedTensors
from rules.debug.short_runs import cut
from rules.verdict import Finding, NotEvaluatedError, Plot, Series

_MXNET = ".*hybridsequential0_input_0"


@dataclass(frozen=True)
class CheckInputImages:
    """Fires when the mean of the input images differs from zero by more than `threshold_mean`.

    Readings: the mean of each index along the dimension `channel`, over all images from the start of training,
    judged at every TRAIN step once there are `threshold_samples` of them; one channel above is enough.
    AWS's default `regex` is a name of MXNet's; where nothing matches it, the collection `input_image` is taken, as
    AWS's configuration of the rule names it. A `threshold_samples` of 500 is cut where there are fewer images.
    """

    threshold_mean: float = 0.2
    threshold_samples: int = 500
    regex: str = _MXNET
    channel: int = 1

    def check(self, tensors: SavedTensors) -> Finding:
        names = tensors.names(regex=self.regex)
        if not names and self.regex == _MXNET:
            names = tensors.names(collection="input_image")
        name = next((one for one in names if tensors.modes_of(one)[:1] == ["TRAIN"]), None)
        if name is None:
            raise NotEvaluatedError(
                f"no input matching {self.regex!r} or of the collection `input_image` was saved in TRAIN mode; add "
                "the collection `input_image` to the debugger hook, with the include_regex NETWORK_input_0 where "
                "NETWORK is the class of the network"
            )
        sums: list[np.ndarray[tuple[int], np.dtype[np.floating]]] = []
        steps, images, values = [], [], []
        for step, batch in tensors.values(name, "TRAIN"):
            if batch.ndim <= self.channel:
                raise NotEvaluatedError(
                    f"{name} has shape {batch.shape} and no dimension {self.channel} for channels"
                )
            channels = np.moveaxis(batch, self.channel, 0).reshape(batch.shape[self.channel], -1)
            steps.append(step)
            images.append(len(batch))
            values.append(channels.shape[1])
            sums.append(channels.sum(axis=1))
        means = np.cumsum(sums, axis=0) / np.cumsum(values)[:, None]
        seen = np.cumsum(images)
        samples, note = cut(
            "threshold_samples", self.threshold_samples, default=500, needs=self.threshold_samples,
            points=int(seen[-1]), least=50, unit="images",
        )  # fmt: skip
        judged = [place for place in range(len(steps)) if seen[place] >= samples]
        worst = np.abs(means).max(axis=1)
        issue = any(worst[place] > self.threshold_mean for place in judged)
        at = next((place for place in judged if worst[place] > self.threshold_mean), judged[-1])
        channel = int(np.abs(means[at]).argmax())
        detail = (
            f"the mean of channel {channel} of {name} is {means[at][channel]:.3g} over the first {seen[at]} images "
            f"(step {steps[at]}); within {self.threshold_mean:g} of zero is asked for."
        )
        if note:
            detail += f" ({note}.)"
        advice = (
            "Normalise the images with the mean and standard deviation of the training set (or of ImageNet for "
            "pretrained weights), in training and in serving."
        )
        return Finding(
            issue, detail, steps[at], name, float(worst[at]), self.threshold_mean, advice if issue else "",
            _plot(steps, means, self.threshold_mean),
        )  # fmt: skip


def _plot(
    steps: Sequence[int], means: np.ndarray[tuple[int, int], np.dtype[np.floating]], threshold: float
) -> Plot:
    lines = [
        Series.of(f"channel {channel}", zip(steps, means[:, channel].tolist(), strict=True))
        for channel in range(min(means.shape[1], 4))
    ]
    return Plot("training step", "mean of all images so far", tuple(lines), threshold)
