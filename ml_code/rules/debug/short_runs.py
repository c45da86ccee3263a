"""Count parameters whose defaults are made for long runs."""

from __future__ import annotations

from rules.verdict import NotEvaluatedError


def cut(
    parameter: str, value: int, *, default: int, needs: int, points: int, unit: str, least: int = 3
) -> tuple[int, str]:
    """A parameter that can take effect in this run, and a note on what was done to it (empty: nothing).

    With `value` the rule needs `needs` points (of `unit`) to fire at all. Where the run has fewer and `value` is
    AWS's default, half of the points takes its place, and never less than `least`, since a handful of points says
    nothing; a value of the user's own is never touched.

    Raises NotEvaluatedError where the run is too short even so.
    """
    if points >= needs:
        return value, ""
    short = max(least, points // 2)
    if value != default or short >= value or points - short < needs - value:
        raise NotEvaluatedError(f"too short: {points} {unit}, {parameter} {value} needs {needs}")
    return short, f"{parameter} {value} cut to {short}: the run has {points} {unit}"
