"""Charts of the answers on the test split, each with the sentence that says what it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from report.svg import MUTED, SERIES, Chart, figure, inline, legend, styled

# Larger confusion matrices are pictures: the numbers would not be legible in cells.
CONFUSION_TABLE_CLASSES = 20


@styled
def reliability_diagram(bins: Sequence[Mapping[str, Any]], error: float) -> Chart:
    """Accuracy over stated probability, one point a bin, its area as the bin's images; on the diagonal they agree."""
    filled = [one for one in bins if one["count"]]
    drawing, axes = figure()
    total = sum(one["count"] for one in filled)
    confidence, accuracy = [one["confidence"] for one in filled], [one["accuracy"] for one in filled]
    areas = [14 + 160 * one["count"] / total for one in filled]
    axes.plot([0, 1], [0, 1], color=MUTED, linestyle="--", linewidth=1, label="calibrated")
    axes.plot(confidence, accuracy, color=SERIES[0], linewidth=1)
    axes.scatter(confidence, accuracy, s=areas, color=SERIES[0], label="a bin of images")
    axes.set_xlabel("stated probability of the prediction")
    axes.set_ylabel("share that is right")
    _shares(axes)
    legend(axes)
    gap = sum(one["count"] * (one["confidence"] - one["accuracy"]) for one in filled) / total
    lean = "too sure of itself" if gap > 0 else "not sure enough"
    sentence = (
        f"On average stated probability and accuracy are {100 * error:.1f} percentage points apart (15 bins, "
        f"{len(filled)} of them with images); below the dashed line the model is too sure. Over all images it is "
        f"{lean}, by {100 * abs(gap):.1f} points."
    )
    return Chart("Calibration", sentence, inline(drawing, "reliability"))


@styled
def confusion_picture(confusion: Sequence[Sequence[int]]) -> Chart:
    """The confusion matrix as a picture, rows normalised; for more classes than a table can show."""
    counts = np.asarray(confusion, dtype=float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    drawing, axes = figure(height=340)
    # Opacity and not colour carries the share: the page's background shows through in both modes.
    cells = np.zeros((*shares.shape, 4))
    cells[..., :3] = mpl.colors.to_rgb("#3b82f6")
    cells[..., 3] = np.sqrt(shares)
    axes.imshow(cells, interpolation="nearest")
    axes.grid(False)
    axes.set_xlabel("predicted class (number)", color=MUTED)
    axes.set_ylabel("true class (number)", color=MUTED)
    diagonal = np.diag(shares)[counts.sum(axis=1) > 0]
    sentence = (
        f"Each row is a true class, numbered as in the table below; the stronger the colour, the larger "
        f"its share. On average {diagonal.mean():.1%} of a class lies on the diagonal, "
        f"{diagonal.min():.1%} in the worst class."
    )
    return Chart("Confusion matrix", sentence, inline(drawing, "confusion"))


@styled
def precision_recall(ranking: Mapping[str, Any]) -> Chart:
    """Precision over recall as the threshold falls: all classes together, and the three that are ranked worst."""
    drawing, axes = figure()
    for number, curve in enumerate(ranking["curves"]):
        recall, precision = zip(*curve["points"], strict=True)
        name = "all together" if curve["class"] is None else curve["class"]
        axes.plot(recall, precision, color=SERIES[number], linestyle="-" if number == 0 else "--", label=name)
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    _shares(axes)
    legend(axes)
    worst = ", ".join(curve["class"] for curve in ranking["curves"][1:])
    sentence = (
        f"Mean average precision is {ranking['macro_average_precision']:.1%} over the classes; the ones drawn, "
        f"{worst}, are ranked worst. A curve in the upper right corner finds all of a class without a false alarm."
    )
    return Chart("Precision and recall", sentence, inline(drawing, "precision-recall"))


def _shares(axes: Axes) -> None:
    """Both axes from 0 to 100 %."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    axes.set_xlim(-0.02, 1.04)
    axes.set_ylim(-0.04, 1.06)
