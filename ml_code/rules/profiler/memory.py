"""MemoryLeak: memory that keeps growing, however slowly. Ours; AWS has no such rule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.stats import theilslopes

from rules.profiler.finding import ProfilerFinding
from rules.profiler.profile import Profile
from rules.profiler.system_metrics import Array
from rules.verdict import NotEvaluatedError, Plot, Series

# Theil-Sen looks at every pair: of more points, each is the median of a block.
_BLOCKS = 200
_QUARTERS = 4
_MINIMUM = 30


class _Growth(NamedTuple):
    percent: float
    """Growth over the samples at the slope's lower bound, against the level that they begin with."""
    smallest_quarter: float
    """The least that a quarter of the samples rises over the one before, as a share of what it would evenly."""
    slope: float
    """Per second."""
    level: float


@dataclass(frozen=True)
class MemoryLeak:
    """Fires when memory grows by more than `increase` percent over the training and does not flatten.

    Looked at are each GPU's GPUMemoryUtilization and each node's ProcessMemoryInBytes, or where the platform wrote the
    files MemoryUsedPercent, after the first `warmup` percent of the samples, in which caches fill. The growth is the
    lower bound of the Theil-Sen slope's `confidence` percent interval (Sen 1968) times the time looked at, against the
    median of the first quarter of it; a percentage counts as 1 at least. It flattens when some quarter of the samples
    rises over the one before by less than half of what even growth would give. GPUMemoryIncrease sees jumps, this rule
    what comes in small steps.
    """

    increase: float = 10.0
    warmup: float = 25.0
    confidence: float = 95.0

    def check(self, profile: Profile) -> ProfilerFinding:
        found, series, short, points = [], [], [], 0
        for name, times, values in _memories(profile):
            first = int(len(values) * self.warmup / 100)
            if len(values) - first < _MINIMUM:
                short.append(
                    f"{name} has {len(values)} samples in {np.ptp(times) if len(times) else 0:.1f} s"
                )
                continue
            points += len(values) - first
            growth = self._growth(times[first:], values[first:], percent=not name.endswith("InBytes"))
            leaks = growth.percent > self.increase and growth.smallest_quarter >= 0.5
            found.append((leaks, growth.percent, name, growth))
            series.append(Series.of(name, zip(times - times[0], values, strict=True)))
        if not found:
            raise NotEvaluatedError(
                f"too short: {'; '.join(short)}; {_MINIMUM} are needed after the first {self.warmup:g} % "
                "(profiler-interval-ms)"
                if short
                else "no memory was recorded in the training; set profiler-interval-ms"
            )
        leaks, percent, name, growth = max(found, key=lambda one: one[:2])
        detail = f"{name} grew by {percent:.3g} % of its level after warm-up"
        if percent > self.increase and not leaks:
            detail += ", and flattened"
        elif leaks:
            detail += f" and went on growing, by {60 * growth.slope / growth.level:.2%} a minute"
        return ProfilerFinding(
            leaks,
            f"{detail}; the threshold is {self.increase:g} %.",
            value=percent,
            threshold=self.increase,
            recommendation="Look for what keeps every step's tensors: losses added up with their graph (use .item() or "
            ".detach()), lists of outputs, caches without a bound, a retained graph."
            if leaks
            else "",
            plot=Plot("seconds of training", "memory", tuple(one for one in series if one.name == name)),
            triggered=sum(one[0] for one in found),
            violations=sum(one[0] for one in found),
            datapoints=points,
            details={
                one: {
                    "growth_percent": growth.percent,
                    "per_second": growth.slope,
                    "level": growth.level,
                    "leaks": leaks,
                }
                for leaks, _, one, growth in found
            },
        )

    def _growth(self, times: Array, values: Array, percent: bool) -> _Growth:
        times, values = blocks(times), blocks(values)
        slope, _, lower, _ = theilslopes(values, times, alpha=self.confidence / 100)
        quarters = [float(np.median(part)) for part in np.array_split(values, _QUARTERS)]
        rises = np.diff(quarters)
        even = (quarters[-1] - quarters[0]) / (_QUARTERS - 1)
        level = max(quarters[0], 1.0) if percent else quarters[0]
        return _Growth(
            100 * float(lower) * float(times[-1] - times[0]) / level,
            float(rises.min()) / even if even > 0 else 0.0,
            float(slope),
            level,
        )


def blocks(values: Array) -> Array:
    """Medians of at most `_BLOCKS` blocks side by side: [min(T, 200)]."""
    parts = np.array_split(values, min(len(values), _BLOCKS))
    return np.array([np.median(part) for part in parts])


def _memories(profile: Profile) -> Iterator[tuple[str, Array, Array]]:
    """Name, times and values of each memory there is, without the snapshots that lack it."""
    for node, metrics in profile.training.items():
        columns = {
            f"{node} {gpu} GPUMemoryUtilization": column
            for gpu, column in metrics.measured("gpu", "GPUMemoryUtilization").items()
        }
        for measure in ("ProcessMemoryInBytes", "MemoryUsedPercent"):
            if found := metrics.measured("memory", measure):
                columns[f"{node} {measure}"] = next(iter(found.values()))
                break
        for name, column in columns.items():
            there = ~np.isnan(column)
            yield name, metrics.times[there], column[there]
