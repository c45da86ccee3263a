"""Rules over the step timeline: StepOutlier, MaxInitializationTime, Dataloader.

Definitions: AWS, "List of Debugger built-in profiler rules", defaults those of smdebug_rulesconfig 1.0.1 where it has
the rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from rules.profiler.finding import MINIMUM, ProfilerFinding
from rules.profiler.profile import Profile
from rules.profiler.timeline import PHASES
from rules.verdict import NotEvaluatedError, Plot, Series

_CLOCK = "set profiler-interval-ms, or on AWS a framework profile (PyTorch below 2.0)"
FASTER_LOADING = (
    "More loader workers with persistent_workers and a larger prefetch_factor, pin_memory on a GPU; or prepare less "
    "per step: cache features or decoded images."
)
EARLIER_START = (
    "Stream the data instead of downloading it (FastFile), read fewer and larger files, cache what is computed before "
    "the first step, import less."
)
STEADIER_STEPS = (
    "Look at what those steps share: the start of an epoch (persistent_workers), checkpoints, logging, a slow file, "
    "another process on the machine."
)
_OUTLIERS_PER_STEP = 0.03
_OUTLIER_STEPS = 100
"""A standard deviation of fewer is no measure of what is usual."""


@dataclass(frozen=True)
class StepOutlier:
    """Fires when more than `n_outliers` steps take longer than mean + `stddev` standard deviations.

    Per node and mode (`mode`: TRAIN, EVAL or PREDICT; None for all), of more than 100 steps. The documentation's stddev
    is 5. Ours: where there are more than 333 steps, `n_outliers` at its default stands for 3 % of them. Durations have
    long tails, and where nothing is wrong 1 to 2 % of a busy machine's steps lie beyond three standard deviations;
    more than 10 % never can.
    """

    unit: ClassVar[str] = "steps"
    stddev: float = 3.0
    mode: str | None = None
    n_outliers: int = 10

    def check(self, profile: Profile) -> ProfilerFinding:
        events = [event for event in profile.timeline.named("step") if self.mode in {None, event.mode}]
        if not events:
            raise NotEvaluatedError(f"no step of {self.mode or 'any mode'} is in a timeline; {_CLOCK}")
        kinds = sorted({(event.node, str(event.mode)) for event in events})
        steps = {kind: profile.timeline.steps(*kind) for kind in kinds}
        enough = {kind: one for kind, one in steps.items() if len(one.seconds) > _OUTLIER_STEPS}
        if not enough:
            counts = ", ".join(
                f"{len(one.seconds)} of {mode} on {node}" for (node, mode), one in steps.items()
            )
            raise NotEvaluatedError(f"too short: {counts} steps, more than {_OUTLIER_STEPS} are needed")
        found, series, details = [], [], {}
        for (node, mode), one in enough.items():
            limit = float(one.seconds.mean() + self.stddev * one.seconds.std())
            outliers = one.seconds > limit
            allowed = self._allowed(len(outliers))
            found.append((int(outliers.sum()) - allowed, int(outliers.sum()), allowed, limit, node, mode))
            series.append(Series.of(f"{mode} on {node}", zip(one.numbers, 1000 * one.seconds, strict=True)))
            share, edges = np.histogram(one.seconds, bins=50)
            details[node if mode == "TRAIN" else f"{node} {mode}"] = {
                "step_stats": statistics(one.seconds),
                "number_of_outliers": int(outliers.sum()),
                "phase": f"Step:ModeKeys.{mode}",
                "stddev": self.stddev,
                "probs": (share / share.sum()).tolist(),
                "binedges": edges.tolist(),
                "step_numbers": one.numbers[outliers].astype(int).tolist(),
            }
        over, count, allowed, limit, node, mode = max(found)
        first = next(iter(details[node if mode == "TRAIN" else f"{node} {mode}"]["step_numbers"]), None)
        return ProfilerFinding(
            over > 0,
            f"{count} of {len(enough[node, mode].seconds)} {mode} steps on {node} took longer than "
            f"{1000 * limit:.3g} ms (mean + {self.stddev:g} standard deviations); {allowed} are allowed.",
            step=first,
            value=float(count),
            threshold=float(allowed),
            recommendation=STEADIER_STEPS if over > 0 else "",
            plot=Plot("step", "ms per step", tuple(series), 1000 * limit),
            triggered=sum(one[0] > 0 for one in found),
            violations=sum(one[1] for one in found),
            datapoints=sum(len(one.seconds) for one in enough.values()),
            details={"step_details": details},
        )

    def _allowed(self, steps: int) -> int:
        if self.n_outliers != StepOutlier.n_outliers:
            return self.n_outliers
        return max(self.n_outliers, int(_OUTLIERS_PER_STEP * steps))


def statistics(seconds: Any) -> dict[str, float]:
    """mean, max, p99, p95, p50 and min of [S] durations."""
    p50, p95, p99 = np.percentile(seconds, [50, 95, 99]).tolist()
    return {
        "mean": float(seconds.mean()),
        "max": float(seconds.max()),
        "p99": p99,
        "p95": p95,
        "p50": p50,
        "min": float(seconds.min()),
    }


@dataclass(frozen=True)
class MaxInitializationTime:
    """Fires when the first step begins later than `threshold` minutes after the job did.

    The begin is that of the timeline's `Initialization` event; without one, of the first thing recorded.
    """

    unit: ClassVar[str] = "min"
    threshold: float = 20.0

    def check(self, profile: Profile) -> ProfilerFinding:
        seconds = initialization_seconds(profile)
        minutes = seconds / 60
        issue = minutes > self.threshold
        return ProfilerFinding(
            issue,
            f"the first step began after {seconds:.1f} s, which is {minutes:.2g} minutes; the threshold is "
            f"{self.threshold:g} minutes.",
            value=minutes,
            threshold=self.threshold,
            recommendation=EARLIER_START if issue else "",
            triggered=int(issue),
            violations=int(issue),
            datapoints=len(profile.timeline.named("step")),
            details={"initialization_seconds": seconds},
        )


def initialization_seconds(profile: Profile) -> float:
    """From the job's begin to its first step; raises NotEvaluatedError without a step."""
    loop = profile.timeline.loop()
    if loop is None:
        raise NotEvaluatedError(f"no step is in a timeline; {_CLOCK}")
    recorded = profile.timeline.named("Initialization")
    begin = min((event.start for event in recorded), default=profile.span()[0])
    return loop[0] - begin


