"""The tables of the profiler report, as JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from report.system_metrics import system_metrics
from rules.profiler.profile import Profile
from rules.profiler.steps import statistics
from rules.profiler.timeline import PHASES

_PHASE_NAMES = {
    "data_wait": "waiting for data",
    "transfer": "transfer to the device",
}


def job_summary(profile: Profile) -> dict[str, Any]:
    """When the job was, and its parts in seconds; the parts are None without a timeline."""
    begin, end = profile.span()
    loop = profile.timeline.loop()
    parts: dict[str, float | None] = {"initialization": None, "training loop": None, "finalization": None}
    if loop:
        parts = {
            "initialization": loop[0] - begin,
            "training loop": loop[1] - loop[0],
            "finalization": end - loop[1],
        }
    return {
        "start": _moment(begin),
        "end": _moment(end),
        "seconds": end - begin,
        "parts": parts,
        "nodes": sorted({*profile.nodes, *profile.timeline.nodes()}),
    }


def _moment(epoch: float) -> str:
    return datetime.fromtimestamp(epoch, UTC).isoformat(timespec="seconds")


def system_usage(profile: Profile) -> list[dict[str, Any]]:
    """One row per node and resource: max, p99, p95, p50 and min over the whole job."""
    return [metric.summary() for node in profile.nodes.values() for metric in system_metrics(node)]


def step_rows(profile: Profile) -> list[dict[str, Any]]:
    """One row per node and mode: how many steps there are, their seconds in all, and statistics of one, in seconds."""
    rows: list[dict[str, Any]] = []
    for node in profile.timeline.nodes():
        for mode in ("TRAIN", "EVAL", "PREDICT"):
            steps = profile.timeline.steps(node, mode)
            if len(steps.seconds):
                total = float((steps.seconds * steps.stands_for).sum())
                row = {"node": node, "mode": mode, "count": int(steps.stands_for.sum()), "total": total}
                rows.append({**row, **statistics(steps.seconds)})
    return rows


def phase_rows(profile: Profile) -> Mapping[str, float]:
    """Seconds of the training loop by what went on, added up over nodes, in the order in which it happens."""
    seconds = {
        _PHASE_NAMES.get(phase, phase): value
        for phase, value in profile.timeline.phase_seconds().items()
        if phase in PHASES
    }
    train, evaluation = (profile.timeline.step_seconds(mode) for mode in ("TRAIN", "EVAL"))
    if seconds:
        seconds["rest of the training steps"] = max(train - sum(seconds.values()), 0.0)
    elif train:
        seconds["training steps"] = train
    seconds["evaluation"] = evaluation
    loops = [loop for node in profile.timeline.nodes() if (loop := profile.timeline.loop(node))]
    between = sum(end - start for start, end in loops) - train - evaluation
    seconds["between steps: checkpoints, ends of epochs"] = max(between, 0.0)
    return {name: value for name, value in seconds.items() if value > 0}
