"""A real local cloud, and the connection to it."""

import os
from collections.abc import Iterator

import pytest

from scripts.local_stack import Cloud, Stack


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    stack = Stack(tmp_path_factory.mktemp("cloud") / "var")
    running = stack.cloud()
    name = "AIRFLOW_CONN_AWS_DEFAULT"
    os.environ[name] = stack.airflow_environment(running)[name]
    yield running
    del os.environ[name]
    stack.down()
