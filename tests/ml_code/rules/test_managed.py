"""SageMaker's word on a rule beside our own."""

import pytest

from rules.managed import overrule
from rules.verdict import Status, Verdict


def own(status: Status) -> Verdict:
    return Verdict("Overfit", status, "We saw it.", 7, "loss", 0.2, 0.1, "fail", {}, recommendation="Stop.")


def said(status: str, details: str = "") -> list[dict[str, str]]:
    return [{"name": "Overfit", "status": status, "details": details}]


def test_where_both_agree_our_evidence_stays() -> None:
    (verdict,) = overrule([own("IssuesFound")], said("IssuesFound", "RuleEvaluationConditionMet: step 7."))
    assert (verdict.status, verdict.step, verdict.value, verdict.policy) == ("IssuesFound", 7, 0.2, "fail")
    assert verdict.detail == "SageMaker says IssuesFound (RuleEvaluationConditionMet: step 7). We saw it."


@pytest.mark.parametrize(
    ("managed", "status"),
    [("NoIssuesFound", "NoIssuesFound"), ("Error", "NotEvaluated"), ("Stopped", "NotEvaluated"),
     ("InProgress", "NotEvaluated")],
)  # fmt: skip
def test_where_they_part_sagemakers_counts_and_both_are_said(managed: str, status: str) -> None:
    (verdict,) = overrule([own("IssuesFound")], said(managed))
    assert verdict.status == status
    assert verdict.detail == f"SageMaker says {managed}. Our own evaluation says IssuesFound: We saw it."


def test_rules_that_sagemaker_was_not_asked_for_are_ours() -> None:
    assert overrule([own("IssuesFound")], []) == [own("IssuesFound")]
