"""What is serving now, and how to put it back."""

import logging
import re
import time
from typing import Any

from airflow.providers.amazon.aws.hooks.logs import AwsLogsHook
from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from airflow.providers.common.compat.sdk import AirflowException
from botocore.exceptions import ClientError

from evergreen.deployment_requests import BEFORE_TAG

log = logging.getLogger(__name__)

# The line that ends a Python traceback.
ERROR = re.compile(r"^[\w.]*(Error|Exception)\b")
CHANGING = SageMakerHook.endpoint_non_terminal_states


def describe(hook: SageMakerHook, endpoint_name: str) -> dict[str, Any] | None:
    """DescribeEndpoint, or None when there is no such endpoint."""
    try:
        description: dict[str, Any] = hook.describe_endpoint(endpoint_name)
    except ClientError as error:
        if error.response["Error"]["Code"] == "ValidationException":
            return None
        raise
    return description


def champion(hook: SageMakerHook, endpoint_name: str) -> dict[str, Any] | None:
    """The model that answers at the endpoint; None when nothing does."""
    endpoint = describe(hook, endpoint_name)
    if endpoint is None or endpoint["EndpointStatus"] == "Failed":
        return None
    config_name = endpoint["EndpointConfigName"]
    config = hook.describe_endpoint_config(config_name)
    model_name = config["ProductionVariants"][0]["ModelName"]
    model = hook.describe_model(model_name)
    tags = hook.conn.list_tags(ResourceArn=config["EndpointConfigArn"])["Tags"]
    return {
        "endpoint": endpoint_name,
        "endpoint_config": config_name,
        "previous_endpoint_config": next((tag["Value"] for tag in tags if tag["Key"] == BEFORE_TAG), None),
        "model": model_name,
        "model_data": model["PrimaryContainer"]["ModelDataUrl"],
    }


def settle(hook: SageMakerHook, endpoint_name: str, timeout: float = 3600) -> dict[str, Any] | None:
    """Wait until nobody changes the endpoint; its description then, None when it does not exist.

    :param timeout: seconds.
    """
    deadline = time.monotonic() + timeout
    while (endpoint := describe(hook, endpoint_name)) and endpoint["EndpointStatus"] in CHANGING:
        if time.monotonic() > deadline:
            raise AirflowException(
                f"{endpoint_name} is still {endpoint['EndpointStatus']} after {timeout:.0f} s"
            )
        log.info("%s is %s", endpoint_name, endpoint["EndpointStatus"])
        time.sleep(1)
    return endpoint


def state(live: dict[str, Any] | None) -> str:
    """The endpoint's status, and what SageMaker says of the new fleet."""
    if live is None:
        return "not there"
    pending = live.get("PendingDeploymentSummary", {}).get("ProductionVariants", [])
    steps = [status["Status"] for variant in pending for status in variant.get("VariantStatus", [])[-1:]]
    return ", ".join([live["EndpointStatus"], *steps])


def changes_to(live: dict[str, Any]) -> str | None:
    """The configuration that an endpoint is being created with, or updated to."""
    if live["EndpointStatus"] == "Creating":
        return str(live["EndpointConfigName"])
    pending: str | None = live.get("PendingDeploymentSummary", {}).get("EndpointConfigName")
    return pending if live["EndpointStatus"] == "Updating" else None


def mismatch(live: dict[str, Any] | None, endpoint_name: str, endpoint_config_name: str) -> str | None:
    """One sentence when the endpoint is not in service with that configuration.

    SageMaker ends an update that it rolled back, or whose new instances did not come up, as InService.
    """
    if live is None:
        return f"endpoint {endpoint_name} does not exist"
    if live["EndpointConfigName"] == endpoint_config_name and live["EndpointStatus"] == "InService":
        return None
    return (
        f"endpoint {endpoint_name} is {live['EndpointStatus']} with {live['EndpointConfigName']}, "
        f"not InService with {endpoint_config_name}: {brief(live.get('FailureReason', 'no reason given'))}"
    )


def brief(reason: str) -> str:
    """A reason without the middle of a traceback in it."""
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    return " … ".join([lines[0], lines[-1]]) if len(lines) > 1 else reason.strip()


def last_words(
    aws_conn_id: str | None, endpoint_name: str, since: float, *, error: bool = False
) -> str | None:
    """The last error in the log of the endpoint's newest instance, or its last line; None without a new log.

    :param since: seconds since the epoch; older instances are others.
    :param error: take no line that is none.
    """
    logs, group = AwsLogsHook(aws_conn_id=aws_conn_id).conn, f"/aws/sagemaker/Endpoints/{endpoint_name}"
    try:
        streams = logs.describe_log_streams(
            logGroupName=group, orderBy="LastEventTime", descending=True, limit=20
        )["logStreams"]
        new = [stream for stream in streams if stream["creationTime"] >= 1000 * since]
        if not new:
            return None
        events = logs.get_log_events(
            logGroupName=group, logStreamName=new[0]["logStreamName"], startFromHead=False, limit=100
        )["events"]
    except ClientError as error:
        log.warning("reading the endpoint's log: %s", error)
        return None
    lines = [event["message"].strip() for event in events if event["message"].strip()]
    errors = [line for line in lines if ERROR.search(line)]
    return next(reversed(errors if errors or error else lines), None)


def restore(hook: SageMakerHook, endpoint_name: str, endpoint_config_name: str) -> dict[str, Any] | None:
    """Update the endpoint to an earlier configuration, all at once and whatever the alarms say.

    Its description when nobody changes it any more.
    """
    endpoint = settle(hook, endpoint_name)
    if endpoint and mismatch(endpoint, endpoint_name, endpoint_config_name):
        hook.conn.update_endpoint(EndpointName=endpoint_name, EndpointConfigName=endpoint_config_name)
        endpoint = settle(hook, endpoint_name)
    return endpoint


def retire(hook: SageMakerHook, base_name: str, keep: int, kept: set[str | None]) -> list[str]:
    """Delete the endpoint configurations and models of a pipeline beyond the newest `keep`, sparing `kept`.

    A model that a remaining configuration names is spared too.
    """
    client, deleted = hook.conn, []

    def newest_first(operation: str, items: str, name: str) -> list[str]:
        pages = client.get_paginator(operation).paginate(
            NameContains=f"{base_name}-", SortBy="CreationTime", SortOrder="Descending"
        )
        return [item[name] for page in pages for item in page[items]]

    configs = newest_first("list_endpoint_configs", "EndpointConfigs", "EndpointConfigName")
    models = newest_first("list_models", "Models", "ModelName")
    for name in [name for name in configs[keep:] if name not in kept]:
        client.delete_endpoint_config(EndpointConfigName=name)
        deleted.append(name)
    in_use = {
        variant["ModelName"]
        for name in configs
        if name not in deleted
        for variant in hook.describe_endpoint_config(name)["ProductionVariants"]
    }
    for name in [name for name in models[keep:] if name not in kept | in_use]:
        client.delete_model(ModelName=name)
        deleted.append(name)
    return deleted
