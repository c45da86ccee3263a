import os
import socket
import sys
from pathlib import Path

import psutil
import pytest

from scripts.local_stack import Stack, StackError, free_port, wait_for

# A process that starts another, and neither carries the stack's mark: as Airflow's, once it has retitled them.
PARENT = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
time.sleep(300)
"""


def unmarked() -> dict[str, str]:
    return {"PATH": os.environ["PATH"]}


def test_down_ends_what_was_started_and_its_children(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "var")
    stack.start("sleeper", [sys.executable, "-c", PARENT], unmarked())
    wait_for("the child", lambda: len(stack.processes()) == 2, 10)
    assert stack.down() == 2
    assert not stack.processes()
    assert not list(stack.run.glob("*.pid"))


def test_down_ends_a_child_whose_parent_is_gone(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "var")
    leader = stack.start("sleeper", [sys.executable, "-c", PARENT], unmarked())
    wait_for("the child", lambda: len(stack.processes()) == 2, 10)
    leader.kill()
    leader.wait(10)
    (orphan,) = stack.processes()
    assert stack.down() == 1
    assert not psutil.pid_exists(orphan.pid) or orphan.status() == psutil.STATUS_ZOMBIE


def test_stacks_do_not_see_each_other(tmp_path: Path) -> None:
    mine, other = Stack(tmp_path / "mine"), Stack(tmp_path / "other")
    mine.start("sleeper", [sys.executable, "-c", "import time; time.sleep(300)"], mine._environment())
    assert mine.processes()
    assert other.down() == 0
    assert mine.down() == 1


def test_a_taken_port_is_replaced() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) != port
    assert free_port(port) == port


def test_what_does_not_happen_is_said() -> None:
    with pytest.raises(StackError, match=r"the tide did not happen within 0 s"):
        wait_for("the tide", lambda: False, 0)


def test_airflows_environment_is_the_stacks_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__DAGS_FOLDER", "/somewhere/else")
    monkeypatch.setenv("AWS_PROFILE", "production")
    environment = Stack(tmp_path / "var")._environment()
    assert "AIRFLOW__CORE__DAGS_FOLDER" not in environment
    assert "AWS_PROFILE" not in environment
