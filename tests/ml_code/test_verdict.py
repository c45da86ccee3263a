"""The gate, row by row."""

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
        {"confidence": 1.0},
        {"confidence": float("nan")},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        Gate(**{"minimum_accuracy": 0.9, "champion_margin": 0.02, "confidence": 0.95} | wrong)