@dataclass(frozen=True)
class Dataloader:
    """Fires when data loading has the wrong number of workers, or when training waits for it.

    AWS's definition: `num_workers` below `min_threshold` or above `max_threshold` percent of the node's cores (defaults
    of the SDK's head; rulesconfig 1.0.1 lacks the rule). The files do not say how many workers there were, so that is
    looked at where `num_workers` is given. Ours, always: more than `data_wait_threshold` percent of the time of the
    TRAIN steps goes to waiting for the next batch.
    """

    unit: ClassVar[str] = "%"
    min_threshold: float = 70.0
    max_threshold: float = 200.0
    num_workers: int | None = None
    data_wait_threshold: float = 50.0

    def check(self, profile: Profile) -> ProfilerFinding:
        workers = self._workers(profile)
        waits = profile.timeline.named("data_wait", mode="TRAIN")
        seconds = profile.timeline.phase_seconds()
        if not waits or not sum(seconds.values()):
            if workers:
                return workers
            raise NotEvaluatedError(
                f"no data_wait of TRAIN steps is in a timeline; {_CLOCK}; AWS's own definition needs `num_workers`"
            )
        if len(waits) < MINIMUM and not workers:
            raise NotEvaluatedError(f"too short: {len(waits)} training steps, {MINIMUM} are needed")
        share = 100 * seconds.get("data_wait", 0.0) / sum(seconds.values())
        if workers and workers.issue and share <= self.data_wait_threshold:
            return workers
        issue = share > self.data_wait_threshold
        detail = (
            f"{share:.0f} % of the time of {len(waits)} training steps, {seconds.get('data_wait', 0.0):.1f} s, went to "
            f"waiting for data; the threshold is {self.data_wait_threshold:g} %"
        )
        points = [(i if one.step is None else one.step, 1000 * one.seconds) for i, one in enumerate(waits)]
        return ProfilerFinding(
            issue,
            f"{detail}{'; ' + workers.detail if workers else '.'}",
            value=share,
            threshold=self.data_wait_threshold,
            recommendation=FASTER_LOADING if issue else "",
            plot=Plot("step", "ms waiting for data", (Series.of("data wait", points),)),
            triggered=int(issue),
            violations=int(issue),
            datapoints=len(waits),
            details={"phase_seconds": {phase: seconds.get(phase, 0.0) for phase in PHASES}},
        )

    def _workers(self, profile: Profile) -> ProfilerFinding | None:
        if self.num_workers is None:
            return None
        cores = max(
            (len(node.measured("cpu", "CPUUtilization")) for node in profile.nodes.values()), default=0
        )
        if not cores:
            raise NotEvaluatedError(
                "`num_workers` is given, but no CPUUtilization to count the cores by was recorded"
            )
        share = 100 * self.num_workers / cores
        few, many = share < self.min_threshold, share > self.max_threshold
        return ProfilerFinding(
            few or many,
            f"{self.num_workers} loader workers are {share:.0f} % of {cores} cores; {self.min_threshold:g} to "
            f"{self.max_threshold:g} % are right.",
            value=share,
            threshold=self.max_threshold if many else self.min_threshold,
            recommendation=f"Take about {cores} loader workers, one a core." if few or many else "",
            triggered=int(few or many),
            violations=int(few or many),
            datapoints=1,
            details={"num_workers": self.num_workers, "cores": cores},
        )
