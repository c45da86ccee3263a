"""A run's model in a real local registry, and what a person's answer makes of it."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from airflow.providers.common.compat.sdk import AirflowSkipException

from evergreen import registry
from scripts.local_stack import BUCKET, Cloud
from tests.plugins.test_requests import plan

# An operator run without Airflow's task runner says so.
pytestmark = pytest.mark.filterwarnings("ignore:.*outside of the Task Runner")


def assessment(decision: str) -> dict[str, Any]:
    verdict = {"decision": decision, "reasons": ["Test accuracy is 97.50%.", "It gains."]}
    return {"verdict": verdict, "accuracy": 0.975, "model_version": "v"}


def registered(cloud: Cloud, decision: str) -> str:
    s3 = S3Hook(aws_conn_id="aws_default")
    model_data = f"s3://{BUCKET}/{decision}/model.tar.gz"
    cloud.client("s3").put_object(Bucket=BUCKET, Key=f"{decision}/model.tar.gz", Body=b"")
    return registry.register(
        SageMakerHook(aws_conn_id="aws_default"), s3, plan(), model_data, assessment(decision)
    )


def package(cloud: Cloud, arn: str) -> dict[str, Any]:
    described: dict[str, Any] = cloud.client("sagemaker").describe_model_package(ModelPackageName=arn)
    return described


def test_a_model_that_the_gate_promotes_is_approved_by_it_and_registered_once(cloud: Cloud) -> None:
    arn = registered(cloud, "promote")
    assert registered(cloud, "promote") == arn
    described = package(cloud, arn)
    assert described["ModelApprovalStatus"] == "Approved"
    assert described["ApprovalDescription"] == "By the gate: Test accuracy is 97.50%. It gains."
    assert described["ModelMetrics"]["ModelQuality"]["Statistics"]["S3Uri"].endswith("/report.json")


@pytest.mark.parametrize(
    ("answer", "user", "status", "who"),
    [
        ("Approve", {"id": "1", "name": "ada"}, "Approved", "ada"),
        ("Reject", {"id": "2", "name": "grace"}, "Rejected", "grace"),
        ("Reject", None, "Rejected", "somebody unknown"),
    ],
)
def test_a_persons_answer_becomes_the_packages_status(
    cloud: Cloud, answer: str, user: dict[str, str] | None, status: str, who: str
) -> None:
    arn = registered(cloud, "ask")
    operator = registry.ApproveOperator(task_id="approve", subject="?", body="")
    context: Any = {
        "run_id": "manual__1",
        "ti": SimpleNamespace(
            dag_id="retrain_digits", xcom_pull=lambda task_ids: {"register": arn}[task_ids]
        ),
    }
    event = {
        "chosen_options": [answer],
        "params_input": {},
        "responded_at": datetime.now(UTC),
        "responded_by_user": user,
    }
    operator.execute_complete(context, event)
    described = package(cloud, arn)
    assert described["ModelApprovalStatus"] == status
    assert described["ApprovalDescription"] == f"{status} by {who} in run manual__1 of retrain_digits."


def test_nobody_is_asked_where_the_verdict_does_not() -> None:
    operator = registry.ApproveOperator(task_id="approve", subject="?", body="")
    returned: Any = {"ti": SimpleNamespace(xcom_pull=lambda task_ids: assessment("promote"))}
    with pytest.raises(AirflowSkipException, match="the verdict is promote: nobody has to be asked"):
        operator.execute(returned)
