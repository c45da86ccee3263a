"""Reading SageMaker's system metrics: JSON lines below `system/incremental/`, ours or the platform's.

A line: {"Type": "cpu", "Name": "cpu0", "Dimension": "CPUUtilization", "Value": 4.76,
"NodeId": "algo-1", "Timestamp": 1591160699.45}, the timestamp in seconds.
"""

from __future__ import annotations

import json
import math
from array import array
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Key = tuple[str, str, str]
"""(Type, Name, Dimension)."""

# The platform stamps each kind of metric by itself; AWS's rules take samples this near as one snapshot.
_SNAPSHOT_SECONDS = 0.02


@dataclass(frozen=True)
class NodeMetrics:
    """Snapshots of one node: `times` [T] in seconds since the epoch, ascending, and one column [T] per metric.

    A metric that a snapshot lacks is NaN there.
    """

    node: str
    times: Array
    columns: Mapping[Key, Array]

    def measured(self, kind: str, measure: str) -> dict[str, Array]:
        """Name of core, GPU, … to its column [T], in the order of their numbers.

        `measure` is the Dimension, or the Name of kinds that have no devices. The platform's own traffic, which
        SageMaker counts again beside the algorithm's, is left out.
        """
        found = {
            name: column
            for (type_, name, dimension), column in self.columns.items()
            if type_ == kind and measure in {name, dimension} and dimension != "Platform"
        }
        return dict(sorted(found.items(), key=lambda item: (len(item[0]), item[0])))

    def between(self, start: float, end: float) -> NodeMetrics:
        """The snapshots from `start` to `end`, seconds since the epoch."""
        inside = (self.times >= start) & (self.times <= end)
        columns = {key: column[inside] for key, column in self.columns.items()}
        return NodeMetrics(self.node, self.times[inside], columns)


@dataclass
class _Lines:
    """What was read of one node, a line an element: 20 bytes each, of which a day has tens of millions."""

    times: array[float] = field(default_factory=lambda: array("d"))
    values: array[float] = field(default_factory=lambda: array("d"))
    columns: array[int] = field(default_factory=lambda: array("i"))
    keys: dict[Key, int] = field(default_factory=dict)
    """Of `columns`."""


def read_nodes(profiler_output: Path) -> tuple[dict[str, NodeMetrics], int]:
    """The metrics below a `profiler-output` folder by node, and how many lines were unreadable.

    An interrupted job leaves half a line at the end of a file; such lines are counted, not hidden.
    """
    nodes: dict[str, _Lines] = defaultdict(_Lines)
    broken = 0
    for file in sorted(profiler_output.glob("system/incremental/*/*.json")):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                _add(nodes, json.loads(line))
            except (ValueError, KeyError, TypeError):
                broken += 1
    return {node: _align(node, lines) for node, lines in sorted(nodes.items())}, broken


def _add(nodes: dict[str, _Lines], line: dict[str, Any]) -> None:
    key = (str(line["Type"]), str(line["Name"]), str(line["Dimension"]))
    value, timestamp, node = float(line["Value"]), float(line["Timestamp"]), str(line["NodeId"])
    if not (math.isfinite(value) and math.isfinite(timestamp)):
        raise ValueError("not finite")
    lines = nodes[node]
    lines.times.append(timestamp)
    lines.values.append(value)
    lines.columns.append(lines.keys.setdefault(key, len(lines.keys)))


def _align(node: str, lines: _Lines) -> NodeMetrics:
    order = np.argsort(lines.times, kind="stable")
    times, values = np.asarray(lines.times)[order], np.asarray(lines.values)[order]
    kinds = np.asarray(lines.columns)[order]
    first = np.concatenate([[True], np.diff(times) > _SNAPSHOT_SECONDS])
    snapshot = np.cumsum(first) - 1
    columns = {}
    for key, kind in sorted(lines.keys.items()):
        chosen = kinds == kind
        columns[key] = np.full(int(first.sum()), np.nan)
        columns[key][snapshot[chosen]] = values[chosen]
    return NodeMetrics(node, times[first], columns)
