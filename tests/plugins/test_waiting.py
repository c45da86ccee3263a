"""Endpoint updates keep their order and are waited for without a slot, against a real local cloud with real servers."""

import io
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk.exceptions import TaskDeferred

from evergreen.deployment import EndpointOperator
from evergreen.deployment_requests import BEFORE_TAG
from evergreen.rollback_operator import RollBackOperator
from evergreen.verification import VerifyEndpointOperator
from scripts.local_stack import BUCKET, ROLE, Cloud
from tests.plugins.test_durable import fired
from tests.plugins.test_requests import plan

# An operator run without Airflow's task runner says so.
pytestmark = pytest.mark.filterwarnings("ignore:.*outside of the Task Runner")

PROGRAM = b"""
import os, time

def model_fn(folder):
    while not os.path.exists(os.environ["GATE"]):
        time.sleep(0.05)

def transform_fn(model, body, content_type, accept):
    return '{"label": "a", "probability": 0.5}', "application/json"
"""
PLAN = plan(deployment={"policy": "all_at_once", "wait_interval_in_seconds": 0})
NAME = PLAN.endpoint_name
OLD, NEW = "waiting-old", "waiting-new"
SERVING = {"endpoint_config_name": "config", "assessment": "assess"}


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file without which no server starts, so that an update goes on as long as the test wants it to."""
    path = tmp_path_factory.mktemp("gate") / "open"
    path.touch()
    return path


@pytest.fixture(scope="module")
def sagemaker(cloud: Cloud, gate: Path) -> Iterator[Any]:
    """An endpoint with OLD in service, and NEW beside it."""
    client, archive = cloud.client("sagemaker"), io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        member = tarfile.TarInfo("code/inference.py")
        member.size = len(PROGRAM)
        tar.addfile(member, io.BytesIO(PROGRAM))
    cloud.client("s3").put_object(Bucket=BUCKET, Key="waiting/model.tar.gz", Body=archive.getvalue())
    client.create_model(
        ModelName="waiting",
        ExecutionRoleArn=cloud.client("iam").get_role(RoleName=ROLE)["Role"]["Arn"],
        PrimaryContainer={
            "Image": PLAN.inference_image,
            "ModelDataUrl": f"s3://{BUCKET}/waiting/model.tar.gz",
            "Environment": {"SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code", "GATE": str(gate)},
        },
    )
    variant = {
        "VariantName": "a",
        "ModelName": "waiting",
        "InstanceType": "ml.m5.large",
        "InitialInstanceCount": 1,
    }
    for name, tags in ((OLD, []), (NEW, [{"Key": BEFORE_TAG, "Value": OLD}])):
        client.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant], Tags=tags)
    client.create_endpoint(EndpointName=NAME, EndpointConfigName=OLD)
    client.get_waiter("endpoint_in_service").wait(EndpointName=NAME, WaiterConfig={"Delay": 1})
    yield client
    client.delete_endpoint(EndpointName=NAME)


def serving(sagemaker: Any) -> tuple[str, str]:
    described = sagemaker.describe_endpoint(EndpointName=NAME)
    return described["EndpointStatus"], described["EndpointConfigName"]


def context(config: str, compared: str | None) -> Any:
    champion = {"endpoint_config": compared} if compared else None
    returned = {
        "plan": PLAN.to_xcom(), "config": config,
        "assess": {"champion": champion, "uri": f"s3://{BUCKET}/waiting/assess", "model_version": "v"},
    }  # fmt: skip
    return {"ti": SimpleNamespace(xcom_pull=lambda task_ids: returned[task_ids])}


def next_step(operator: Any, given: Any, asked: TaskDeferred) -> Callable[[], Any]:
    """Of a deferred operator, when its trigger has fired: at every new state of the endpoint."""
    return partial(getattr(operator, asked.method_name), given, event=fired(asked.trigger))


def to_the_end(operator: Any, given: Any, asked: TaskDeferred) -> Any:
    while True:
        try:
            return next_step(operator, given, asked)()
        except TaskDeferred as again:
            asked = again


def carry_out(operator: Any, given: Any, gate: Path) -> tuple[Any, int]:
    """What the operator returns, and how many things it waited for without a slot: no update ends while it has one."""
    step, waited_for = partial(operator.execute, given), set()
    while True:
        gate.unlink(missing_ok=True)
        try:
            return step(), len(waited_for)
        except TaskDeferred as asked:
            waited_for.add(repr(asked.trigger.known))
            gate.touch()
            step = next_step(operator, given, asked)


@pytest.mark.parametrize("compared", [None, NEW])
def test_a_model_is_not_deployed_over_one_that_it_was_not_compared_with(
    sagemaker: Any, compared: str | None
) -> None:
    """Runs that overlap, a rollback meanwhile, an approval that came late."""
    before = sagemaker.describe_endpoint(EndpointName=NAME)["LastModifiedTime"]
    operator = EndpointOperator(task_id="endpoint", inputs=SERVING)
    with pytest.raises(AirflowFailException, match=rf"^{OLD} serves at {NAME}, .*: clear the task assess"):
        operator.execute(context("of-an-older-run", compared))
    assert sagemaker.describe_endpoint(EndpointName=NAME)["LastModifiedTime"] == before


def test_an_update_is_followed_without_a_slot_and_a_later_one_waits_for_it(
    sagemaker: Any, gate: Path
) -> None:
    gate.unlink()
    first = EndpointOperator(task_id="endpoint", inputs=SERVING, deferrable=True)
    with pytest.raises(TaskDeferred) as following:
        first.execute(context(NEW, OLD))
    assert serving(sagemaker) == ("Updating", OLD)
    # Another run that was compared with OLD too: it waits for the update, and then has to compare again.
    second = EndpointOperator(task_id="endpoint", inputs=SERVING, deferrable=True)
    with pytest.raises(TaskDeferred) as waiting:
        second.execute(context("of-another-run", OLD))
    gate.touch()
    with pytest.raises(AirflowFailException, match=rf"^{NEW} serves at {NAME}, .* compared with {OLD}"):
        to_the_end(second, context("of-another-run", OLD), waiting.value)
    done = to_the_end(first, context(NEW, OLD), following.value)
    assert done["Endpoint"]["EndpointConfigName"] == NEW
    assert serving(sagemaker) == ("InService", NEW)


def test_what_served_before_is_put_back_without_a_slot(sagemaker: Any, gate: Path) -> None:
    """There is nothing to ask the endpoint, which is a doubt."""
    verify = VerifyEndpointOperator(task_id="verify", inputs=SERVING, deferrable=True)
    with pytest.raises(AirflowFailException, match=rf"could not be verified: .*; {OLD} serves again$"):
        carry_out(verify, context(NEW, OLD), gate)
    assert serving(sagemaker) == ("InService", OLD)


def test_a_rollback_by_hand_waits_without_a_slot(sagemaker: Any, gate: Path) -> None:
    gate.unlink(missing_ok=True)
    sagemaker.update_endpoint(EndpointName=NAME, EndpointConfigName=NEW)
    operator = RollBackOperator(task_id="roll_back", deferrable=True)
    given: Any = {"params": {"pipeline": "digits", "endpoint_config": OLD}}
    # First the update that is under way is waited for, which no alarm ends here, then the way back.
    sentence, deferred = carry_out(operator, given, gate)
    assert deferred == 2
    assert sentence.startswith(f"{OLD} serves again, in place of {NEW}; ")
    assert serving(sagemaker) == ("InService", OLD)
    assert carry_out(operator, given, gate) == (f"{OLD} serves already", 0)
