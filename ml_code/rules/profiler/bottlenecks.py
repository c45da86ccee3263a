"""Rules over what the GPU waits for: CPUBottleneck, IOBottleneck.

Definitions: AWS, "List of Debugger built-in profiler rules", defaults those of smdebug_rulesconfig 1.0.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from rules.profiler.finding import ProfilerFinding, fit_to_run, over_time, plot_over_time
from rules.profiler.profile import Profile
from rules.profiler.system_metrics import Array, NodeMetrics
from rules.verdict import NotEvaluatedError


@dataclass(frozen=True)
class CPUBottleneck:
    """Fires when in more than `threshold` percent of the snapshots a GPU is idle and a core is busy.

    Idle: some GPU's use < `gpu_threshold`; busy: some core's > `cpu_threshold`, in percent, within 20 ms. Per node,
    once there are more than `patience` snapshots. The documentation's patience is 100. Without a GPU nothing can wait
    for the processors: NotEvaluated.
    """

    unit: ClassVar[str] = "%"
    threshold: float = 50.0
    gpu_threshold: float = 10.0
    cpu_threshold: float = 90.0
    patience: int = 1000

    def check(self, profile: Profile) -> ProfilerFinding:
        idle = {node: _idle(profile.training[node], self.gpu_threshold) for node in profile.gpus()}
        return _share(
            self,
            profile,
            idle,
            ("CPUUtilization", self.cpu_threshold),
            f"a GPU was below {self.gpu_threshold:g} % while a core was above {self.cpu_threshold:g} %",
            "Take work off the processors: cache features or decoded images, more loader workers, fewer "
            "augmentations, or an instance with more cores to a GPU.",
        )


@dataclass(frozen=True)
class IOBottleneck:
    """Fires when in more than `threshold` percent of the snapshots a GPU is idle and a core waits for I/O.

    Idle: some GPU's use < `gpu_threshold`; waiting: some core's I/OWaitPercentage > `io_threshold`, in percent, within
    20 ms. Per node, once there are more than `patience` snapshots. The documentation's gpu_threshold is 70.
    Ours: on a node without GPUs the processors train, and a core that waits for I/O does not, so there the wait alone
    counts.
    """

    unit: ClassVar[str] = "%"
    threshold: float = 50.0
    gpu_threshold: float = 10.0
    io_threshold: float = 50.0
    patience: int = 1000

    def check(self, profile: Profile) -> ProfilerFinding:
        idle = {name: _idle(node, self.gpu_threshold) for name, node in profile.training.items()}
        condition = f"a core waited for I/O more than {self.io_threshold:g} % of the time"
        if any(node.measured("gpu", "GPUUtilization") for node in profile.training.values()):
            condition += f" while a GPU was below {self.gpu_threshold:g} %"
        else:
            condition += " (there is no GPU, so the wait alone counts)"
        return _share(
            self,
            profile,
            idle,
            ("I/OWaitPercentage", self.io_threshold),
            condition,
            "Read less, or from faster storage: cache features or decoded images, larger files (shards), FastFile "
            "or FSx for the channel, more loader workers with prefetching.",
        )


def _idle(node: NodeMetrics, threshold: float) -> Array:
    """[T]: 1 where some GPU is below `threshold`, NaN where none was recorded; 1 everywhere on nodes without GPUs."""
    gpus = node.measured("gpu", "GPUUtilization")
    if not gpus:
        return np.ones(len(node.times))
    lowest = np.array(list(gpus.values()))
    missing = np.isnan(lowest).all(axis=0)
    return np.where(missing, np.nan, (lowest < threshold).any(axis=0))


def _share(
    rule: Any,
    profile: Profile,
    idle: dict[str, Array],
    busy: tuple[str, float],
    condition: str,
    recommendation: str,
) -> ProfilerFinding:
    measure, limit = busy
    details: dict[str, Any] = {}
    shares, points, violations, note, series = [], 0, 0, "", []
    for name, waiting in idle.items():
        node = profile.training[name]
        cores = np.array(list(node.measured("cpu", measure).values()))
        if not len(cores):
            raise NotEvaluatedError(f"no {measure} of {name} was recorded")
        whole = ~np.isnan(waiting) & ~np.isnan(cores).all(axis=0)
        times = node.times[whole]
        fitted = fit_to_run(rule, times, profile.ended)
        busiest = np.nanmax(cores[:, whole], axis=0)
        both = (waiting[whole] > 0) & (busiest > limit)
        share = 100 * float(both.mean())
        points, violations, note = points + fitted.points, violations + int(both.sum()), fitted.note
        shares.append((share, name))
        details[name] = {"bottlenecks": int(both.sum()), "datapoints": fitted.points, "percent": share}
        series.append(over_time(f"{name}, busiest core", times, busiest))
    share, name = max(shares)
    triggered = sum(one > rule.threshold for one, _ in shares)
    return ProfilerFinding(
        triggered > 0,
        f"in {share:.0f} % of {details[name]['datapoints']} snapshots of {name} {condition}; the threshold is "
        f"{rule.threshold:g} %.{note}",
        value=share,
        threshold=rule.threshold,
        recommendation=recommendation if triggered else "",
        plot=plot_over_time(f"{measure}, %", series, limit),
        triggered=triggered,
        violations=violations,
        datapoints=points,
        details=details,
    )
