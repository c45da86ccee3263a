"""What a rule looked at, drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.ticker import MaxNLocator

from report.svg import MUTED, SERIES, Chart, figure, inline, styled


@styled
def rule_plot(rule: Mapping[str, Any]) -> Chart | None:
    """The chart of one entry of report.json's `rules`; None where the rule has nothing to draw."""
    plot = rule["plot"]
    drawn = [series for series in plot["series"] if series["points"]] if plot else []
    if not drawn:
        return None
    drawing, axes = figure()
    # As many as there are colours; a rule gives the worst first.
    for series, color in zip(drawn, SERIES, strict=False):
        x, y = zip(*series["points"], strict=True)
        axes.plot(x, y, marker="." if len(x) < 30 else None, color=color, label=series["name"])
    if plot["threshold"] is not None:
        axes.axhline(plot["threshold"], color=MUTED, linestyle="--", linewidth=1, label="threshold")
    axes.set_xlabel(plot["x"])
    axes.set_ylabel(plot["y"])
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=1, handlelength=1.4)
    sentence = rule["recommendation"] or rule["detail"]
    return Chart(rule["name"], sentence, inline(drawing, f"rule-{rule['name']}"))
