"""The gate: promote the challenger or hold it, check by check.

The decision is made here and nowhere else; the DAG's gate task only branches on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rules import Verdict

Status = Literal["passed", "failed", "warned", "not applicable"]


@dataclass(frozen=True)
class Gate:
    """What the pipeline asks of a challenger. Shares, not percent, throughout."""

    minimum_accuracy: float
    champion_margin: float
    confidence: float

    def __post_init__(self) -> None:
        if not 0 <= self.minimum_accuracy <= 1:
            raise ValueError(f"minimum_accuracy is {self.minimum_accuracy}, not between 0 and 1")
        if not 0 <= self.champion_margin <= 1:
            raise ValueError(f"champion_margin is {self.champion_margin}, not between 0 and 1")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence is {self.confidence}, not between 0 and 1")


@dataclass(frozen=True)
class Check:
    """One line of the gate. Only a `failed` check holds a model; `detail` is a plain sentence."""

    name: str
    value: float | str | None
    threshold: float | None
    status: Status
    detail: str

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.status != "failed"}


def decide(
    metrics: Mapping[str, Any],
    champion: Mapping[str, Any] | None,
    rules: Sequence[Verdict],
    gate: Gate,
) -> dict[str, Any]:
    """report.json's `verdict`, from its `metrics`, its `champion` and the rule verdicts.

    `champion` is None when nothing serves; with `comparable` false its reason is repeated and the
    other checks decide.
    """
    checks = [
        _minimum_accuracy(metrics, gate),
        _not_worse(champion, gate),
        *(_rule(verdict) for verdict in rules),
    ]
    failed = [check for check in checks if check.status == "failed"]
    if failed:
        reasons = [check.detail for check in failed]
    else:
        reasons = [check.detail for check in checks[:2]]
        warned = [check.name.removeprefix("rule ") for check in checks if check.status == "warned"]
        if warned:
            reasons.append(f"Look at {', '.join(warned)}: with policy warn a rule does not hold the model.")
    return {
        "decision": "hold" if failed else "promote",
        "reasons": reasons,
        "checks": [check.as_json() for check in checks],
    }


def _minimum_accuracy(metrics: Mapping[str, Any], gate: Gate) -> Check:
    accuracy = metrics["accuracy"]
    passed = accuracy >= gate.minimum_accuracy
    detail = (
        f"Test accuracy is {accuracy:.2%} on {metrics['count']} images, "
        f"{'at least' if passed else 'below'} the required {gate.minimum_accuracy:.2%}."
    )
    return Check(
        "minimum accuracy", accuracy, gate.minimum_accuracy, "passed" if passed else "failed", detail
    )


def _not_worse(champion: Mapping[str, Any] | None, gate: Gate) -> Check:
    name, threshold = "not worse than the champion", -gate.champion_margin
    if champion is None:
        detail = "Nothing is serving yet, so there is no champion to compare with."
        return Check(name, None, threshold, "not applicable", detail)
    if not champion["comparable"]:
        detail = f"No comparison with the champion: {champion['reason']} The other checks decide."
        return Check(name, None, threshold, "not applicable", detail)
    low, high = champion["difference_interval"]
    passed = low > threshold
    points = f"{100 * gate.champion_margin:g} percentage points"
    detail = (
        f"Challenger minus champion is {100 * champion['difference']:+.2f} percentage points "
        f"({gate.confidence:.0%} interval {100 * low:+.2f} to {100 * high:+.2f}), "
        + (
            f"so a loss of {points} or more is ruled out."
            if passed
            else f"so a loss of {points} or more cannot be ruled out."
        )
    )
    return Check(name, low, threshold, "passed" if passed else "failed", detail)


def _rule(verdict: Verdict) -> Check:
    document = verdict.as_json()
    clean = verdict.status == "NoIssuesFound"
    status: Status = "passed"
    if verdict.policy == "ignore":
        status = "not applicable"
    elif not clean:
        status = "failed" if verdict.policy == "fail" else "warned"
    said = {
        "NoIssuesFound": "found no issue",
        "IssuesFound": "found an issue",
        "NotEvaluated": "could not be evaluated",
    }[verdict.status]
    also = (
        " A rule with policy fail must be evaluated."
        if status == "failed" and verdict.status == "NotEvaluated"
        else ""
    )
    if status == "failed":
        detail = f"{verdict.name} {said}: {verdict.detail}{also}"
    else:
        detail = f"{verdict.name} {said}; its policy is {verdict.policy}."
    return Check(f"rule {verdict.name}", document["value"], verdict.threshold, status, detail)
