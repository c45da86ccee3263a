"""One local cloud for the whole session, with its own state and free ports."""

from collections.abc import Iterator

import pytest

from tests.local_sagemaker.cloud_client import Cloud


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    running = Cloud(tmp_path_factory.mktemp("cloud"))
    yield running
    assert running.end() == 0
