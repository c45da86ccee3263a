"""A rule over time: StalledTrainingRule.

Definition: AWS, "List of Debugger built-in rules". Its implementation is closed; the docstring states how the text
is read here.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import ClassVar

from rules.debug.saved_tensors import SavedTensors
from rules.verdict import Finding, NotEvaluatedError, Plot, Series


@dataclass(frozen=True)
class StalledTrainingRule:
    """Fires when no new tensor comes for more than `threshold` seconds.

    Readings: tensors come when smdebug closes an event file, and its modification time is the witness: files copied
    without their times cannot tell. The longest time between two files counts, so a stall that ended does too, and
    while the job runs the time from the last file to now. Reported is the last step before the first stall.
    `stop_training_on_fire` and `training_job_name_prefix` are for the rule job that acts on a verdict.
    """

    unit: ClassVar[str] = "s"
    threshold: float = 1800.0
    stop_training_on_fire: bool = False
    training_job_name_prefix: str | None = None

    def check(self, tensors: SavedTensors) -> Finding:
        times = tensors.save_times()
        ends = list(times)
        if not tensors.has_ended():
            ends.append((times[-1][0], time.time()))
        if len(ends) < 2:
            raise NotEvaluatedError("too short: one step was saved, and time passes between two")
        gaps = [(after - before, step) for (step, before), (_, after) in itertools.pairwise(ends)]
        longest, step = next((gap for gap in gaps if gap[0] > self.threshold), max(gaps))
        issue = longest > self.threshold
        running = not tensors.has_ended() and (longest, step) == gaps[-1]
        detail = (
            f"no tensor came for {longest:.0f} s after step {step} (counted over all modes)"
            f"{', and the job has not ended' if running else ''}; the threshold is {self.threshold:g} s."
        )
        advice = (
            "See the job's log and its system metrics at that time: data loading, a full disk, a lost worker."
        )
        plot = Plot(
            "step of all modes",
            "seconds until the next tensor",
            (Series.of("seconds", [(at, gap) for gap, at in gaps]),),
            self.threshold,
        )
        return Finding(issue, detail, step, None, longest, self.threshold, advice if issue else "", plot)
