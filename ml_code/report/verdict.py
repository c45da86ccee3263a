"""The gate: promote the challenger, hold it, or ask a person, check by check.

The decision is made here and nowhere else; the DAG's gate task only branches on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from rules import Verdict

Status = Literal["passed", "failed", "warned", "not applicable"]
Approve = Literal["never", "always", "when_unsure"]
Equal = Literal["promote", "hold"]
_DIFFERENCE: Literal["difference of shares"] = "difference of shares"


@dataclass(frozen=True)
class Gate:
    """What the pipeline asks of a challenger. Shares, not percent, throughout; None is not asked for.

    A challenger is *equal* to the champion when it gains nothing and the whole interval of the difference lies
    within the margin; so are two models that are right about the same images. It is *unsure* when that interval
    includes 0, when the champion could not be compared, or when a rule warned.
    """

    minimum_accuracy: float
    champion_margin: float
    confidence: float
    class_floor: float | None = None
    equal: Equal = "promote"
    latency_budget_ms: float | None = None
    size_budget_mb: float | None = None
    approve: Approve = "never"

    def __post_init__(self) -> None:
        for name in ("minimum_accuracy", "champion_margin", "class_floor"):
            share = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"{name} is {share}, not between 0 and 1")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence is {self.confidence}, not between 0 and 1")
        for name in ("latency_budget_ms", "size_budget_mb"):
            budget = getattr(self, name)
            if budget is not None and not budget > 0:
                raise ValueError(f"{name} is {budget}, not above 0")
        for name, choices in (("approve", Approve), ("equal", Equal)):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"{name} is {getattr(self, name)!r}, not {' or '.join(get_args(choices))}")


@dataclass(frozen=True)
class Check:
    """One line of the gate. Only a `failed` check holds a model; `detail` is a plain sentence.

    It passes where `value relation threshold`; `unit` is of both. A rule's are its own: no relation, no unit.
    """

    name: str
    value: float | str | None
    threshold: float | None
    status: Status
    detail: str
    relation: Literal[">=", ">", "<="] | None = None
    unit: Literal["share", "difference of shares", "ms", "MB"] | None = None

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.status != "failed"}


def decide(
    metrics: Mapping[str, Any],
    champion: Mapping[str, Any] | None,
    rules: Sequence[Verdict],
    gate: Gate,
    archive_bytes: int | None = None,
) -> dict[str, Any]:
    """report.json's `verdict`, from its `metrics`, its `champion` and the rule verdicts.

    `champion` is None when nothing serves; with `comparable` false its reason is repeated and the
    other checks decide.

    :param archive_bytes: of the challenger's model archive.
    """
    checks = [
        _minimum_accuracy(metrics, gate),
        _not_worse(champion, gate),
        *_equal(champion, gate),
        *_class_floor(metrics, gate),
        *_latency(metrics, gate),
        *_size(archive_bytes, gate),
        *(_rule(verdict) for verdict in rules),
    ]
    failed = [check for check in checks if check.status == "failed"]
    warned = [check.name.removeprefix("rule ") for check in checks if check.status == "warned"]
    if failed:
        return _verdict("hold", [check.detail for check in failed], checks)
    reasons = [check.detail for check in checks[:2]]
    if warned:
        reasons.append(f"Look at {', '.join(warned)}: with policy warn a rule does not hold the model.")
    if question := _question(champion, warned, gate):
        return _verdict("ask", [*reasons, question], checks)
    return _verdict("promote", reasons, checks)


def _verdict(
    decision: Literal["promote", "hold", "ask"], reasons: Sequence[str], checks: Sequence[Check]
) -> dict[str, Any]:
    return {"decision": decision, "reasons": list(reasons), "checks": [check.as_json() for check in checks]}


def _question(champion: Mapping[str, Any] | None, warned: Sequence[str], gate: Gate) -> str | None:
    """Why a person is asked about a model that nothing holds; None when nobody is."""
    if gate.approve == "never":
        return None
    if gate.approve == "always":
        return "A person decides: gate.approve is always."
    doubts = []
    if champion is not None and not champion["comparable"]:
        doubts.append("the champion could not be compared")
    elif (
        champion is not None and champion["difference_interval"][0] <= 0 <= champion["difference_interval"][1]
    ):
        doubts.append("the difference to the champion may be zero")
    if warned:
        doubts.append(f"{', '.join(warned)} warned")
    return f"A person decides: gate.approve is when_unsure, and {' and '.join(doubts)}." if doubts else None


def _minimum_accuracy(metrics: Mapping[str, Any], gate: Gate) -> Check:
    accuracy = metrics["accuracy"]
    passed = accuracy >= gate.minimum_accuracy
    detail = (
        f"Test accuracy is {accuracy:.2%} on {metrics['count']} images, "
        f"{'at least' if passed else 'below'} the required {gate.minimum_accuracy:.2%}."
    )
    return Check("minimum accuracy", accuracy, gate.minimum_accuracy, _passed(passed), detail, ">=", "share")


def _not_worse(champion: Mapping[str, Any] | None, gate: Gate) -> Check:
    name, threshold = "not worse than the champion", -gate.champion_margin
    if champion is None:
        detail = "Nothing is serving yet, so there is no champion to compare with."
        return Check(name, None, threshold, "not applicable", detail, ">", _DIFFERENCE)
    if not champion["comparable"]:
        detail = f"No comparison with the champion: {champion['reason']} The other checks decide."
        return Check(name, None, threshold, "not applicable", detail, ">", _DIFFERENCE)
    low, _ = champion["difference_interval"]
    # Without a margin, an interval that begins at 0 still holds no loss.
    passed = low > threshold or low >= 0
    points = (
        f"{100 * gate.champion_margin:g} percentage points or more" if gate.champion_margin else "any size"
    )
    detail = f"{_difference(champion, gate)}, so a loss of {points} " + (
        "is ruled out." if passed else "cannot be ruled out."
    )
    return Check(name, low, threshold, _passed(passed), detail, ">", _DIFFERENCE)


def _equal(champion: Mapping[str, Any] | None, gate: Gate) -> list[Check]:
    """One check, for a challenger that is equal to the champion; none otherwise."""
    if champion is None or not champion["comparable"]:
        return []
    difference, (low, high) = champion["difference"], champion["difference_interval"]
    margin = gate.champion_margin
    if difference > 0 or low < -margin or high > margin:
        return []
    held = gate.equal == "hold"
    detail = (
        f"The challenger is as good as the champion: {_difference(champion, gate)}, no gain and all of it within "
        f"{100 * margin:g} points. gate.equal is {gate.equal}, so it "
        + ("is held: nothing is won by a change." if held else "may take the champion's place.")
    )
    return [Check("equal to the champion", difference, None, _passed(not held), detail, None, _DIFFERENCE)]


def _difference(champion: Mapping[str, Any], gate: Gate) -> str:
    low, high = champion["difference_interval"]
    return (
        f"Challenger minus champion is {100 * champion['difference']:+.2f} percentage points "
        f"({gate.confidence:.0%} interval {100 * low:+.2f} to {100 * high:+.2f})"
    )


def _class_floor(metrics: Mapping[str, Any], gate: Gate) -> list[Check]:
    """One check where the gate has a floor. Classes without test images have no recall, which the check says."""
    floor = gate.class_floor
    if floor is None:
        return []
    seen = sorted(
        (entry for entry in metrics["per_class"] if entry["count"]), key=lambda entry: entry["recall"]
    )
    unseen = [entry["class"] for entry in metrics["per_class"] if not entry["count"]]
    below = [entry for entry in seen if entry["recall"] < floor]
    worst = seen[0]
    if below:
        named = ", ".join(f"{entry['class']} ({entry['recall']:.1%})" for entry in below[:5])
        more = f" and {len(below) - 5} more" if len(below) > 5 else ""
        detail = f"The recall of {named}{more} is below the floor of {floor:.1%}."
    else:
        detail = (
            f"Every class is recalled at {floor:.1%} or more, {worst['class']} least ({worst['recall']:.1%})."
        )
    if unseen:
        detail += f" Nothing is known of {', '.join(unseen[:5])}: the test split has no image of it."
    return [Check("class floor", worst["recall"], floor, _passed(not below), detail, ">=", "share")]


def _latency(metrics: Mapping[str, Any], gate: Gate) -> list[Check]:
    budget = gate.latency_budget_ms
    if budget is None:
        return []
    value = (metrics.get("latency") or {}).get("p95_ms")
    if value is None:
        detail = "The latency was not evaluated, and gate.latency_budget_ms asks for it: this report measures none."
        return [Check("latency budget", None, budget, "failed", detail, "<=", "ms")]
    passed = value <= budget
    detail = (
        f"95 of 100 predictions of a single image take {value:.3g} ms or less where this was assessed, "
        f"{'within' if passed else 'above'} the budget of {budget:g} ms."
    )
    return [Check("latency budget", value, budget, _passed(passed), detail, "<=", "ms")]


def _size(archive_bytes: int | None, gate: Gate) -> list[Check]:
    budget = gate.size_budget_mb
    if budget is None:
        return []
    if archive_bytes is None:
        detail = "The size of the archive is not known, and gate.size_budget_mb asks for it."
        return [Check("size budget", None, budget, "failed", detail, "<=", "MB")]
    value = archive_bytes / 1e6
    passed = value <= budget
    detail = f"The model archive has {value:.3g} MB, {'within' if passed else 'above'} the budget of {budget:g} MB."
    return [Check("size budget", value, budget, _passed(passed), detail, "<=", "MB")]


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


def _passed(passed: bool) -> Status:
    return "passed" if passed else "failed"
