"""drift.html: what was captured beside what was trained on, as one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from report.drift import Snapshot
from report.sample import Sample
from report.svg import SERIES, Chart, figure, inline, legend, styled
from report.templates import environment, style

# Those that part most; the table has all.
_DRAWN, _CLASSES = 6, 10
_NAME_LENGTH = 22


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
    known = snapshot.counts[name]
    shares = {"training": known / max(known.sum(), 1), "captured": found / max(found.sum(), 1)}
    edges = snapshot.edges.get(name)
    drawing = _of_classes(snapshot.classes, shares) if edges is None else _in_tenths(name, edges, shares)
    sentence = (
        f"PSI {row['psi']:.3g} with up to {row['chance']:.3g} by chance: "
        f"{'they part' if row['drifted'] else 'they do not part'}."
    )
    if edges is None and len(known) > _CLASSES:
        sentence += f" Drawn are the {_CLASSES} of {len(known)} classes that part most."
    return Chart(name.capitalize(), sentence, inline(drawing, f"drift-{name.replace(' ', '-')}"))


def _in_tenths(name: str, edges: Any, shares: Mapping[str, Any]) -> Figure:
    drawing, axes = figure()
    at = np.arange(len(edges) + 1)
    for offset, (label, heights), color in zip((-0.2, 0.2), shares.items(), SERIES, strict=False):
        axes.bar(at + offset, heights, 0.4, color=color, label=label)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    # Between two bins is an edge.
    axes.set_xticks(np.arange(len(edges)) + 0.5, [_edge(edge) for edge in edges])
    axes.set_xlabel(f"{name}, in tenths of the training images")
    legend(axes)
    return drawing


def _of_classes(classes: Sequence[str], shares: Mapping[str, Any]) -> Figure:
    """Those that part most, in their own order."""
    known, found = shares.values()
    chosen = np.sort(np.argsort(-np.abs(known - found), kind="stable")[:_CLASSES])
    drawing, axes = figure()
    at = np.arange(len(chosen))
    for offset, (label, widths), color in zip((-0.2, 0.2), shares.items(), SERIES, strict=False):
        axes.barh(at + offset, widths[chosen], 0.4, color=color, label=label)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    # A class may be called "$1 and $2", which is no formula.
    axes.set_yticks(at, [_short(classes[number]) for number in chosen], parse_math=False)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set_xlabel("share of the images")
    legend(axes)
    return drawing


def _edge(value: float) -> str:
    return f"{value:.3g}" if abs(value) >= 10 else f"{value:.2f}"


def _short(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 1]}…"
