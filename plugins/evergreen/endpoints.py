"""What is serving now, and how to put it back."""

import logging
import time
from typing import Any

from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from airflow.providers.common.compat.sdk import AirflowException
from botocore.exceptions import ClientError

from evergreen.requests import BEFORE_TAG

log = logging.getLogger(__name__)

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
        time.sleep(2)
    return endpoint


def put_back(hook: SageMakerHook, endpoint_name: str, endpoint_config_name: str) -> str:
    """Update the endpoint to an earlier configuration; one sentence that says how that ended."""
    endpoint = settle(hook, endpoint_name)
    if endpoint and endpoint["EndpointConfigName"] != endpoint_config_name:
        hook.conn.update_endpoint(EndpointName=endpoint_name, EndpointConfigName=endpoint_config_name)
        endpoint = settle(hook, endpoint_name)
    if (
        endpoint
        and endpoint["EndpointConfigName"] == endpoint_config_name
        and endpoint["EndpointStatus"] == "InService"
    ):
        return f"{endpoint_config_name} serves again"
    state = f"{endpoint['EndpointStatus']} on {endpoint['EndpointConfigName']}" if endpoint else "gone"
    return f"PUTTING BACK {endpoint_config_name} FAILED: the endpoint is {state}"


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
