"""Rules over GPU use: LowGPUUtilization, BatchSize, LoadBalancing.

Definitions: AWS, "List of Debugger built-in profiler rules". Their implementation is closed, and AWS publishes two
sets of defaults, in the documentation and in smdebug_rulesconfig 1.0.1, which the SageMaker SDK sends: those of the
latter are the defaults here. Each docstring states the reading and the other set.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from scipy.spatial.distance import jensenshannon

from rules.profiler.finding import ProfilerFinding, fit_to_run, over_time, plot_over_time
from rules.profiler.profile import Profile
from rules.profiler.system_metrics import Array
from rules.verdict import NotEvaluatedError


@dataclass(frozen=True)
class LowGPUUtilization:
    """Fires when, in a window after `patience` datapoints, a GPU is under-used or its use fluctuates.

    Under-used: p95 < `threshold_p95`. Fluctuating: p95 > `threshold_p95` and p5 < `threshold_p5`. In percent, per
    GPU and node. The documentation and rulesconfig agree on the defaults.
    """

    unit: ClassVar[str] = "%"

    threshold_p95: float = 70.0
    threshold_p5: float = 10.0
    window: int = 500
    patience: int = 1000

    def check(self, profile: Profile) -> ProfilerFinding:
        details: dict[str, Any] = {}
        shown, series, triggered, violations, points, note = [], [], 0, 0, 0, ""
        for node, gpus in profile.gpus().items():
            for gpu, column in gpus.items():
                times, use = profile.recorded(node, column)
                fitted = fit_to_run(self, times, profile.ended)
                points, note = points + fitted.points, fitted.note
                series.append(over_time(f"{node} {gpu}", times, use))
                windows = [self._window(use[window]) for window in fitted.windows()]
                fired = [one for one in windows if one.below]
                triggered, violations = triggered + len(fired), violations + sum(one.below for one in fired)
                last = (fired or windows)[-1]
                shown.append((last, node, gpu))
                details.setdefault(node, {})[gpu] = {"gpu_95": last.p95, "gpu_5": last.p5}
        worst, node, gpu = min(shown)
        detail = f"{gpu} of {node} was at {worst.p95:.0f} % (p95) and {worst.p5:.0f} % (p5)"
        value, threshold, recommendation = worst.p95, self.threshold_p95, ""
        if not worst.used:
            detail += f", so p95 is below {self.threshold_p95:g} %: under-used"
            recommendation = (
                "Larger batches, more loader workers, or a smaller instance: the GPU mostly waits."
            )
        elif not worst.steady:
            detail += f", so p5 is below {self.threshold_p5:g} %: it stalls in between"
            value, threshold = worst.p5, self.threshold_p5
            recommendation = (
                "Look for what it waits for: data (more workers, pin_memory), validation, checkpoints."
            )
        return ProfilerFinding(
            triggered > 0,
            f"{detail}.{note}",
            value=value,
            threshold=threshold,
            recommendation=recommendation,
            plot=plot_over_time("GPU use, %", series, self.threshold_p95),
            triggered=triggered,
            violations=violations,
            datapoints=points,
            details=details,
        )

    def _window(self, use: Array) -> _Use:
        p5, p95 = (float(value) for value in np.percentile(use, [5, 95]))
        used = p95 >= self.threshold_p95
        steady = not (p95 > self.threshold_p95 and p5 < self.threshold_p5)
        limit = self.threshold_p5 if used else self.threshold_p95
        return _Use(used, steady, p95, p5, 0 if used and steady else int((use < limit).sum()))


class _Use(NamedTuple):
    """A GPU in one window, the worst first; `below` counts the datapoints below the threshold that was missed."""

    used: bool
    steady: bool
    p95: float
    p5: float
    below: int


@dataclass(frozen=True)
class BatchSize:
    """Fires when processors, GPU and GPU memory all have room: a larger batch would fit.

    In a window after `patience` datapoints: p95 of the mean over the cores < `cpu_threshold_p95`, p95 of a GPU's use
    < `gpu_threshold_p95`, and p95 of its memory < `gpu_memory_threshold_p95`, in percent. The documentation's patience
    is 100.
    """

    unit: ClassVar[str] = "%"

    cpu_threshold_p95: float = 70.0
    gpu_threshold_p95: float = 70.0
    gpu_memory_threshold_p95: float = 70.0
    patience: int = 1000
    window: int = 500

    def check(self, profile: Profile) -> ProfilerFinding:
        details: dict[str, Any] = {}
        worst, triggered, points, note, series = None, 0, 0, "", []
        memory = profile.gpus("GPUMemoryUtilization")
        for node, gpus in profile.gpus().items():
            cores = list(profile.training[node].measured("cpu", "CPUUtilization").values())
            if not cores:
                raise NotEvaluatedError(f"no CPUUtilization of {node} was recorded")
            for gpu, column in gpus.items():
                if gpu not in memory.get(node, {}):
                    raise NotEvaluatedError(f"no GPUMemoryUtilization of {gpu} of {node} was recorded")
                times, cpu, use, used = profile.recorded(
                    node, np.mean(cores, axis=0), column, memory[node][gpu]
                )
                fitted = fit_to_run(self, times, profile.ended)
                points, note = points + fitted.points, fitted.note
                series.append(over_time(f"{node} {gpu} memory", times, used))
                for window in fitted.windows():
                    p95 = [float(np.percentile(values[window], 95)) for values in (cpu, use, used)]
                    room = min(limit - value for limit, value in zip(self._limits, p95, strict=True))
                    triggered += room > 0
                    if worst is None or room > worst[0]:
                        worst = (room, p95, node, gpu)
                        details.setdefault(node, {})[gpu] = dict(
                            zip(("cpu_p95", "gpu_p95", "gpu_memory_p95"), p95, strict=True)
                        )
        assert worst is not None
        _, p95, node, gpu = worst
        detail = (
            f"at p95 the cores of {node} were at {p95[0]:.0f} %, {gpu} at {p95[1]:.0f} % and its memory at "
            f"{p95[2]:.0f} %; limits {' / '.join(f'{limit:g}' for limit in self._limits)} %"
        )
        return ProfilerFinding(
            triggered > 0,
            f"{detail}.{note}",
            value=p95[2],
            threshold=self.gpu_memory_threshold_p95,
            recommendation="Raise batch-size until GPU memory is nearly full, and lr with it, or take a smaller "
            "instance."
            if triggered
            else "",
            plot=plot_over_time("GPU memory, %", series, self.gpu_memory_threshold_p95),
            triggered=triggered,
            violations=triggered,
            datapoints=points,
            details=details,
        )

    @property
    def _limits(self) -> tuple[float, float, float]:
        return self.cpu_threshold_p95, self.gpu_threshold_p95, self.gpu_memory_threshold_p95


@dataclass(frozen=True)
class LoadBalancing:
    """Fires when the GPUs of a node are used unlike each other.

    The Jensen-Shannon distance (natural logarithm, so at most 0.83) between two GPUs' histograms of use (0 to 100 % in
    bins of 2) > `threshold`, for any pair. The documentation's patience is 10.
    """

    threshold: float = 0.5
    patience: int = 1000

    def check(self, profile: Profile) -> ProfilerFinding:
        details: dict[str, Any] = {}
        pairs, points, note, series = [], 0, "", []
        for node, gpus in profile.gpus().items():
            if len(gpus) < 2:
                continue
            times, *columns = profile.recorded(node, *gpus.values())
            fitted = fit_to_run(self, times, profile.ended)
            points, note = points + fitted.points, fitted.note
            shares = {gpu: _histogram(column) for gpu, column in zip(gpus, columns, strict=True)}
            distances = {
                f"{one}-{other}": float(jensenshannon(shares[one], shares[other]))
                for one, other in itertools.combinations(shares, 2)
            }
            pairs += [(distance, node, pair) for pair, distance in distances.items()]
            workloads = {gpu: float(column.mean()) for gpu, column in zip(gpus, columns, strict=True)}
            details[node] = {"workloads": workloads, "distances": distances}
            series += [
                over_time(f"{node} {gpu}", times, column) for gpu, column in zip(gpus, columns, strict=True)
            ]
        if not pairs:
            raise NotEvaluatedError("no node has more than one GPU, so there is no load to balance")
        distance, node, pair = max(pairs)
        triggered = sum(one > self.threshold for one, *_ in pairs)
        means = ", ".join(f"{gpu} {mean:.0f} %" for gpu, mean in details[node]["workloads"].items())
        return ProfilerFinding(
            triggered > 0,
            f"{pair} of {node} are used least alike, at a distance of {distance:.2f}; the threshold is "
            f"{self.threshold:g}; means: {means}.{note}",
            value=distance,
            threshold=self.threshold,
            recommendation="Give each GPU the same share of a batch, in a process of its own (DistributedDataParallel)."
            if triggered
            else "",
            plot=plot_over_time("GPU use, %", series, None),
            triggered=triggered,
            violations=triggered,
            datapoints=points,
            details=details,
        )


def _histogram(use: Array) -> Array:
    counts, _ = np.histogram(use, bins=np.arange(0, 101, 2))
    return np.asarray(counts / counts.sum())
