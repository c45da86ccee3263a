"""Real stacks, each with its own folder and ports, so that the tests can run while `make up` does.

What they ask AWS for is recorded, and `test_permissions.py`, which runs last, compares it with the IAM policies. Where
the files of this folder run in several processes (`make test`), the variable RECORDING names the file of all of them.
"""

import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import botocore.client
import pytest

from scripts.local_stack import REPOSITORY, Stack

RECORDER = Path(__file__).with_name("recorder")


@pytest.fixture(scope="session", autouse=True)
def recording(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file of what this process and all that it starts ask AWS for."""
    given = os.environ.get("RECORDING")
    file = Path(given).absolute() if given else tmp_path_factory.mktemp("recording") / "calls.jsonl"
    recorder = runpy.run_path(str(RECORDER / "sitecustomize.py"))
    client = botocore.client.BaseClient
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVERGREEN_RECORDING", str(file))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(RECORDER), os.environ.get("PYTHONPATH", "")]))
        patch.setattr(client, "_make_api_call", client._make_api_call)
        recorder["watch_boto"](client)
        yield file


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    made = Stack(folder / "var", Path(shutil.copytree(REPOSITORY / "dags", folder / "dags")))
    # At ports that no other stack looks for at this moment.
    made.cloud(0, 0)
    yield made
    made.down()
    assert not made.processes()


@pytest.fixture
def demo(stack: Stack) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(pipeline: str = "digits", **conf: Any) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [
                sys.executable, "-m", "scripts.demo", "--var", stack.var, "--dags", stack.dags,
                "--pipeline", pipeline, "--conf", json.dumps(conf),
            ],
            cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=500,
        )  # fmt: skip
        print(done.stdout, done.stderr)
        return done

    return run
