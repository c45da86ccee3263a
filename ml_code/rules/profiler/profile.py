"""What a training job's profiler wrote, as the rules read it."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rules.profiler.system_metrics import Array, NodeMetrics, read_nodes
from rules.profiler.timeline import read_timeline
from rules.verdict import NotEvaluatedError


class Profile:
    """One `profiler-output` folder: this project's, or the platform's of a job on AWS.

    `ended` is False for a job that still writes it: what is short may yet grow. Raises NotEvaluatedError when it holds
    neither system metrics nor a timeline.
    """

    def __init__(self, folder: Path, ended: bool = True) -> None:
        self.ended = ended
        self.nodes, self.unreadable_lines = read_nodes(folder)
        """Snapshots of the whole job by node."""
        self.timeline = read_timeline(folder)
        self._operators = folder / "framework" / "torch" / "operators.json"
        if not self.nodes and not self.timeline.events:
            raise NotEvaluatedError(
                "the training job wrote no profiler output; set profiler-interval-ms, or on AWS ProfilerConfig"
            )

    @cached_property
    def operators(self) -> dict[str, Any] | None:
        """operators.json of torch.profiler, where the job wrote one."""
        if not self._operators.is_file():
            return None
        document: dict[str, Any] = json.loads(self._operators.read_text(encoding="utf-8"))
        return document

    @cached_property
    def training(self) -> dict[str, NodeMetrics]:
        """Snapshots by node, of the training loop where the timeline says when it was, otherwise of the whole job.

        Starting and saving have other causes, and cures, than what the rules over use look for.
        """
        if not self.nodes:
            raise NotEvaluatedError(
                "no system metrics; set profiler-interval-ms (100 to 60000), or on AWS ProfilerConfig"
            )
        cut = {}
        for name, node in self.nodes.items():
            loop = self.timeline.loop(name) or self.timeline.loop()
            cut[name] = node.between(*loop) if loop else node
        return cut

    def gpus(self, measure: str = "GPUUtilization") -> dict[str, dict[str, Array]]:
        """Node to GPU to its column [T] of `training`, for the nodes that have GPUs.

        Raises NotEvaluatedError without one.
        """
        found = {name: node.measured("gpu", measure) for name, node in self.training.items()}
        found = {name: gpus for name, gpus in found.items() if gpus}
        if not found:
            raise NotEvaluatedError(
                f"no GPU metrics: no {measure} was recorded; the instance has no GPU, or the sampler lacks nvidia-ml-py"
            )
        return found

    def recorded(self, node: str, *columns: Array) -> tuple[Array, ...]:
        """Times and columns of those snapshots of `training` that have all of `columns`."""
        whole = ~np.isnan(columns).any(axis=0)
        return self.training[node].times[whole], *(column[whole] for column in columns)

    def span(self) -> tuple[float, float]:
        """Begin and end of what was recorded, seconds since the epoch."""
        events = self.timeline.events
        starts = [node.times[0] for node in self.nodes.values()] + [event.start for event in events[:1]]
        ends = [node.times[-1] for node in self.nodes.values()]
        return float(min(starts)), float(max([*ends, *(event.start + event.seconds for event in events)]))
