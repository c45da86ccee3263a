"""profiler-report.html: what a job's profile says, as one self-contained page."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from report import profiler_charts as charts
from report.formats import number
from report.profiler_summary import job_summary, phase_rows, step_rows, system_usage
from report.rule_plots import rule_plot
from report.svg import Chart
from report.system_metrics import system_metrics
from report.templates import environment, style
from rules.profiler.profile import Profile
from rules.profiler.report import Checked
from rules.profiler.savings import Change


def render_profile(profile: Profile, results: Sequence[Checked], ranked: Sequence[Change]) -> str:
    """The page as one string without references to anything outside it."""
    made = environment()
    made.filters |= {"number": _figure, "milliseconds": lambda value: number(1000 * value, 3)}
    return made.get_template("profiler.html.j2").render(
        job=job_summary(profile),
        changes=ranked,
        results=results,
        parameters={one.name: dataclasses.asdict(one.rule) for one in results},
        usage=system_usage(profile),
        steps=step_rows(profile),
        phases=phase_rows(profile),
        operators=profile.operators,
        unreadable=profile.unreadable_lines + profile.timeline.unreadable,
        charts=_charts(profile),
        evidence=_evidence(results),
        style=style(),
    )


def _figure(value: float) -> str:
    """Three significant digits, and all of those before the point."""
    return number(round(value)) if abs(value) >= 1000 else number(value, 3)


def _charts(profile: Profile) -> dict[str, Chart]:
    metrics = [metric for node in profile.nodes.values() for metric in system_metrics(node)]
    return {
        "use": charts.resources(profile, metrics, "%", "Use over time"),
        "rates": charts.resources(profile, metrics, "MB/s", "Disk and network over time"),
        "histogram": charts.step_histogram(profile),
        "steps": charts.step_timeline(profile),
        "phases": charts.phases(phase_rows(profile)),
    }


def _evidence(results: Sequence[Checked]) -> list[Chart]:
    """A chart for each rule that found an issue and has one."""
    drawn = [
        rule_plot({"name": one.name} | dataclasses.asdict(one.finding))
        for one in results
        if one.finding and one.finding.issue
    ]
    return [chart for chart in drawn if chart]
