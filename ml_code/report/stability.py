"""How much of the order of the best trials is chance: their objective with other seeds."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean
from typing import Any

NOT_MEASURED = (
    "not measured: each trial ran once, with one seed (tuning.stability_seeds repeats the best three with more), so "
    "read two neighbours in the table as equals"
)


def stability(repeated: Mapping[str, Any] | None, tuning: Mapping[str, Any] | None) -> dict[str, Any]:
    """report.json's `stability`: each repeated trial's values, the tuning's own first, and what they say together.

    `stable` is whether the trial that the tuning found best is best by its mean too and its range lies apart from the
    others'; a training that diverged has None for its value, and makes its trial's mean None.
    """
    if repeated is None or tuning is None:
        return {"reason": NOT_MEASURED, "seeds": [], "stable": None, "trials": []}
    own = {job["name"]: job["objective"] for job in tuning["jobs"]}
    trials = [_trial(one["name"], [own.get(one["name"]), *one["values"]]) for one in repeated["trials"]]
    lowest_first = tuning["objective"]["Type"] == "Minimize"
    return {
        "reason": None,
        "seeds": repeated["seeds"],
        "stable": _stable(trials, lowest_first),
        "trials": trials,
    }


def _trial(name: str, values: list[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    whole = len(known) == len(values)
    return {
        "name": name,
        "values": values,
        "mean": mean(known) if whole else None,
        "low": min(known, default=None),
        "high": max(known, default=None),
    }


def _stable(trials: list[dict[str, Any]], lowest_first: bool) -> bool:
    first, *others = trials
    if first["mean"] is None:
        return False
    if lowest_first:
        return all(one["low"] is None or first["high"] < one["low"] for one in others)
    return all(one["high"] is None or first["low"] > one["high"] for one in others)
