"""The gate's context, and its verdict in words."""

import pytest

from evergreen import verdicts
from evergreen.operators import AssessOperator
from scripts.local_stack import BUCKET, Cloud
from tests.plugins.test_requests import plan

# An operator run without Airflow's task runner says so.
pytestmark = pytest.mark.filterwarnings("ignore:.*outside of the Task Runner")

VERDICT = {
    "decision": "ask",
    "reasons": ["Test accuracy is 97.50%.", "A person decides."],
    "checks": [
        {"name": "minimum accuracy", "value": 0.975, "threshold": 0.9, "relation": ">=", "unit": "share",
         "status": "passed", "passed": True, "detail": ""},
        {"name": "not worse than the champion", "value": -0.0055, "threshold": -0.02, "relation": ">",
         "unit": "difference of shares", "status": "passed", "passed": True, "detail": ""},
        {"name": "latency budget", "value": 12.3456, "threshold": 20.0, "relation": "<=", "unit": "ms",
         "status": "passed", "passed": True, "detail": ""},
        {"name": "rule Overfit", "value": None, "threshold": 0.1, "relation": None, "unit": None,
         "status": "warned", "passed": True, "detail": ""},
    ],
}  # fmt: skip


def test_the_question_has_the_reasons_the_table_and_the_way_to_the_report() -> None:
    consequences = verdicts.consequences("evergreen-digits", "canary", {"endpoint_config": "now"})
    text = verdicts.markdown(VERDICT, "retrain_digits", "manual__2026-11-28T07:00:00+00:00", consequences)
    assert text.startswith("**Ask**\n\n- Test accuracy is 97.50%.\n- A person decides.\n\n| check |")
    assert "| minimum accuracy | passed | 97.50% | ≥ 90.00% |" in text
    assert "| not worse than the champion | passed | -0.55 points | > -2.00 points |" in text
    assert "| latency budget | passed | 12.35 ms | ≤ 20 ms |" in text
    assert "| rule Overfit | warned | none | 0.1 |" in text
    assert "/dags/retrain_digits/runs/manual__2026-11-28T07%3A00%3A00%2B00%3A00/plugin/report)" in text
    assert text.endswith(
        "Approve: evergreen-digits gets this model, by the policy canary. Reject: now goes on serving."
    )


def test_a_champion_whose_archive_is_gone_is_no_input(cloud: Cloud) -> None:
    """A job with an input that is not there fails, and the run would have no report."""
    cloud.client("s3").put_object(Bucket=BUCKET, Key="there/model.tar.gz", Body=b"")
    assess = AssessOperator(task_id="assess")
    assess.plan = plan()
    assert (
        assess._archive({"model_data": f"s3://{BUCKET}/there/model.tar.gz"})
        == f"s3://{BUCKET}/there/model.tar.gz"
    )
    assert assess._archive({"model_data": f"s3://{BUCKET}/gone/model.tar.gz"}) is None
    assert assess._archive({"model_data": "s3://no-such-bucket/gone/model.tar.gz"}) is None
    assert assess._archive(None) is None


def test_an_assessment_against_another_champion_is_out_of_date() -> None:
    """So that a cleared task compares again, with what serves by then."""

    def job(**uris: str) -> dict[str, list[dict[str, object]]]:
        given = {"model": "s3://b/model.tar.gz", **uris}
        return {"ProcessingInputs": [{"InputName": n, "S3Input": {"S3Uri": uri}} for n, uri in given.items()]}

    assess = AssessOperator(task_id="assess")
    for config, description, current in (
        (job(champion="s3://b/new"), job(champion="s3://b/new"), True),
        (job(champion="s3://b/new"), job(champion="s3://b/old"), False),
        (job(champion="s3://b/new"), job(), False),
        (job(), job(champion="s3://b/old"), False),
        (job(), job(), True),
    ):
        assess.config = config
        assert assess.is_current(description) is current
