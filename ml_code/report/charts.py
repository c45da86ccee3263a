"""Charts of the training job, each with the sentence that says what it shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from report.svg import INK, SERIES, Chart, figure, inline, legend, styled
from report.system_metrics import SystemMetric
from rules.debug.saved_tensors import Point, evaluation_passes

LossSeries = Mapping[str, Sequence[Point]]

_PHASES = (
    ("data", "waiting for data"),
    ("transfer", "transfer to the device"),
    ("forward", "forward"),
    ("backward", "backward"),
    ("optimizer", "optimizer"),
)


@styled
def step_losses(losses: LossSeries, reason: str | None) -> Chart:
    """TRAIN and EVAL losses as the debugger saved them, on twin x axes.

    `losses` maps TRAIN and EVAL to saved points; `reason` says why they are missing.
    """
    title = "Loss per step"
    train, evaluation = ([(p.step, p.value) for p in losses.get(mode, ())] for mode in ("TRAIN", "EVAL"))
    if not train or not evaluation:
        return Chart(title, f"Not drawn: {reason or 'the debugger saved no losses in TRAIN and EVAL mode.'}")
    passes = [(one.step, one.value) for one in evaluation_passes(losses["EVAL"])]
    drawing, axes = figure()
    twin = axes.twiny()
    twin.grid(False)
    twin.spines["top"].set_visible(True)
    _line(twin, evaluation, "EVAL", SERIES[1], linewidth=0.8, alpha=0.4)
    _line(axes, train, "TRAIN", SERIES[0], linewidth=1.1)
    _line(twin, passes, "EVAL, mean of each pass", SERIES[1], linewidth=1.4)
    for owner, name, color in ((axes, "TRAIN", SERIES[0]), (twin, "EVAL", SERIES[1])):
        owner.set_xlabel(f"{name} step", color=color)
        owner.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_ylabel("cross-entropy")
    axes.legend(handles=[owner.get_lines()[-1] for owner in (axes, twin)], loc="upper right")
    sentence = (
        f"TRAIN went from {train[0][1]:.3g} to {train[-1][1]:.3g} over {len(train)} saved steps (bottom "
        f"axis), EVAL from {passes[0][1]:.3g} to {passes[-1][1]:.3g} over {len(passes)} passes of "
        f"{len(evaluation)} saved batches in all (top axis)."
    )
    return Chart(title, sentence, inline(drawing, "steps"))


@styled
def epoch_losses(epochs: Sequence[Mapping[str, Any]]) -> Chart:
    """Training and validation loss per epoch, from history.json."""
    best = _best_epoch(epochs)
    chart = _per_epoch(epochs, "loss", "Loss per epoch", "mean cross-entropy")
    if chart.svg is None or best is None:
        return chart
    sentence = (
        f"Validation loss is lowest at epoch {best['epoch']}, {best['validation_loss']:.4g}; "
        "that epoch's weights are the ones saved."
    )
    return Chart(chart.title, sentence, chart.svg)


@styled
def epoch_accuracy(epochs: Sequence[Mapping[str, Any]]) -> Chart:
    """Training and validation accuracy per epoch, from history.json."""
    chart = _per_epoch(epochs, "accuracy", "Accuracy per epoch", "accuracy")
    best = _best_epoch(epochs)
    if chart.svg is None or best is None:
        return chart
    sentence = (
        f"At the saved epoch {best['epoch']}, {best['train_accuracy']:.2%} of the training images and "
        f"{best['validation_accuracy']:.2%} of the validation images are right."
    )
    return Chart(chart.title, sentence, chart.svg)


def _line(axes: Axes, points: Sequence[tuple[int, float]], label: str, color: str, **style: Any) -> None:
    x, y = zip(*points, strict=True)
    axes.plot(x, y, marker="." if len(points) < 30 else None, color=color, label=label, **style)


def _best_epoch(epochs: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    finite = [epoch for epoch in epochs if epoch.get("validation_loss") is not None]
    return min(finite, key=lambda epoch: float(epoch["validation_loss"]), default=None)


def _per_epoch(epochs: Sequence[Mapping[str, Any]], measure: str, title: str, label: str) -> Chart:
    if not epochs:
        return Chart(title, "Not drawn: the training job wrote no history.")
    drawing, axes = figure()
    x = [epoch["epoch"] for epoch in epochs]
    for name, color in (("train", SERIES[0]), ("validation", SERIES[1])):
        y = [
            math.nan if epoch.get(f"{name}_{measure}") is None else epoch[f"{name}_{measure}"]
            for epoch in epochs
        ]
        axes.plot(x, y, color=color, marker="o", markersize=3, label=name)
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    if measure == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    legend(axes)
    return Chart(title, f"{title} over {len(epochs)} epochs.", inline(drawing, f"epoch-{measure}"))


@styled
def step_clock(seconds: Mapping[str, float]) -> Chart:
    """Where the training loop's time went, in seconds per phase."""
    title = "Where the time went"
    names = dict(_PHASES)
    phases = [(names.get(key, key.replace("_", " ")), value) for key, value in seconds.items() if value > 0]
    total = sum(value for _, value in phases)
    if not total:
        return Chart(title, "Not drawn: the training job wrote no step clock (steps.json).")
    drawing, axes = figure()
    phases.sort(key=lambda phase: phase[1])
    labels, values = zip(*phases, strict=True)
    bars = axes.barh(labels, values, color=SERIES[0], height=0.6)
    axes.bar_label(bars, [f"{value:.2f} s" for value in values], padding=3, color=INK)
    axes.margins(x=0.18)
    axes.grid(False, axis="y")
    axes.set_xlabel("seconds in the training loop")
    label, value = phases[-1]
    sentence = (
        f"{label.capitalize()} took most of the loop's {total:.1f} s: {value:.1f} s, {value / total:.0%}."
    )
    return Chart(title, sentence, inline(drawing, "clock"))


@styled
def system_timeline(metrics: Sequence[SystemMetric], unit: str, title: str) -> Chart:
    """Every resource measured in `unit` over the seconds of the training job."""
    chosen = [metric for metric in metrics if metric.unit == unit]
    if not chosen:
        return Chart(title, f"Not drawn: no system metric in {unit} was recorded.")
    drawing, axes = figure()
    nodes = {metric.node for metric in chosen}
    for i, metric in enumerate(chosen):
        name = metric.resource if len(nodes) == 1 else f"{metric.resource} ({metric.node})"
        style = "-" if i < len(SERIES) else "--"
        marker = "." if len(metric.values) < 3 else None
        color = SERIES[i % len(SERIES)]
        axes.plot(metric.seconds, metric.values, style, marker=marker, color=color, linewidth=1.2, label=name)
    axes.set_xlabel("seconds since the first sample")
    axes.set_ylabel(unit)
    if unit == "%":
        axes.set_ylim(0, 105)
    legend(axes)
    medians = ", ".join(f"{metric.resource} {np.median(metric.values):.3g}" for metric in chosen)
    sentence = f"Medians in {unit}: {medians}; {len(chosen[0].values)} samples."
    return Chart(title, sentence, inline(drawing, f"system-{'percent' if unit == '%' else 'rate'}"))
