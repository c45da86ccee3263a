"""Reading SageMaker's system metrics: JSON lines below `system/incremental/`, ours or the platform's.

A line: {"Type": "cpu", "Name": "cpu0", "Dimension": "CPUUtilization", "Value": 4.76,
"NodeId": "algo-1", "Timestamp": 1591160699.45}, the timestamp in seconds.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_BYTES = "MB/s"
# (Type, Dimension or Name) of a line -> what the report calls the resource, its unit, the divisor,
# and how samples of one moment are put together (cores are averaged, devices and networks added).
_RESOURCES = {
    ("cpu", "CPUUtilization"): ("CPU", "%", 1.0, "mean"),
    ("cpu", "I/OWaitPercentage"): ("I/O wait", "%", 1.0, "mean"),
    ("memory", "MemoryUsedPercent"): ("Memory", "%", 1.0, "mean"),
    ("gpu", "GPUUtilization"): ("GPU", "%", 1.0, "mean"),
    ("gpu", "GPUMemoryUtilization"): ("GPU memory", "%", 1.0, "mean"),
    ("i/o", "ReadThroughputInBytesPerSecond"): ("Disk read", _BYTES, 1e6, "sum"),
    ("i/o", "WriteThroughputInBytesPerSecond"): ("Disk write", _BYTES, 1e6, "sum"),
    ("i/o", "IOPS"): ("Disk operations", "1/s", 1.0, "sum"),
    ("network", "ReceiveBytesPerSecond"): ("Network in", _BYTES, 1e6, "sum"),
    ("network", "TransmitBytesPerSecond"): ("Network out", _BYTES, 1e6, "sum"),
}


@dataclass(frozen=True)
class SystemMetric:
    """One resource of one node: `seconds` since its first sample and `values`, both [T]."""

    resource: str
    node: str
    unit: str
    seconds: np.ndarray[Any, np.dtype[np.float64]]
    values: np.ndarray[Any, np.dtype[np.float64]]

    def summary(self) -> dict[str, Any]:
        """max, p99, p95, p50 and min, as SageMaker's profiler report shows them."""
        p50, p95, p99 = np.percentile(self.values, [50, 95, 99])
        return {
            "resource": self.resource,
            "node": self.node,
            "unit": self.unit,
            "samples": len(self.values),
            "max": float(self.values.max()),
            "p99": float(p99),
            "p95": float(p95),
            "p50": float(p50),
            "min": float(self.values.min()),
        }


def read_system_metrics(profiler_output: Path) -> tuple[list[SystemMetric], int]:
    """The system metrics below a `profiler-output` folder, and how many lines were unreadable.

    An interrupted job leaves half a line at the end of a file; such lines are counted, not hidden.
    """
    samples: dict[tuple[str, str], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    broken = 0
    for file in sorted(profiler_output.glob("system/incremental/*/*.json")):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                _add(samples, json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError):
                broken += 1
    return [_metric(node, key, moments) for (node, key), moments in sorted(samples.items())], broken


def _add(samples: dict[tuple[str, str], dict[float, list[float]]], line: dict[str, Any]) -> None:
    kind, name, dimension = line["Type"], line["Name"], line["Dimension"]
    value, timestamp = float(line["Value"]), round(float(line["Timestamp"]), 1)
    if not (np.isfinite(value) and np.isfinite(timestamp)):
        raise ValueError("not finite")
    # The platform reports each network interface's traffic twice, for itself and for the algorithm.
    if dimension == "Platform":
        return
    for measure in (dimension, name):
        if (kind, measure) in _RESOURCES:
            samples[str(line["NodeId"]), f"{kind}\n{measure}"][timestamp].append(value)


def _metric(node: str, key: str, moments: dict[float, list[float]]) -> SystemMetric:
    kind, _, measure = key.partition("\n")
    resource, unit, divisor, how = _RESOURCES[kind, measure]
    times = np.array(sorted(moments))
    combine = np.mean if how == "mean" else np.sum
    values = np.array([combine(moments[time]) for time in times.tolist()]) / divisor
    return SystemMetric(resource, node, unit, times - times[0], values)
