"""Put back what served before: `make rollback` and the DAG `rollback`."""

import logging
import re
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


def roll_back(aws_conn_id: str | None, endpoint_name: str, to: str | None = None) -> str:
    """Have the endpoint serve the configuration before the one that serves; one sentence that says what serves now.

    An update that is under way is ended, and nothing else. Given again, it changes nothing.

    :param to: name of another configuration to serve.
    :raises RollbackError: when that configuration does not serve afterwards, or answers wrongly.
    """
    hook = SageMakerHook(aws_conn_id=aws_conn_id)
    live = endpoints.describe(hook, endpoint_name)
    if live is None:
        raise RollbackError(f"there is no endpoint {endpoint_name}")
    if pending := endpoints.changes_to(live):
        live = _end_update(aws_conn_id, hook, endpoint_name, pending)
        if to in (None, live["EndpointConfigName"]) and live["EndpointConfigName"] != pending:
            return (
                f"the update of {endpoint_name} to {pending} was ended: {live['EndpointConfigName']} serves"
            )
    serves = live["EndpointConfigName"]
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
            f"nothing is known to have served at {endpoint_name} before {serves}: name a configuration"
        )
    if serves == to:
        return f"{to} serves already"
    # Before the update: whoever tries again after it has been cut off is to see that this was it.
    hook.conn.add_tags(
        ResourceArn=live["EndpointArn"], Tags=[{"Key": ROLLED_BACK_TAG, "Value": f"{serves}/{to}"}]
    )
    try:
        live = endpoints.restore(hook, endpoint_name, to)
    except ClientError as error:
        raise RollbackError(f"{to} cannot be put back: {error.response['Error']['Message']}") from error
    if problem := endpoints.mismatch(live, endpoint_name, to):
        raise RollbackError(problem)
    return f"{to} serves again, in place of {serves}; {_asked(aws_conn_id, hook, endpoint_name)}"


def _end_update(
    aws_conn_id: str | None, hook: SageMakerHook, endpoint_name: str, pending: str
) -> dict[str, Any]:
    """SageMaker has no call for it, but an alarm that goes off has it roll back."""
    cloudwatch = AwsBaseHook(aws_conn_id, client_type="cloudwatch").conn
    found = cloudwatch.describe_alarms(AlarmNamePrefix=f"{endpoint_name}-")["MetricAlarms"]
    for alarm in found:
        if {"Name": "EndpointConfigName", "Value": pending} in alarm["Dimensions"]:
            cloudwatch.set_alarm_state(
                AlarmName=alarm["AlarmName"], StateValue="ALARM", StateReason="Rolled back by hand."
            )
    log.info("waiting for the end of the update of %s to %s", endpoint_name, pending)
    live = endpoints.settle(hook, endpoint_name)
    if live is None:
        raise RollbackError(f"{endpoint_name} is gone")
    return live


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
