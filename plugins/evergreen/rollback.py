"""Put back what served before: `make rollback` and the DAG `rollback`."""

import logging
import re
from dataclasses import dataclass
from typing import Any

from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from botocore.exceptions import ClientError

from evergreen import endpoints, smoke
from evergreen.deployment_requests import BEFORE_TAG

log = logging.getLogger(__name__)

RUN = re.compile(r"s3://.*?/runs/[^/]+/")
# On an endpoint: what was last rolled back, and what serves since, FROM/TO. Without it the command given twice would go
# back by two.
ROLLED_BACK_TAG = "evergreen:rolled-back"


class RollbackError(RuntimeError):
    """What was to serve does not; the sentence says why, and what to do."""


@dataclass(frozen=True)
class Waiting:
    """A rollback that goes on when nobody changes the endpoint any more; as JSON it can outlive a process."""

    endpoint_name: str
    to: str | None
    """The configuration that is to serve; None is the one before."""
    ending: str | None = None
    """The configuration of an update that is being ended."""
    replaced: str | None = None
    """What served before the endpoint was updated to `to`."""


def roll_back(aws_conn_id: str | None, endpoint_name: str, to: str | None = None) -> str:
    """Have the endpoint serve the configuration before the one that serves; one sentence that says what serves now.

    An update that is under way is ended, and nothing else. Given again, it changes nothing.

    :param to: name of another configuration to serve.
    :raises RollbackError: when that configuration does not serve afterwards, or answers wrongly.
    """
    outcome = begin(aws_conn_id, endpoint_name, to)
    while isinstance(outcome, Waiting):
        endpoints.settle(SageMakerHook(aws_conn_id=aws_conn_id), endpoint_name)
        outcome = go_on(aws_conn_id, outcome)
    return outcome


def begin(aws_conn_id: str | None, endpoint_name: str, to: str | None = None) -> Waiting | str:
    """`roll_back` up to where it has to wait."""
    live = _describe(SageMakerHook(aws_conn_id=aws_conn_id), endpoint_name)
    pending = endpoints.changes_to(live)
    if pending:
        _end_update(aws_conn_id, endpoint_name, pending)
    if pending or live["EndpointStatus"] in endpoints.CHANGING:
        log.info("waiting for the end of the change of %s", endpoint_name)
        return Waiting(endpoint_name, to, ending=pending)
    return _restore(aws_conn_id, live, to)


def go_on(aws_conn_id: str | None, waiting: Waiting) -> Waiting | str:
    """`roll_back` after it has waited."""
    hook, name, to = SageMakerHook(aws_conn_id=aws_conn_id), waiting.endpoint_name, waiting.to
    live = _describe(hook, name)
    serves = live["EndpointConfigName"]
    if waiting.replaced:
        assert to
        if problem := endpoints.mismatch(live, name, to):
            raise RollbackError(problem)
        return f"{to} serves again, in place of {waiting.replaced}; {_asked(aws_conn_id, hook, name)}"
    if waiting.ending not in (None, serves) and to in (None, serves):
        return f"the update of {name} to {waiting.ending} was ended: {serves} serves"
    return _restore(aws_conn_id, live, to)


def _restore(aws_conn_id: str | None, live: dict[str, Any], to: str | None) -> Waiting | str:
    hook, name, serves = (
        SageMakerHook(aws_conn_id=aws_conn_id),
        live["EndpointName"],
        live["EndpointConfigName"],
    )
    if to is None:
        earlier, to = _tags(hook, live["EndpointArn"]).get(ROLLED_BACK_TAG, "/").split("/")
        before = _before(hook, serves)
        if serves == to:
            further = (
                f"; to go further back, name a configuration: {before} served before it" if before else ""
            )
            return f"{serves} serves already, since {earlier} was rolled back{further}"
        to = before
    if to is None:
        raise RollbackError(
            f"nothing is known to have served at {name} before {serves}: name a configuration"
        )
    if serves == to:
        return f"{to} serves already"
    # Before the update: whoever tries again after it has been cut off is to see that this was it.
    hook.conn.add_tags(
        ResourceArn=live["EndpointArn"], Tags=[{"Key": ROLLED_BACK_TAG, "Value": f"{serves}/{to}"}]
    )
    try:
        hook.conn.update_endpoint(EndpointName=name, EndpointConfigName=to)
    except ClientError as error:
        raise RollbackError(f"{to} cannot be put back: {error.response['Error']['Message']}") from error
    return Waiting(name, to, replaced=serves)


def _describe(hook: SageMakerHook, endpoint_name: str) -> dict[str, Any]:
    live = endpoints.describe(hook, endpoint_name)
    if live is None:
        raise RollbackError(f"there is no endpoint {endpoint_name}")
    return live


def _end_update(aws_conn_id: str | None, endpoint_name: str, pending: str) -> None:
    """SageMaker has no call for it, but an alarm that goes off has it roll back."""
    cloudwatch = AwsBaseHook(aws_conn_id, client_type="cloudwatch").conn
    found = cloudwatch.describe_alarms(AlarmNamePrefix=f"{endpoint_name}-")["MetricAlarms"]
    for alarm in found:
        if {"Name": "EndpointConfigName", "Value": pending} in alarm["Dimensions"]:
            cloudwatch.set_alarm_state(
                AlarmName=alarm["AlarmName"], StateValue="ALARM", StateReason="Rolled back by hand."
            )


def _tags(hook: SageMakerHook, arn: str) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in hook.conn.list_tags(ResourceArn=arn)["Tags"]}


def _before(hook: SageMakerHook, endpoint_config_name: str) -> str | None:
    arn = hook.describe_endpoint_config(endpoint_config_name)["EndpointConfigArn"]
    return _tags(hook, arn).get(BEFORE_TAG)


def _asked(aws_conn_id: str | None, hook: SageMakerHook, endpoint_name: str) -> str:
    """What came of the smoke test of the run that made what serves."""
    champion, s3 = endpoints.champion(hook, endpoint_name), S3Hook(aws_conn_id=aws_conn_id)
    assert champion
    # The archive of a run's model lies in the run's folder.
    run = RUN.match(champion["model_data"])
    assess_uri = f"{run[0]}assess" if run else ""
    if not run or not s3.check_for_key(f"{assess_uri}/smoke/smoke.json"):
        return "the run that made it has left no test images to ask it"
    asked = smoke.questions(s3, assess_uri)
    doubt, _ = smoke.test(smoke.runtime(aws_conn_id, tries=3), endpoint_name, asked, None)
    if doubt:
        raise RollbackError(f"{champion['endpoint_config']} is put back, but {doubt}")
    return f"{len(asked)} of {len(asked)} test images are answered as the report has them"
