"""What a profiler rule finds, and how many datapoints it waits for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rules.profiler.system_metrics import Array
from rules.verdict import Finding, NotEvaluatedError, Plot, Series

# Percentiles of fewer points say nothing.
MINIMUM = 20


@dataclass(frozen=True)
class ProfilerFinding(Finding):
    """A finding with what AWS's rule reports carry.

    `triggered` is how often the rule fired, `violations` how many datapoints were on the wrong side, `datapoints`
    how many there were.
    """

    triggered: int = 0
    violations: int = 0
    datapoints: int = 0
    details: Mapping[str, Any] = field(default_factory=dict)

    def report(self, rule: Any) -> dict[str, Any]:
        """AWS's `profiler-reports/<Rule>.json`."""
        return rule_report(rule, self.triggered, self.violations, self.details, self.datapoints)


def rule_report(
    rule: Any,
    triggered: int = 0,
    violations: int = 0,
    details: Mapping[str, Any] | None = None,
    datapoints: int = 0,
) -> dict[str, Any]:
    """AWS's JSON of one profiler rule; `rule` is the rule with its parameters in force."""
    parameters = [f"{name}:{value}" for name, value in dataclasses.asdict(rule).items()]
    return {
        "RuleTriggered": triggered,
        "Violations": violations,
        "Details": dict(details or {}),
        "Datapoints": datapoints,
        "RuleParameters": "\n".join(parameters),
    }


@dataclass(frozen=True)
class Fitted:
    """`patience` and `window` that a run of `points` datapoints allows; `note` says what was changed."""

    points: int
    patience: int
    window: int
    note: str

    def windows(self) -> Iterator[slice]:
        """Windows side by side, each ending after `patience` points and the last one with the run.

        AWS scans once a minute and looks at the last `window` points each time; here no point counts twice.
        """
        for end in sorted(range(self.points, self.patience, -self.window)):
            if end >= self.window:
                yield slice(end - self.window, end)


def fit_to_run(rule: Any, times: Array, ended: bool) -> Fitted:
    """The rule's `patience` and `window` (when it has one) for datapoints at `times` [T], in seconds.

    AWS's defaults count datapoints: 1,000 at 500 ms are 8.3 minutes, so a shorter job could never be told anything.
    For a run that has `ended` and is no longer, a patience left at its default is a quarter of the datapoints, and at
    least `MINIMUM`; a default window takes what is left. A job that still runs may yet have them. Raises
    NotEvaluatedError where fewer than `MINIMUM` datapoints are left, and where patience or window is not reached.
    """
    defaults = {one.name: one.default for one in dataclasses.fields(rule)}
    points = len(times)
    seconds = float(times[-1] - times[0]) if points else 0.0
    patience, window = rule.patience, getattr(rule, "window", 1)
    changed = []
    if ended and points <= patience and patience == defaults["patience"]:
        patience = max(MINIMUM, points // 4)
        changed.append(f"patience {patience} instead of {rule.patience}")
    room = points - patience if changed else points
    if ended and window > room and window == defaults.get("window"):
        window = max(room, 1)
        changed.append(f"window {window} instead of {rule.window}")
    needed = max(patience + (MINIMUM if changed else 1), window)
    if points < needed:
        if not ended:
            raise NotEvaluatedError(f"{points} samples so far, and {needed} are needed while the job runs")
        raise NotEvaluatedError(
            f"too short: {points} samples in {seconds:.1f} s of training, {needed} are needed; "
            "sample more often (profiler-interval-ms), or lower `patience`"
        )
    note = (
        f" The run has {points} datapoints in {seconds:.0f} s, so: {', '.join(changed)}." if changed else ""
    )
    return Fitted(points, patience, window, note)


def over_time(name: str, times: Array, values: Array) -> Series:
    """A line over the seconds since the first of `times`."""
    return Series.of(name, zip(times - times[:1], values, strict=True))


def plot_over_time(y: str, series: list[Series], threshold: float | None = None) -> Plot:
    return Plot("seconds of training", y, tuple(series), threshold)
