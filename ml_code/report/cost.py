"""The assessment's own share of a run's cost, which the DAG cannot know when it writes context.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_REASON = "until the report was written; starting the job and uploading come on top"


def with_assessment(cost: Mapping[str, Any] | None, seconds: float) -> dict[str, Any] | None:
    """report.json's `cost`: the context's, with the stage `assessment` and the total filled in.

    The total is null when any stage's cost is. None stays None: a context that knows of no cost.
    """
    if cost is None:
        return None
    stages = [
        _assessment(stage, seconds) if stage["stage"] == "assessment" else stage for stage in cost["stages"]
    ]
    costs = [stage["cost"] for stage in stages]
    return {**cost, "stages": stages, "total": None if None in costs else round(sum(costs), 6)}


def _assessment(stage: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    rate = stage["rate_per_hour"]
    if rate is None:
        return {**stage, "seconds": seconds}
    cost = round(seconds * stage["instances"] * rate / 3600, 6)
    return {**stage, "seconds": seconds, "cost": cost, "reason": _REASON}
