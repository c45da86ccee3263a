"""The gate, row by row."""

from dataclasses import replace
from typing import Any

import pytest

from report.verdict import Gate, decide
from rules import Verdict

GATE = Gate(minimum_accuracy=0.9, champion_margin=0.02, confidence=0.95)


def metrics(accuracy: float) -> dict[str, Any]:
    return {"accuracy": accuracy, "count": 360}


def champion(low: float, high: float) -> dict[str, Any]:
    return {
        "comparable": True,
        "reason": None,
        "difference": (low + high) / 2,
        "difference_interval": [low, high],
    }


def rule(status: Any, policy: Any, value: float | None = 1.0) -> Verdict:
    return Verdict("Overfit", status, "It is so.", 3, "loss", value, 0.1, policy, {})


BROKEN = {"comparable": False, "reason": "it does not answer (ArtifactError: gone)."}
CLEAN, ISSUE, UNKNOWN = "NoIssuesFound", "IssuesFound", "NotEvaluated"


@pytest.mark.parametrize(
    ("accuracy", "rival", "rules", "decision", "reason"),
    [
        pytest.param(0.95, None, [], "promote", "Nothing is serving", id="no champion"),
        pytest.param(0.90, None, [], "promote", "at least", id="exactly the minimum"),
        pytest.param(0.899, None, [], "hold", "below the required 90.00%", id="below the minimum"),
        pytest.param(0.95, champion(-0.019, 0.01), [], "promote", "ruled out", id="within the margin"),
        pytest.param(0.95, champion(-0.02, 0.01), [], "hold", "cannot be ruled out", id="exactly the margin"),
        pytest.param(0.95, champion(-0.05, -0.03), [], "hold", "cannot be ruled out", id="worse"),
        pytest.param(0.95, BROKEN, [], "promote", "ArtifactError: gone", id="broken champion"),
        pytest.param(0.5, BROKEN, [], "hold", "below the required", id="broken champion, bad challenger"),
        pytest.param(0.95, None, [rule(CLEAN, "fail")], "promote", "at least", id="clean rule"),
        pytest.param(
            0.95, None, [rule(ISSUE, "fail")], "hold", "Overfit found an issue: It is so.", id="rule fails"
        ),
        pytest.param(
            0.95, None, [rule(UNKNOWN, "fail")], "hold", "must be evaluated", id="rule not evaluated"
        ),
        pytest.param(0.95, None, [rule(ISSUE, "warn")], "promote", "Look at Overfit", id="rule warns"),
        pytest.param(
            0.95, None, [rule(UNKNOWN, "warn")], "promote", "Look at Overfit", id="warns unevaluated"
        ),
        pytest.param(0.95, None, [rule(ISSUE, "ignore")], "promote", "at least", id="rule ignored"),
    ],
)
def test_decision(accuracy: float, rival: Any, rules: list[Verdict], decision: str, reason: str) -> None:
    verdict = decide(metrics(accuracy), rival, rules, GATE)
    assert verdict["decision"] == decision
    assert any(reason in text for text in verdict["reasons"])
    assert (decision == "hold") == any(not check["passed"] for check in verdict["checks"])
    assert all(
        {"name", "value", "threshold", "passed", "detail"} <= check.keys() for check in verdict["checks"]
    )


def test_an_ignored_rule_is_not_mentioned_in_the_reasons() -> None:
    verdict = decide(metrics(0.95), None, [rule(ISSUE, "ignore")], GATE)
    assert not any("Overfit" in reason for reason in verdict["reasons"])
    assert verdict["checks"][-1]["status"] == "not applicable"


def test_every_failure_is_a_reason() -> None:
    verdict = decide(metrics(0.5), champion(-0.3, -0.2), [rule(ISSUE, "fail")], GATE)
    assert len(verdict["reasons"]) == 3


def test_an_infinite_value_becomes_null() -> None:
    verdict = decide(metrics(0.95), None, [rule(ISSUE, "warn", float("inf"))], GATE)
    assert verdict["checks"][-1]["value"] is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"minimum_accuracy": 90.0},
        {"champion_margin": -0.1},
        {"class_floor": 2},
        {"confidence": 1.0},
        {"confidence": float("nan")},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        replace(GATE, **wrong)


@pytest.mark.parametrize("wrong", [{"latency_budget_ms": 0}, {"size_budget_mb": -1}])
def test_budgets_are_above_zero(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="not above 0"):
        replace(GATE, **wrong)


def test_words_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="approve is 'yes', not never or always or when_unsure"):
        replace(GATE, approve="yes")


