"""Reading smdebug's framework timeline: Chrome trace events below `framework/pevents/`, ours or smdebug's.

smdebug's LocalAlgorithmMetricsReader opens the same files to the same events; it takes several times as long, and
leaves a file that was cut off out with no more than a line in its log.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rules.profiler.system_metrics import Array

PHASES = ("data_wait", "transfer", "forward", "backward", "optimizer")
"""Of a training step, in the order in which they happen."""
_STEP = re.compile(r"Step:(?:ModeKeys\.)?(\w+)")
# smdebug names an event by its module and the row that it lies in by the phase.
_ROWS = {"Forward": "forward", "Backward(post-forward)": "backward"}
_NODE = re.compile(r"algo-\d+")


class Event(NamedTuple):
    """One stretch of time of one process; `start` in seconds since the epoch."""

    name: str
    node: str
    start: float
    seconds: float
    step: int | None
    mode: str | None
    """TRAIN, EVAL or PREDICT, where the event belongs to a step."""


@dataclass(frozen=True)
class Steps:
    """Steps of one node and mode: mode-local numbers, start in seconds since the epoch and duration, all [S]."""

    numbers: Array
    start: Array
    seconds: Array

    @property
    def stands_for(self) -> Array:
        """How many steps each is one of, [S]: of a very long training the timeline keeps some only."""
        return np.maximum(np.diff(self.numbers, append=self.numbers[-1:] + 1), 1)


@dataclass(frozen=True)
class Timeline:
    """The events of all nodes in the order of their start, and how many lines were unreadable."""

    events: Sequence[Event]
    unreadable: int = 0

    def named(self, name: str, node: str | None = None, mode: str | None = None) -> list[Event]:
        return [
            event
            for event in self.events
            if event.name == name and node in {None, event.node} and mode in {None, event.mode}
        ]

    def nodes(self) -> list[str]:
        return sorted({event.node for event in self.events})

    def steps(self, node: str, mode: str) -> Steps:
        events = [event for event in self.events if event.name == "step" and event.node == node]
        chosen = [event for event in events if event.mode == mode]
        numbers = [i if event.step is None else event.step for i, event in enumerate(chosen)]
        return Steps(
            np.array(numbers, dtype=float),
            np.array([event.start for event in chosen], dtype=float),
            np.array([event.seconds for event in chosen], dtype=float),
        )

    def phase_seconds(self, mode: str = "TRAIN") -> dict[str, float]:
        """Seconds in each phase of the steps of `mode`, added up over nodes; phases without an event are left out."""
        seconds = dict.fromkeys(PHASES, 0.0)
        for node in self.nodes():
            steps = self.steps(node, mode)
            weights = dict(zip(steps.numbers.tolist(), steps.stands_for.tolist(), strict=True))
            for phase in PHASES:
                events = self.named(phase, node, mode)
                seconds[phase] += sum(event.seconds * weights.get(event.step, 1.0) for event in events)
        return {phase: value for phase, value in seconds.items() if value > 0}

    def step_seconds(self, mode: str) -> float:
        """Of all steps of `mode`, added up over nodes."""
        steps = [self.steps(node, mode) for node in self.nodes()]
        return sum(float((one.seconds * one.stands_for).sum()) for one in steps)

    def loop(self, node: str | None = None) -> tuple[float, float] | None:
        """From the first step's start to the last one's end, seconds since the epoch."""
        steps = self.named("step", node)
        if not steps:
            return None
        return steps[0].start, max(event.start + event.seconds for event in steps)


def read_timeline(profiler_output: Path) -> Timeline:
    """The events below a `profiler-output` folder."""
    events: list[Event] = []
    unreadable = 0
    for file in sorted(profiler_output.glob("framework/pevents/*/*timeline.json")):
        node = _NODE.search(file.name)
        trace = _Trace(node[0] if node else "algo-1")
        unreadable += trace.read(file.read_text(encoding="utf-8", errors="replace"))
        events += trace.events
    return Timeline(sorted(events, key=lambda event: event.start), unreadable)


class _Trace:
    """The events of one file of `node`."""

    def __init__(self, node: str) -> None:
        self.events: list[Event] = []
        self._node = node
        self._base = 0
        self._rows: dict[Any, str] = {}
        """Names of what Chrome calls processes."""

    def read(self, text: str) -> int:
        """Takes in the array's elements, and of a file that was cut off the lines that are whole.

        Returns how many were unreadable.
        """
        try:
            parts: list[Any] = json.loads(text)
        except ValueError:
            parts = [
                bare for line in text.splitlines() if (bare := line.strip().strip(",")) not in {"", "[", "]"}
            ]
        broken = 0
        for part in parts:
            try:
                self._add(json.loads(part) if isinstance(part, str) else part)
            except (ValueError, KeyError, TypeError, AttributeError):
                broken += 1
        return broken

    def _add(self, row: Any) -> None:
        arguments = row.get("args") or {}
        if row["ph"] == "M":
            self._base = arguments.get("start_time_since_epoch_in_micros", self._base)
            self._rows[row.get("pid")] = arguments.get("name", self._rows.get(row.get("pid"), ""))
        elif row["ph"] == "X":
            name, mode = str(row["name"]), arguments.get("mode")
            if step := _STEP.fullmatch(name):
                name, mode = "step", step[1]
            number = arguments.get("step_num")
            event = Event(
                _ROWS.get(self._rows.get(row.get("pid"), ""), name),
                self._node,
                (self._base + row["ts"]) / 1e6,
                row["dur"] / 1e6,
                None if number is None else int(number),
                None if mode is None else str(mode).removeprefix("ModeKeys."),
            )
            self.events.append(event)
