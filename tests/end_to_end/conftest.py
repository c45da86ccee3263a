"""Real stacks, each with its own folder and ports, so that the tests can run while `make up` does."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.local_stack import REPOSITORY, Stack


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    made = Stack(folder / "var", Path(shutil.copytree(REPOSITORY / "dags", folder / "dags")))
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
