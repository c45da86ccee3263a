"""Rules over memory that grows: GPUMemoryIncrease in a jump, MemoryLeak however slowly.

The first is AWS's ("List of Debugger built-in profiler rules"), the second ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from scipy.stats import theilslopes

from rules.profiler.finding import ProfilerFinding, fit_to_run, over_time, plot_over_time
from rules.profiler.profile import Profile
from rules.profiler.system_metrics import Array
from rules.verdict import NotEvaluatedError

# Theil-Sen looks at every pair: of more points, each is the median of a block.
_BLOCKS = 200
_QUARTERS = 4


@dataclass(frozen=True)
class GPUMemoryIncrease:
    """Fires when, after `patience` datapoints, the moving average of a GPU's memory jumps by more than `increase`.

    At datapoint t: mean(m[t-w+1..t]) - mean(m[t-w..t-2]) > `increase` percentage points, w being `window`. That is a
    jump between neighbouring samples: with w = 10 of `increase` / 0.2 points at least, if it stays. A slow leak never
    fires it: MemoryLeak does. The documentation's defaults (increase 10, patience 100, window 500) can never fire, as
    one sample in 500 moves a mean by 0.2 points at most; those of rulesconfig are the defaults here.
    """

    unit: ClassVar[str] = "%"
    increase: float = 5.0
    patience: int = 1000
    window: int = 10

    def check(self, profile: Profile) -> ProfilerFinding:
        details: dict[str, Any] = {}
        worst, triggered, points, note, series = None, 0, 0, "", []
        for node, gpus in profile.gpus("GPUMemoryUtilization").items():
            for gpu, column in gpus.items():
                times, used = profile.recorded(node, column)
                fitted = fit_to_run(self, times, profile.ended)
                if fitted.window < 2:
                    raise NotEvaluatedError(
                        "window must be 2 or more: the average before it has one point less"
                    )
                points, note = points + fitted.points, fitted.note
                first = max(fitted.patience, fitted.window)
                jumps = moving_jumps(used, fitted.window)[first - fitted.window :]
                largest = int(jumps.argmax())
                triggered += int((jumps > self.increase).sum())
                series.append(over_time(f"{node} {gpu}", times, used))
                if worst is None or jumps[largest] > worst[0]:
                    worst = (float(jumps[largest]), times[first + largest] - times[0], node, gpu)
                quartiles = np.percentile(used, [5, 25, 50, 75, 95])
                whisker = 1.5 * (quartiles[3] - quartiles[1])
                details.setdefault(node, {})[gpu] = {
                    "increase": float(jumps[largest]),
                    "gpu_max": float(used.max()),
                    **dict(zip(("p05", "p25", "p50", "p75", "p95"), quartiles.tolist(), strict=True)),
                    "upper": float(quartiles[3] + whisker),
                    "lower": float(quartiles[1] - whisker),
                }
        assert worst is not None
        jump, second, node, gpu = worst
        return ProfilerFinding(
            triggered > 0,
            f"the moving average of {gpu}'s memory on {node} rose by at most {jump:.2g} points from one sample to the "
            f"next, {second:.0f} s into the training; the threshold is {self.increase:g}.{note}",
            value=jump,
            threshold=self.increase,
            recommendation="See what the step at that time allocates and keeps: a larger batch, a list of tensors, a "
            "new graph."
            if triggered
            else "",
            plot=plot_over_time("GPU memory, %", series, None),
            triggered=triggered,
            violations=triggered,
            datapoints=points,
            details=details,
        )


def moving_jumps(values: Array, window: int) -> Array:
    """mean(v[t-w+1..t]) - mean(v[t-w..t-2]) for t from w to the end: [T - w]."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(window, len(values))
    after = (total[ends + 1] - total[ends + 1 - window]) / window
    before = (total[ends - 1] - total[ends - window]) / (window - 1)
    return np.asarray(after - before)


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
    files MemoryUsedPercent, once there are more than `patience` samples, after the first `warmup` percent of them, in
    which caches fill. The growth is the lower bound of the Theil-Sen slope's `confidence` percent interval (Sen 1968)
    times the time looked at, against the median of the first quarter of it; a percentage counts as 1 at least. It
    flattens when some quarter of the samples rises over the one before by less than half of what even growth would
    give. GPUMemoryIncrease sees jumps, this rule what comes in small steps.
    """

    unit: ClassVar[str] = "%"
    increase: float = 10.0
    warmup: float = 25.0
    confidence: float = 95.0
    patience: int = 1000

    def check(self, profile: Profile) -> ProfilerFinding:
        found, series, short, points, note = [], [], [], 0, ""
        for name, times, values in _memories(profile):
            try:
                fitted = fit_to_run(self, times, profile.ended)
            except NotEvaluatedError as error:
                short.append(f"{name}: {error}")
                continue
            first, note = int(len(values) * self.warmup / 100), fitted.note
            points += len(values) - first
            growth = self._growth(times[first:], values[first:], percent=not name.endswith("InBytes"))
            leaks = growth.percent > self.increase and growth.smallest_quarter >= 0.5
            found.append((leaks, growth.percent, name, growth))
            series.append(over_time(name, times, values))
        if not found:
            raise NotEvaluatedError(
                "; ".join(short) or "no memory was recorded in the training; set profiler-interval-ms"
            )
        leaks, percent, name, growth = max(found, key=lambda one: one[:2])
        detail = f"{name} grew by {percent:.3g} % of its level after warm-up"
        if percent > self.increase and not leaks:
            detail += ", and flattened"
        elif leaks:
            detail += f" and went on growing, by {60 * growth.slope / growth.level:.2%} a minute"
        return ProfilerFinding(
            leaks,
            f"{detail}; the threshold is {self.increase:g} %.{note}",
            value=percent,
            threshold=self.increase,
            recommendation="Look for what keeps every step's tensors: losses added up with their graph (use .item() or "
            ".detach()), lists of outputs, caches without a bound, a retained graph."
            if leaks
            else "",
            plot=plot_over_time("memory", [one for one in series if one.name == name]),
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
