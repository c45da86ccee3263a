"""What the training job left in output.tar.gz, apart from the debugger's verdicts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from report.system_metrics import SystemMetric, read_system_metrics
from rules import Outputs
from rules.debug.saved_tensors import Mode, Point, SavedTensors
from rules.verdict import NotEvaluatedError


@dataclass(frozen=True)
class TrainingOutput:
    """`history` has one object per epoch, `steps` is the step clock; a reason says why a part is missing."""

    history: Sequence[Mapping[str, Any]]
    hook_errors: Sequence[str]
    unreadable: Sequence[Mapping[str, Any]]
    """split, file and reason of every training and validation image that was set apart."""
    steps: Mapping[str, Any] | None
    system: Sequence[SystemMetric]
    system_reason: str | None
    unreadable_lines: int
    losses: Mapping[str, Sequence[Point]]
    losses_reason: str | None
    stability: Mapping[str, Any] | None
    """The best trials with further seeds; None where none was repeated."""

    def profiler(self) -> dict[str, Any]:
        """report.json's `profiler`."""
        return {
            "system": [metric.summary() for metric in self.system],
            "reason": self.system_reason,
            "unreadable_lines": self.unreadable_lines,
            "steps": self.steps,
        }


def read_training_output(folder: Path, outputs: Outputs) -> TrainingOutput:
    """Read an unpacked output.tar.gz, and what debugger and profiler wrote.

    Raises ValueError for a file that is there and not JSON.
    """
    history = _json(folder / "history.json") or {}
    system, broken = read_system_metrics(outputs.profiler or folder)
    losses, losses_reason = _losses(outputs.debug or folder)
    return TrainingOutput(
        history=history.get("epochs", []),
        hook_errors=history.get("hook_errors", []),
        unreadable=history.get("unreadable", []),
        steps=_json(folder / "steps.json"),
        system=system,
        system_reason=None
        if system
        else "The training job wrote no system metrics (profiler-interval-ms is 0?).",
        unreadable_lines=broken,
        losses=losses,
        losses_reason=losses_reason,
        stability=_json(folder / "stability.json"),
    )


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def _losses(debug_output: Path) -> tuple[Mapping[str, Sequence[Point]], str | None]:
    modes: tuple[Mode, ...] = ("TRAIN", "EVAL")
    try:
        tensors = SavedTensors(debug_output)
        found: dict[str, list[Point]] = {
            mode: next(iter(tensors.losses(mode).values()), []) for mode in modes
        }
    except NotEvaluatedError as error:
        return {}, f"{error}."
    except Exception as error:  # a damaged file costs one chart and its reason is printed there
        return {}, f"the debugger's tensors could not be read ({type(error).__name__}: {error})."
    return found, None
