"""The profiler report's charts, each with the sentence that says what it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from report.svg import GRID, INK, SERIES, Chart, figure, inline, styled
from report.system_metrics import SystemMetric
from rules.profiler.profile import Profile
from rules.profiler.steps import StepOutlier
from rules.profiler.system_metrics import Array

_HIDDEN = "Not drawn: "
# A job is cut into so many stretches; one that was evaluation for the most part is shaded.
_BANDS = 200


@styled
def resources(profile: Profile, metrics: Sequence[SystemMetric], unit: str, title: str) -> Chart:
    """Every metric in `unit` over the job's seconds, above bands of its phases."""
    chosen = [metric for metric in metrics if metric.unit == unit]
    if not chosen:
        return Chart(title, f"{_HIDDEN}no system metric in {unit} was recorded.")
    begin, end = profile.span()
    drawing, axes = figure()
    bands = _bands(axes, profile)
    nodes = {metric.node for metric in chosen}
    for i, metric in enumerate(chosen):
        name = metric.resource if len(nodes) == 1 else f"{metric.resource}, {metric.node}"
        start = profile.nodes[metric.node].times[0] - begin
        x, y = _thin(metric.seconds + start), _thin(metric.values)
        axes.plot(
            x, y, "-" if i < len(SERIES) else "--", color=SERIES[i % len(SERIES)], linewidth=1.1, label=name
        )
    axes.set_xlabel("seconds since the job began")
    axes.set_ylabel(unit)
    axes.set_xlim(0, end - begin)
    axes.set_ylim(0, 105 if unit == "%" else None)
    _legend(axes)
    medians = ", ".join(f"{metric.resource} {np.median(metric.values):.3g}" for metric in chosen)
    sentence = f"{bands}Medians in {unit}: {medians}."
    return Chart(title, sentence, inline(drawing, f"use-{'share' if unit == '%' else 'rate'}"))


def _thin(values: Array) -> Array:
    """Means of at most 400 blocks, which keep what one point of each would hide."""
    parts = np.array_split(values, min(len(values), 400))
    return np.array([part.mean() for part in parts])


def _bands(axes: Axes, profile: Profile) -> str:
    """Shade the job's phases; says which is which."""
    begin, end = profile.span()
    loop = profile.timeline.loop()
    if not loop:
        return ""
    for start, stop in ((begin, loop[0]), (loop[1], end)):
        axes.axvspan(start - begin, stop - begin, color=GRID, alpha=0.55, linewidth=0)
    edges = np.linspace(begin, end, _BANDS + 1)
    passes = profile.timeline.named("step", mode="EVAL")
    middles = [event.start + event.seconds / 2 for event in passes]
    busy, _ = np.histogram(middles, edges, weights=[event.seconds for event in passes])
    shaded = busy > np.diff(edges) / 2
    for start, stop in zip(edges[:-1][shaded], edges[1:][shaded], strict=True):
        axes.axvspan(start - begin, stop - begin, color=SERIES[4], alpha=0.18, linewidth=0)
    return f"Grey is before and after the training loop{', yellow is evaluation' if shaded.any() else ''}. "


def _legend(axes: Axes) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, columnspacing=1.2, handlelength=1.4)


@styled
def step_histogram(profile: Profile) -> Chart:
    """How long the training steps took, on a logarithmic count."""
    title = "How long the training steps took"
    seconds = {node: profile.timeline.steps(node, "TRAIN").seconds for node in profile.timeline.nodes()}
    seconds = {node: values for node, values in seconds.items() if len(values)}
    if not seconds:
        return Chart(title, f"{_HIDDEN}there is no training step in a timeline.")
    drawing, axes = figure()
    together = 1000 * np.concatenate(list(seconds.values()))
    edges = np.histogram_bin_edges(together, bins=40)
    for i, (node, values) in enumerate(seconds.items()):
        axes.hist(1000 * values, edges.tolist(), color=SERIES[i % len(SERIES)], alpha=0.75, label=node)
    axes.set_yscale("log")
    axes.set_xlabel("ms per step")
    axes.set_ylabel("steps (log scale)")
    if len(seconds) > 1:
        _legend(axes)
    p50, p99 = np.percentile(together, [50, 99])
    sentence = f"Half of {len(together):,} steps took {p50:.3g} ms or less, 99 % {p99:.3g} ms or less."
    return Chart(title, sentence, inline(drawing, "histogram"))


@styled
def step_timeline(profile: Profile) -> Chart:
    """Each training step's duration over the job's seconds, outliers marked."""
    title = "Training steps over time"
    begin, _ = profile.span()
    drawing, axes = figure()
    bands = _bands(axes, profile)
    outliers = total = 0
    for i, node in enumerate(profile.timeline.nodes()):
        steps = profile.timeline.steps(node, "TRAIN")
        if not len(steps.seconds):
            continue
        late = steps.seconds > steps.seconds.mean() + StepOutlier.stddev * steps.seconds.std()
        x, y = _thin(steps.start[~late] - begin), _thin(1000 * steps.seconds[~late])
        axes.plot(x, y, color=SERIES[i % len(SERIES)], linewidth=1, label=node)
        axes.plot(steps.start[late] - begin, 1000 * steps.seconds[late], ".", color=SERIES[5], markersize=4)
        outliers, total = outliers + int(late.sum()), total + len(late)
    if not total:
        return Chart(title, f"{_HIDDEN}there is no training step in a timeline.")
    axes.set_xlabel("seconds since the job began")
    axes.set_ylabel("ms per step")
    axes.set_ylim(bottom=0)
    sentence = (
        f"{bands}Dots are the {outliers:,} of {total:,} steps beyond mean + {StepOutlier.stddev:g} standard "
        "deviations; the line is the mean of the others."
    )
    return Chart(title, sentence, inline(drawing, "steps"))


@styled
def phases(seconds: Mapping[str, float]) -> Chart:
    """Where the training loop's time went."""
    title = "Where the training loop's time went"
    total = sum(seconds.values())
    if not total:
        return Chart(title, f"{_HIDDEN}there is no step in a timeline.")
    drawing, axes = figure()
    names = [name.partition(":")[0] for name in seconds]
    bars = axes.barh(names[::-1], list(seconds.values())[::-1], color=SERIES[0], height=0.6)
    labels = [f"{value:.3g} s, {value / total:.0%}" for value in seconds.values()]
    axes.bar_label(bars, labels[::-1], padding=3, color=INK)
    axes.margins(x=0.3)
    axes.grid(False, axis="y")
    axes.set_xlabel("seconds")
    largest = max(seconds, key=lambda name: seconds[name])
    return Chart(
        title,
        f"Most of {total:.3g} s was {largest}: {seconds[largest]:.3g} s, {seconds[largest] / total:.0%}.",
        inline(drawing, "phases"),
    )
