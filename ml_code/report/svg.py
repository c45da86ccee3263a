"""Matplotlib figures as inline SVG that takes its colours and type from the page.

Colours are drawn as placeholders and replaced by CSS variables, so that one drawing serves light
mode, dark mode and print.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

P = ParamSpec("P")
R = TypeVar("R")

INK, MUTED, GRID = "#010101", "#020202", "#030303"
SERIES = ("#0a0a01", "#0a0a02", "#0a0a03", "#0a0a04", "#0a0a05", "#0a0a06")
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line"} | {
    color: f"--series-{i}" for i, color in enumerate(SERIES, start=1)
}
# Points. At the page's two-column width one point is about 1.3 CSS pixels, on a phone one.
_WIDTH, _HEIGHT, _FONT = 352, 216, 10
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": _FONT,
    "axes.labelsize": _FONT,
    "axes.titlesize": _FONT,
    "xtick.labelsize": _FONT - 0.5,
    "ytick.labelsize": _FONT - 0.5,
    "legend.fontsize": _FONT - 0.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "svg.hashsalt": "evergreen",
}


@dataclass(frozen=True)
class Chart:
    """A drawing and the sentence that says what it shows; without a drawing, why there is none."""

    title: str
    sentence: str
    svg: Markup | None = None


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function that draws: matplotlib reads its settings whenever it makes an element."""

    @functools.wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with mpl.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return wrapper


def figure(height: float = _HEIGHT) -> tuple[Figure, Axes]:
    """A figure with one pair of axes; `height` in points."""
    drawing = Figure(figsize=(_WIDTH / 72, height / 72), layout="constrained")
    return drawing, drawing.add_subplot()


def legend(axes: Axes) -> None:
    """One legend style for all charts: above the drawing, where it hides no data."""
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, columnspacing=1.2, handlelength=1.4)


def inline(drawing: Figure, name: str) -> Markup:
    """The figure as an <svg> element; ids begin with `name`, which is unique on the page."""
    buffer = io.StringIO()
    drawing.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # Its one global rule would style every other element of the page.
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"font:[^;\"]*?([\d.]+)px[^;\"]*", r"font-size: \1px", text)
    text = re.sub(r"font-family:[^;\"]*;?\s*", "", text)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    # The page gives the width; role and label are on the element around the drawing.
    text = re.sub(r'<svg ([^>]*?)width="[^"]*"', r'<svg \1aria-hidden="true"', text, count=1)
    text = re.sub(r'(<svg [^>]*?)height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text).replace("xlink:href", "href")
    return Markup(text)  # ruff: ignore[unsafe-markup-use] - matplotlib escapes the text it draws
