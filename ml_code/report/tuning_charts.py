"""Charts of the tuning job, each with the sentence that says what it shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from report.svg import INK, SERIES, Chart, figure, inline, legend, styled

_MAP_COLOR = "#3b82f6"
# More numbers than that would lie on each other.
_MAP_NUMBERS = 24
# Of the axis: what a number takes up.
_MAP_NUMBER_WIDTH = 0.1
_CHANCE = 0.05


@styled
def best_so_far(jobs: Sequence[Mapping[str, Any]], objective: Mapping[str, Any]) -> Chart:
    """Objective of each tuning job in the order they ran, and the best up to then."""
    title = "Best so far"
    minimize = _minimised(objective)
    values = [
        (i, job["objective"]) for i, job in enumerate(jobs, start=1) if job.get("objective") is not None
    ]
    if not values:
        return Chart(title, "Not drawn: no tuning job reported its objective.")
    x, y = zip(*values, strict=True)
    name = objective.get("MetricName", "objective")
    best = (np.minimum if minimize else np.maximum).accumulate(y)
    drawing, axes = figure()
    axes.plot(x, y, "o", color=SERIES[0], markersize=4.5, label="job")
    axes.step(x, best, where="post", color=SERIES[1], label="best so far")
    axes.set_xlabel("job")
    axes.set_ylabel(name)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    legend(axes)
    first = x[list(y).index(best[-1])]
    worst = max(y) if minimize else min(y)
    sentence = (
        f"Job {first} of {len(jobs)} is the best with {name} {best[-1]:.4g}; the worst ended at {worst:.4g}."
    )
    return Chart(title, sentence, inline(drawing, "best"))


@styled
def learning_rates(jobs: Sequence[Mapping[str, Any]], objective: Mapping[str, Any]) -> Chart:
    """Objective over learning rate, one colour per batch size."""
    title = "Learning rate and batch size"
    points = _points(jobs)
    if not points:
        return Chart(title, "Not drawn: no finished job has a learning rate.")
    drawing, axes = figure()
    sizes = sorted({size for _, size, _ in points}, key=lambda size: (len(size), size))
    for i, size in enumerate(sizes):
        chosen = [(rate, value) for rate, other, value in points if other == size]
        rates, values = zip(*chosen, strict=True)
        marker = "osD^vP"[i % 6]
        axes.plot(rates, values, marker, color=SERIES[i % len(SERIES)], markersize=5, label=f"batch {size}")
    _rate_axis(axes)
    axes.set_ylabel(objective.get("MetricName", "objective"))
    legend(axes)
    rate, size, value = (min if _minimised(objective) else max)(points, key=lambda point: point[2])
    sentence = (
        f"{len(points)} jobs; the best has learning rate {rate:.3g} and batch size {size}, "
        f"objective {value:.4g}."
    )
    return Chart(title, sentence, inline(drawing, "rates"))


@styled
def rate_batch_map(jobs: Sequence[Mapping[str, Any]], objective: Mapping[str, Any]) -> Chart:
    """Learning rate x batch size; the stronger a cell's colour, the better the best objective that a job had there."""
    title = "Map of learning rate and batch size"
    points = _points(jobs)
    sizes = sorted({size for _, size, _ in points}, key=lambda size: (len(size), size))
    if len(points) < 2 or len({rate for rate, *_ in points}) < 2:
        return Chart(title, "Not drawn: it takes two finished jobs with different learning rates.")
    drawing, axes = figure()
    values = np.array([value for *_, value in points])
    span = values.max() - values.min() or 1.0
    worth = (values.max() - values if _minimised(objective) else values - values.min()) / span
    cells = np.zeros((len(points), 4))
    cells[:, :3] = mpl.colors.to_rgb(_MAP_COLOR)
    # Opacity and not colour carries the value: the page's background shows through in both modes.
    cells[:, 3] = 0.12 + 0.78 * worth
    x, y = [rate for rate, *_ in points], [sizes.index(size) for _, size, _ in points]
    axes.scatter(x, y, s=260, marker="s", c=cells, linewidths=0)
    if len(points) <= _MAP_NUMBERS:
        for rate, row, value in _apart(x, y, values.tolist(), worth.tolist()):
            axes.annotate(
                f"{value:.3g}",
                (rate, row),
                (0, 11),
                textcoords="offset points",
                ha="center",
                color=INK,
                fontsize=8,
            )
    _rate_axis(axes)
    axes.margins(x=0.12)
    axes.set_yticks(range(len(sizes)), sizes)
    axes.set_ylim(-0.6, len(sizes) - 0.4)
    axes.set_ylabel("batch size")
    rate, size, value = (min if _minimised(objective) else max)(points, key=lambda point: point[2])
    sentence = (
        f"Each square is a job; the stronger the colour, the better its objective. The best of the {len(points)} lies "
        f"at learning rate {rate:.3g} and batch size {size}; {len(sizes)} batch "
        f"{'size was' if len(sizes) == 1 else 'sizes were'} tried."
    )
    return Chart(title, sentence, inline(drawing, "map"))


