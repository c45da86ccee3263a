"""ProfilerReport: every other profiler rule, with what to change first.

report/profiler_report.py writes it down as AWS does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, get_type_hints

from rules.profiler.bottlenecks import CPUBottleneck, IOBottleneck
from rules.profiler.finding import ProfilerFinding, rule_report
from rules.profiler.gpus import BatchSize, LoadBalancing, LowGPUUtilization
from rules.profiler.memory import GPUMemoryIncrease, MemoryLeak
from rules.profiler.profile import Profile
from rules.profiler.savings import Change, changes
from rules.profiler.steps import Dataloader, MaxInitializationTime, StepOutlier
from rules.profiler.summaries import OverallFrameworkMetrics, OverallSystemUsage
from rules.verdict import NotEvaluatedError, Status

RULES: tuple[type[Any], ...] = (
    LowGPUUtilization,
    BatchSize,
    CPUBottleneck,
    IOBottleneck,
    Dataloader,
    GPUMemoryIncrease,
    MemoryLeak,
    LoadBalancing,
    MaxInitializationTime,
    StepOutlier,
    OverallSystemUsage,
    OverallFrameworkMetrics,
)


@dataclass(frozen=True)
class Checked:
    """One rule of the report; without a finding, `reason` says why."""

    name: str
    rule: Any
    finding: ProfilerFinding | None
    reason: str = ""

    @property
    def status(self) -> Status:
        if self.finding is None:
            return "NotEvaluated"
        return "IssuesFound" if self.finding.issue else "NoIssuesFound"

    def report(self) -> dict[str, Any]:
        """AWS's JSON of the rule; one that could not be evaluated, which AWS has no word for, says so in Details."""
        if self.finding is None:
            return rule_report(self.rule, details={"NotEvaluated": self.reason})
        return self.finding.report(self.rule)


@dataclass(frozen=True)
class _Report:
    unit: ClassVar[str] = "rules"

    def results(self, profile: Profile) -> list[Checked]:
        """Every rule, with its parameters as given here."""
        return [self._result(rule, profile) for rule in RULES]

    def check(self, profile: Profile) -> ProfilerFinding:
        results = self.results(profile)
        return summary(results, changes(profile, {one.name: one.finding for one in results}))

    def _result(self, rule: type[Any], profile: Profile) -> Checked:
        own = {
            field.name: getattr(self, f"{rule.__name__}_{field.name}") for field in dataclasses.fields(rule)
        }
        given = rule(**own)
        try:
            return Checked(rule.__name__, given, given.check(profile))
        except NotEvaluatedError as error:
            return Checked(rule.__name__, given, None, f"{str(error).rstrip('.')}.")


def summary(results: list[Checked], ranked: list[Change]) -> ProfilerFinding:
    """What ProfilerReport itself finds: an issue when one of its rules did."""
    found = [one for one in results if one.finding is not None]
    issues = [one.name for one in found if one.status == "IssuesFound"]
    silent = [one.name for one in results if one.finding is None]
    detail = f"{len(issues)} of {len(found)} rules found an issue{': ' + ', '.join(issues) if issues else ''}"
    if silent:
        detail += f"; not evaluated: {', '.join(silent)}"
    if not found:
        raise NotEvaluatedError("; ".join(f"{one.name}: {one.reason}" for one in results))
    if ranked and ranked[0].seconds is not None:
        first = ranked[0]
        detail += f"; change first: {first.title} ({'at most ' if first.bound else ''}{first.seconds:.1f} s)"
    return ProfilerFinding(
        bool(issues),
        f"{detail}.",
        value=float(len(issues)),
        threshold=0.0,
        recommendation=" ".join(
            one.finding.recommendation for one in found if one.finding and one.finding.issue
        ),
        triggered=len(issues),
        violations=sum(one.finding.violations for one in found if one.finding),
        datapoints=sum(one.finding.datapoints for one in found if one.finding),
        details={one.name: one.status for one in results},
    )


def _parameters() -> list[tuple[str, Any, Any]]:
    """`<Rule>_<parameter>` with its type and default, as the SDK flattens them."""
    parameters: list[tuple[str, Any, Any]] = []
    for rule in RULES:
        hints: Mapping[str, Any] = get_type_hints(rule)
        parameters += [
            (f"{rule.__name__}_{field.name}", hints[field.name], field.default)
            for field in dataclasses.fields(rule)
        ]
    # Taken for the sake of requests that carry it: there is no telemetry to opt out of.
    return [*parameters, ("opt_out_telemetry", bool, True)]


ProfilerReport: Any = dataclasses.make_dataclass(
    "ProfilerReport",
    _parameters(),
    bases=(_Report,),
    frozen=True,
    namespace={
        "__doc__": "Fires when any other profiler rule does; parameters are theirs, as `<Rule>_<parameter>`.",
        "__module__": __name__,
    },
)
