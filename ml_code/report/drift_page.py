"""drift.html: what was captured beside what was trained on, as one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.ticker import PercentFormatter

from report.drift import Snapshot
from report.sample import Sample
from report.svg import SERIES, Chart, figure, inline, legend, styled
from report.templates import environment, style

# Those that part most; the table has all.
_DRAWN = 6


def render(document: Mapping[str, Any], snapshot: Snapshot | None, sample: Sample | None) -> str:
    """The page as one string without references to anything outside it.

    :param document: drift.json. :param snapshot: None, as the sample, where nothing was evaluated.
    """
    drawn = charts(document, snapshot, sample) if snapshot and sample else []
    return environment().get_template("drift.html.j2").render(d=document, charts=drawn, style=style())


def charts(document: Mapping[str, Any], snapshot: Snapshot, sample: Sample) -> list[Chart]:
    """The shares of both in each bin, of the measures that part most."""
    found = snapshot.count(sample)
    rows = sorted(document["measures"], key=lambda row: -row["psi"])[:_DRAWN]
    return [_shares(row, snapshot, found[row["name"]]) for row in rows]


@styled
def _shares(row: Mapping[str, Any], snapshot: Snapshot, found: Any) -> Chart:
    name = row["name"]
    known, edges = snapshot.counts[name], snapshot.edges.get(name)
    drawing, axes = figure()
    at = np.arange(len(known))
    for offset, counts, label, color in (
        (-0.2, known, "training", SERIES[0]),
        (0.2, found, "captured", SERIES[1]),
    ):
        axes.bar(at + offset, counts / max(counts.sum(), 1), 0.4, color=color, label=label)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    if edges is None:
        axes.set_xlabel("class (number)")
    else:
        # Between two bins is an edge.
        axes.set_xticks(np.arange(len(edges)) + 0.5, [_edge(edge) for edge in edges])
        axes.set_xlabel(f"{name}, in tenths of the training images")
    legend(axes)
    sentence = (
        f"PSI {row['psi']:.3g} with up to {row['chance']:.3g} by chance: "
        f"{'they part' if row['drifted'] else 'they do not part'}."
    )
    return Chart(name.capitalize(), sentence, inline(drawing, f"drift-{name.replace(' ', '-')}"))


def _edge(value: float) -> str:
    return f"{value:.3g}" if abs(value) >= 10 else f"{value:.2f}"
