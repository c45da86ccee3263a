"""One local cloud for the whole session, with its own state and free ports."""

import json
import signal
from collections.abc import Iterator

import pytest

from tests.local_sagemaker.cloud_client import Cloud


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    running = Cloud(tmp_path_factory.mktemp("cloud"), "--log-format", "json")
    yield running
    assert running.end() == 0
    entries = [json.loads(line) for line in (running.state / "log/service.log").read_text().splitlines()]
    assert all(entry.keys() >= {"time", "level", "logger", "message"} for entry in entries)
    assert any(entry["message"].startswith("serving on") for entry in entries)


@pytest.fixture(autouse=True)
def no_service_outlives_its_test() -> Iterator[None]:
    """A test that fails half-way leaves none behind."""
    before = list(Cloud.running)  # the session's
    yield
    for left in [cloud for cloud in Cloud.running if cloud not in before]:
        left.end(signal.SIGKILL)
