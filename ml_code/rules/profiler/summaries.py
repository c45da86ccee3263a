"""Rules that sum up and never fire: OverallSystemUsage, OverallFrameworkMetrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rules.profiler.finding import ProfilerFinding
from rules.profiler.profile import Profile
from rules.profiler.steps import statistics
from rules.profiler.system_metrics import Array, NodeMetrics
from rules.verdict import NotEvaluatedError

# AWS's name of a resource, its Type and measures, and how those of one moment are put together.
_RESOURCES = (
    ("CPU", "cpu", ("CPUUtilization",), np.mean),
    ("I/O", "cpu", ("I/OWaitPercentage",), np.mean),
    ("CPU memory", "memory", ("MemoryUsedPercent",), np.mean),
    ("GPU", "gpu", ("GPUUtilization",), np.mean),
    ("GPU memory", "gpu", ("GPUMemoryUtilization",), np.mean),
    ("Network", "network", ("ReceiveBytesPerSecond", "TransmitBytesPerSecond"), np.sum),
)


@dataclass(frozen=True)
class OverallSystemUsage:
    """Never fires: max, p99, p95, p50 and min of each resource of each node, over the whole job.

    CPU, I/O (wait), memory and GPU in percent, means over cores and GPUs; Network in bytes a second, in and out added.
    """

    def check(self, profile: Profile) -> ProfilerFinding:
        if not profile.nodes:
            raise NotEvaluatedError("no system metrics; set profiler-interval-ms (100 to 60000)")
        details: dict[str, Any] = {}
        for resource, kind, measures, together in _RESOURCES:
            for name, node in profile.nodes.items():
                values = _together(node, kind, measures, together)
                if len(values):
                    p50, p95, p99 = np.percentile(values, [50, 95, 99]).tolist()
                    summary = {
                        "max": float(values.max()),
                        "p99": p99,
                        "p95": p95,
                        "p50": p50,
                        "min": float(values.min()),
                    }
                    details.setdefault(resource, {})[name] = summary
        parts = [
            f"{resource} {max(node['p95'] for node in nodes.values()):.0f} %"
            for resource, nodes in details.items()
            if resource != "Network"
        ]
        points = sum(len(node.times) for node in profile.nodes.values())
        where = f"{len(profile.nodes)} node{'s' if len(profile.nodes) > 1 else ''}"
        return ProfilerFinding(
            False,
            f"p95 over {points} samples of {where}: {', '.join(parts)}.",
            datapoints=points,
            details=details,
        )


def _together(node: NodeMetrics, kind: str, measures: tuple[str, ...], together: Any) -> Array:
    columns = [column for measure in measures for column in node.measured(kind, measure).values()]
    if not columns:
        return np.array([])
    values: Array = np.asarray(together(columns, axis=0))
    return values[~np.isnan(values)]


@dataclass(frozen=True)
class OverallFrameworkMetrics:
    """Never fires: where the steps' time went, by mode, phase and operator.

    rulesconfig 1.0.1 lacks the rule. `details` has the statistics of the steps of each mode, in seconds, the seconds of
    each phase of the TRAIN steps, the ratio of forward to backward time, and torch.profiler's operators.
    """

    def check(self, profile: Profile) -> ProfilerFinding:
        steps = profile.timeline.named("step")
        if not steps and not profile.operators:
            raise NotEvaluatedError("no step is in a timeline, and torch.profiler wrote no operators.json")
        modes = sorted({str(step.mode) for step in steps})
        seconds = {mode: np.array([one.seconds for one in steps if one.mode == mode]) for mode in modes}
        phases = profile.timeline.phase_seconds()
        details: dict[str, Any] = {
            "steps": {
                mode: {"count": len(one), "total": float(one.sum()), **statistics(one)}
                for mode, one in seconds.items()
            },
            "phases": phases,
        }
        if phases.get("forward") and phases.get("backward"):
            details["forward_to_backward"] = phases["forward"] / phases["backward"]
        parts = [f"{len(one)} {mode} steps took {one.sum():.1f} s" for mode, one in seconds.items()]
        if phases:
            largest = max(phases, key=lambda phase: phases[phase])
            share = phases[largest] / sum(phases.values())
            parts.append(f"{share:.0%} of the training steps was {largest.replace('_', ' ')}")
        if profile.operators:
            operators = profile.operators["operators"]
            details["operators"] = operators
            if operators:
                top = max(operators, key=lambda one: one["share"])
                parts.append(f"the operator with the most time of its own is {top['name']}")
        return ProfilerFinding(False, f"{'; '.join(parts)}.", datapoints=len(steps), details=details)
