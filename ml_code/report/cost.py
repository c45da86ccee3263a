"""The assessment's own share of a run's cost, which the DAG cannot know when it writes context.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_REASON = "until the report was written; starting the job and uploading come on top"


def with_assessment(
    cost: Mapping[str, Any] | None, seconds: float, images_per_second: float
) -> dict[str, Any] | None:
    """report.json's `cost`: the context's, with the stage `assessment` and the total filled in.

    `images_per_second` is what this machine answers in batches. The total is null when any stage's cost is. None stays
    None: a context that knows of no cost.
    """
    if cost is None:
        return None
    stages = [
        _assessment(stage, seconds) if stage["stage"] == "assessment" else stage for stage in cost["stages"]
    ]
    costs = [stage["cost"] for stage in stages]
    return {
        **cost,
        "stages": stages,
        "total": None if None in costs else round(sum(costs), 6),
        "serving": _serving(cost.get("serving"), images_per_second),
    }


def _serving(serving: Mapping[str, Any] | None, images_per_second: float) -> dict[str, Any] | None:
    """With what a thousand predictions cost on an instance that is always busy, and as fast as this machine."""
    if serving is None or serving["rate_per_hour"] is None:
        return None if serving is None else dict(serving)
    return {
        **serving,
        "per_1000_predictions": round(1000 / images_per_second * serving["rate_per_hour"] / 3600, 6),
    }


def _assessment(stage: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    rate = stage["rate_per_hour"]
    if rate is None:
        return {**stage, "seconds": seconds}
    cost = round(seconds * stage["instances"] * rate / 3600, 6)
    return {**stage, "seconds": seconds, "cost": cost, "reason": _REASON}