def _apart(
    rates: Sequence[float], rows: Sequence[int], values: Sequence[float], worth: Sequence[float]
) -> list[tuple[float, int, float]]:
    """The squares to write a number at, the better first: none where another's number is in the way."""
    width = _MAP_NUMBER_WIDTH * math.log(max(rates) / min(rates))
    chosen: list[tuple[float, int, float]] = []
    for at in sorted(range(len(rates)), key=lambda at: -worth[at]):
        near = (abs(math.log(rates[at] / rate)) < width for rate, row, _ in chosen if row == rows[at])
        if not any(near):
            chosen.append((rates[at], rows[at], values[at]))
    return chosen


@styled
def importance_bars(importance: Mapping[str, Any]) -> Chart:
    """report.json's `importance`, the most important hyperparameter on top."""
    title = "What mattered"
    if importance["reason"]:
        return Chart(title, f"Not drawn: {importance['reason']}")
    parameters = importance["parameters"]
    drawing, axes = figure()
    names, values = [one["name"] for one in parameters], [one["importance"] for one in parameters]
    bars = axes.barh(names[::-1], values[::-1], color=SERIES[0], height=0.6)
    axes.bar_label(bars, [f"{value:.2f}" for value in values[::-1]], padding=3, color=INK)
    axes.set_xlim(0, 1.12)
    axes.grid(False, axis="y")
    forest = importance["method"] == "random forest"
    axes.set_xlabel("share of importance" if forest else "|rank correlation| with the objective")
    return Chart(title, _importance_sentence(importance), inline(drawing, "importance"))


def _importance_sentence(importance: Mapping[str, Any]) -> str:
    first = importance["parameters"][0]
    jobs, name, value = importance["jobs"], first["name"], first["importance"]
    better = "larger values did better" if first["correlation"] > 0 else "smaller values did better"
    if importance["method"] == "random forest":
        found = f"Over {jobs} jobs {name} has {value:.0%} of the importance ({better}): permutation in a random forest."
    else:
        chance = "may well be chance" if first["p"] > _CHANCE else "is hardly chance"
        found = (
            f"Over {jobs} jobs the objective goes with {name} most ({better}): rank correlation {value:.2f}, which "
            f"{chance} (p = {first['p']:.2g}). So few jobs say little."
        )
    return f"{found} A tuner's jobs are no random sample: this orders the hyperparameters and proves nothing."


def _points(jobs: Sequence[Mapping[str, Any]]) -> list[tuple[float, str, float]]:
    """Learning rate, batch size and objective of the finished jobs."""
    return [
        (float(rate), str(_hyperparameter(job, "batch-size") or "not given"), float(job["objective"]))
        for job in jobs
        if (rate := _hyperparameter(job, "lr")) is not None and job.get("objective") is not None
    ]


def _minimised(objective: Mapping[str, Any]) -> bool:
    return bool(objective.get("Type", "Minimize") == "Minimize")


def _rate_axis(axes: Axes) -> None:
    axes.set_xscale("log")
    low, high = axes.dataLim.intervalx
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,), numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("learning rate (log scale)")


def _hyperparameter(job: Mapping[str, Any], name: str) -> Any:
    given = job.get("hyperparameters", {})
    spellings = {"lr": ("lr", "learning-rate", "learning_rate"), "batch-size": ("batch-size", "batch_size")}
    return next((str(given[key]).strip('"') for key in spellings[name] if key in given), None)
