"""What the processes of an end-to-end run ask AWS for, a line of JSON each in the file that EVERGREEN_RECORDING names.

Python imports this module at its start in every process that has its folder in PYTHONPATH: Airflow's, whose boto3 and
aiobotocore clients are watched, and the local cloud, which does in its own requests what SageMaker does with a job's
role.
"""

import http.client
import importlib.abc
import importlib.util
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

RECORDING = "EVERGREEN_RECORDING"
# What is in a request besides names.
CONTENTS = frozenset(
    {"Body", "HyperParameters", "AlgorithmSpecification", "MetricData", "ContainerArguments"}
)


def of_airflow() -> bool:
    """Whether it is Airflow that asks: its process, or in a test's process the plugins."""
    if {"EVERGREEN_STACK", "AIRFLOW_CONN_AWS_DEFAULT"} <= os.environ.keys():
        return True
    frame = sys._getframe(1)
    while frame:
        if str(frame.f_globals.get("__name__")).startswith("evergreen."):
            return True
        frame = frame.f_back
    return False


def note(**call: Any) -> None:
    with Path(os.environ[RECORDING]).open("a") as file:
        file.write(json.dumps(call, default=str) + "\n")


def watch_boto(client: Any) -> None:
    """:param client: botocore's, or aiobotocore's, class of clients."""
    make = client._make_api_call

    def make_and_note(self: Any, operation: str, parameters: dict[str, Any]) -> Any:
        if of_airflow():
            named = {key: value for key, value in parameters.items() if key not in CONTENTS}
            note(
                by="airflow",
                service=self.meta.service_model.service_name,
                operation=operation,
                parameters=named,
            )
        return make(self, operation, parameters)

    client._make_api_call = make_and_note


def watch_local_cloud(module: Any) -> None:
    """:param module: local_sagemaker's way to its AWS, whose connections are `http.client.HTTPConnection`."""

    class Noted(http.client.HTTPConnection):
        def request(
            self, method: str, url: str, body: Any = None, headers: Any = None, **kwargs: Any
        ) -> None:
            target, members = (headers or {}).get("x-amz-target"), {}
            if target:
                members = {key: value for key, value in json.loads(body).items() if isinstance(value, str)}
            if not url.startswith("/_ministack/"):
                note(by="role", method=method, path=url, target=target, members=members)
            super().request(method, url, body, headers or {}, **kwargs)

    client = SimpleNamespace(HTTPConnection=Noted, HTTPException=http.client.HTTPException)
    module.http = SimpleNamespace(client=client)


# Module → what is done when it has been imported.
WATCHED = {
    "botocore.client": lambda module: watch_boto(module.BaseClient),
    "aiobotocore.client": lambda module: watch_boto(module.AioBaseClient),
    "local_sagemaker.aws.client": watch_local_cloud,
}


class AfterImport(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        watch = WATCHED.pop(name, None)
        spec = importlib.util.find_spec(name) if watch else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_watch(module: Any) -> None:
            execute(module)
            watch(module)

        spec.loader.exec_module = execute_and_watch  # type: ignore[method-assign]
        return spec


if RECORDING in os.environ:
    sys.meta_path.insert(0, AfterImport())
