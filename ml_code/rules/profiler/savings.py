"""What to change, ranked by the seconds that it may save.

Estimates are from the step timeline and the system metrics of the one job, by the formula that each states; they
do not overlap. A bound says what a change could save at most, which may be far from what it will.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from rules.profiler.finding import ProfilerFinding
from rules.profiler.profile import Profile
from rules.profiler.steps import (
    EARLIER_START,
    FASTER_LOADING,
    STEADIER_STEPS,
    StepOutlier,
    initialization_seconds,
)
from rules.verdict import NotEvaluatedError

# A loader that keeps up hands a batch over in a few percent of the time that the step computes.
_WAIT_FLOOR = 0.05
# Seconds, and share of the job; what saves less than the larger of the two is not worth a line.
_SECONDS, _SHARE = 0.5, 0.01


@dataclass(frozen=True)
class Change:
    """One thing to change; `seconds` is None where it cannot be estimated, and `how` says how or why not."""

    title: str
    advice: str
    how: str
    seconds: float | None
    rule: str
    bound: bool = False


def changes(profile: Profile, findings: Mapping[str, ProfilerFinding | None]) -> list[Change]:
    """Estimates by seconds saved, the largest first, then bounds, then the issues whose seconds nothing tells."""
    begin, end = profile.span()
    least = max(_SECONDS, _SHARE * (end - begin))
    estimated = [
        change for estimate in _ESTIMATES if (change := estimate(profile)) and (change.seconds or 0) >= least
    ]
    estimated.sort(key=lambda change: (change.bound, -(change.seconds or 0.0)))
    covered = {rule for change in estimated for rule in _COVERS[change.rule]}
    others = [
        Change(
            finding.detail,
            finding.recommendation,
            _UNKNOWN.get(rule, "Not estimated: neither the timeline nor the metrics say what it costs."),
            None,
            rule,
        )
        for rule, finding in findings.items()
        if finding and finding.issue and rule not in covered
    ]
    return estimated + others


# Rules whose issue an estimate already speaks of.
_COVERS = {
    "Dataloader": ("Dataloader", "IOBottleneck", "CPUBottleneck"),
    "MaxInitializationTime": ("MaxInitializationTime",),
    "StepOutlier": ("StepOutlier",),
    "LowGPUUtilization": ("LowGPUUtilization", "BatchSize"),
}
_UNKNOWN = {
    "MemoryLeak": "Not estimated: it costs nothing until memory is full, and then the job.",
    "GPUMemoryIncrease": "Not estimated: it costs nothing until memory is full, and then the job.",
    "LoadBalancing": "Not estimated: how much faster even shares would be, use alone does not say.",
}


def _data_wait(profile: Profile) -> Change | None:
    seconds = profile.timeline.phase_seconds()
    wait = seconds.pop("data_wait", 0.0)
    computing = sum(seconds.values())
    if not computing:
        return None
    return Change(
        "Let training wait less for data",
        FASTER_LOADING,
        f"{wait:.1f} s of waiting less {_WAIT_FLOOR:.0%} of the {computing:.1f} s in which training steps computed.",
        max(wait - _WAIT_FLOOR * computing, 0.0),
        "Dataloader",
    )


def _initialization(profile: Profile) -> Change | None:
    try:
        seconds = initialization_seconds(profile)
    except NotEvaluatedError:
        return None
    return Change(
        "Start the first step earlier",
        EARLIER_START,
        "All of the time before the first step; how much of it can go, the timeline does not say.",
        seconds,
        "MaxInitializationTime",
        bound=True,
    )


def _outliers(profile: Profile) -> Change | None:
    excess, count = 0.0, 0
    for node in profile.timeline.nodes():
        steps = profile.timeline.steps(node, "TRAIN")
        waits = {event.step: event.seconds for event in profile.timeline.named("data_wait", node, "TRAIN")}
        computing = steps.seconds - np.array([waits.get(int(number), 0.0) for number in steps.numbers])
        if not len(computing):
            continue
        late = computing > computing.mean() + StepOutlier.stddev * computing.std()
        excess += float(((computing - np.median(computing)) * steps.stands_for)[late].sum())
        count += int(steps.stands_for[late].sum())
    return Change(
        "Find what holds single steps up",
        STEADIER_STEPS,
        f"What {count} steps beyond three standard deviations took more than the median, data wait left out.",
        excess,
        "StepOutlier",
    )


def _idle_gpus(profile: Profile) -> Change | None:
    try:
        gpus = profile.gpus()
    except NotEvaluatedError:
        return None
    idle = 0.0
    for node, columns in gpus.items():
        times, busy = profile.training[node].times, np.nanmax(list(columns.values()), axis=0)
        if len(times) > 1:
            idle = max(idle, float((1 - np.nanmean(busy) / 100) * (times[-1] - times[0])))
    wait = profile.timeline.phase_seconds().get("data_wait", 0.0)
    return Change(
        "Use the GPU more, or a smaller one",
        "Larger batches with a larger learning rate, mixed precision, more loader workers; or a cheaper instance.",
        "The training's time times one less the mean use of the busiest GPU, less what was waiting for data.",
        max(idle - wait, 0.0),
        "LowGPUUtilization",
        bound=True,
    )


_ESTIMATES: tuple[Callable[[Profile], Change | None], ...] = (
    _data_wait,
    _initialization,
    _outliers,
    _idle_gpus,
)
