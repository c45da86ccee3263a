"""System metrics as the report shows them: one line per resource and node."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rules.profiler.system_metrics import Array, NodeMetrics, read_nodes

_RATE = "MB/s"
# (Type, measure) -> what the report calls the resource, its unit, the divisor, and how the columns of one moment are
# put together (cores are averaged, devices and networks added).
_RESOURCES = {
    ("cpu", "CPUUtilization"): ("CPU", "%", 1.0, np.mean),
    ("cpu", "I/OWaitPercentage"): ("I/O wait", "%", 1.0, np.mean),
    ("gpu", "GPUMemoryUtilization"): ("GPU memory", "%", 1.0, np.mean),
    ("gpu", "GPUPower"): ("GPU power", "W", 1.0, np.sum),
    ("gpu", "GPUTemperature"): ("GPU temperature", "°C", 1.0, np.max),
    ("gpu", "GPUUtilization"): ("GPU", "%", 1.0, np.mean),
    ("i/o", "IOPS"): ("Disk operations", "1/s", 1.0, np.sum),
    ("i/o", "ReadThroughputInBytesPerSecond"): ("Disk read", _RATE, 1e6, np.sum),
    ("i/o", "WriteThroughputInBytesPerSecond"): ("Disk write", _RATE, 1e6, np.sum),
    ("memory", "MemoryUsedPercent"): ("Memory", "%", 1.0, np.mean),
    ("memory", "ProcessMemoryInBytes"): ("Memory of the job's processes", "MB", 1e6, np.sum),
    ("network", "ReceiveBytesPerSecond"): ("Network in", _RATE, 1e6, np.sum),
    ("network", "TransmitBytesPerSecond"): ("Network out", _RATE, 1e6, np.sum),
}


@dataclass(frozen=True)
class SystemMetric:
    """One resource of one node: `seconds` since its first sample and `values`, both [T]."""

    resource: str
    node: str
    unit: str
    seconds: Array
    values: Array

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
    """The system metrics below a `profiler-output` folder, and how many lines were unreadable."""
    nodes, broken = read_nodes(profiler_output)
    return [metric for node in nodes.values() for metric in system_metrics(node)], broken


def system_metrics(node: NodeMetrics) -> list[SystemMetric]:
    """What there is of one node."""
    metrics = []
    for (kind, measure), (resource, unit, divisor, together) in _RESOURCES.items():
        columns = list(node.measured(kind, measure).values())
        if columns:
            values = np.asarray(together(columns, axis=0)) / divisor  # type: ignore[operator]
            there = ~np.isnan(values)
            times = node.times[there]
            metrics.append(SystemMetric(resource, node.node, unit, times - times[0], values[there]))
    return metrics
