"""Plots of tensors by step: the few that matter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rules.verdict import Plot, Series

_LINES = 4


def by_step(
    y: str,
    points: Mapping[str, Sequence[tuple[float, float]]],
    *,
    worst: Iterable[str],
    threshold: float | None = None,
    x: str = "training step",
) -> Plot:
    """The first few names of `worst` as lines over the steps."""
    names = list(dict.fromkeys(worst))[:_LINES]
    return Plot(x, y, tuple(Series.of(name, points[name]) for name in names), threshold)