def check(verdict: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [check for check in verdict["checks"] if check["name"] == name]
    return found


CLASSES = [
    {"class": "cat", "count": 100, "recall": 0.97},
    {"class": "dog", "count": 20, "recall": 0.6},
    {"class": "owl", "count": 0, "recall": 0.0},
]


@pytest.mark.parametrize(("floor", "decision"), [(0.6, "promote"), (0.61, "hold")])
def test_no_class_is_recalled_below_the_floor(floor: float, decision: str) -> None:
    verdict = decide(metrics(0.95) | {"per_class": CLASSES}, None, [], replace(GATE, class_floor=floor))
    assert verdict["decision"] == decision
    row = check(verdict, "class floor")
    assert (row["value"], row["threshold"], row["unit"]) == (0.6, floor, "share")
    assert "dog" in row["detail"]
    assert "Nothing is known of owl" in row["detail"]


def test_budgets_of_latency_and_size_hold_what_is_above_them() -> None:
    gate = replace(GATE, latency_budget_ms=20, size_budget_mb=45)
    fast = metrics(0.95) | {"latency": {"p50_ms": 9.0, "p95_ms": 20.0, "p99_ms": 31.0}}
    verdict = decide(fast, None, [], gate, 45_000_000)
    assert verdict["decision"] == "promote"
    assert (check(verdict, "size budget")["value"], check(verdict, "size budget")["unit"]) == (45.0, "MB")
    slow = metrics(0.95) | {"latency": {"p95_ms": 20.1}}
    verdict = decide(slow, None, [], gate, 45_000_001)
    assert verdict["decision"] == "hold"
    assert [reason.split()[0] for reason in verdict["reasons"]] == ["95", "The"]
    assert check(verdict, "latency budget")["relation"] == "<="


def test_a_budget_for_what_was_not_measured_holds() -> None:
    verdict = decide(metrics(0.95), None, [], replace(GATE, latency_budget_ms=20, size_budget_mb=1))
    assert verdict["decision"] == "hold"
    assert "was not evaluated" in check(verdict, "latency budget")["detail"]
    assert check(verdict, "size budget")["value"] is None


def test_what_is_not_asked_for_is_no_check() -> None:
    assert len(decide(metrics(0.95), champion(0.01, 0.03), [], GATE)["checks"]) == 2


EQUAL = [
    pytest.param(champion(0.0, 0.0), id="right about the same images"),
    pytest.param(champion(-0.015, 0.01), id="within the margin, no gain"),
]


@pytest.mark.parametrize("rival", EQUAL)
@pytest.mark.parametrize("wanted", ["promote", "hold"])
def test_an_equal_challenger_gets_what_the_pipeline_says(rival: dict[str, Any], wanted: Any) -> None:
    verdict = decide(metrics(0.95), rival, [], replace(GATE, equal=wanted))
    assert verdict["decision"] == wanted
    assert check(verdict, "equal to the champion")["passed"] == (wanted == "promote")


@pytest.mark.parametrize("rival", [champion(-0.01, 0.012), champion(-0.01, 0.03), None, BROKEN])
def test_a_gain_or_no_champion_is_not_equal(rival: dict[str, Any] | None) -> None:
    assert decide(metrics(0.95), rival, [], replace(GATE, equal="hold"))["decision"] == "promote"


def test_without_a_margin_the_same_answers_are_not_worse() -> None:
    assert (
        decide(metrics(0.95), champion(0.0, 0.0), [], replace(GATE, champion_margin=0))["decision"]
        == "promote"
    )
    assert (
        decide(metrics(0.95), champion(-0.01, 0.1), [], replace(GATE, champion_margin=0))["decision"]
        == "hold"
    )


@pytest.mark.parametrize(
    ("approve", "rival", "rules", "decision", "reason"),
    [
        ("always", champion(0.01, 0.03), [], "ask", "gate.approve is always"),
        ("when_unsure", champion(0.01, 0.03), [], "promote", "ruled out"),
        ("when_unsure", champion(-0.01, 0.03), [], "ask", "may be zero"),
        ("when_unsure", champion(0.01, 0.03), [rule(ISSUE, "warn")], "ask", "Overfit warned"),
        ("when_unsure", None, [], "promote", "Nothing is serving"),
        ("when_unsure", BROKEN, [], "ask", "could not be compared"),
        ("never", champion(-0.01, 0.03), [rule(ISSUE, "warn")], "promote", "ruled out"),
        ("always", champion(-0.1, -0.05), [], "hold", "cannot be ruled out"),
    ],
)
def test_a_person_is_asked_as_the_pipeline_says(
    approve: Any, rival: Any, rules: list[Verdict], decision: str, reason: str
) -> None:
    verdict = decide(metrics(0.95), rival, rules, replace(GATE, approve=approve))
    assert verdict["decision"] == decision
    assert reason in " ".join(verdict["reasons"])
