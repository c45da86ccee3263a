"""Process groups: ended kindly, ended for certain, and found again after a crash.

Every process started here carries a mark in its environment, and so does everything that it starts. That is how
the keeper (and the next start) find what a killed service left behind, whatever groups it made.

    python -m local_sagemaker.processes.keeper MARK < PIPE    # the keeper: waits for the end of PIPE, then sweeps
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

from local_sagemaker.processes import docker
from local_sagemaker.processes.mark import MARK

log = logging.getLogger(__name__)


def signal_group(group: int, number: signal.Signals) -> bool:
    """Signal a process group; False when it has ended."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def sweep(mark: str) -> int:
    """Kill every process whose mark begins so (`STATE_DIR#` for all runs of a state); how many there were."""
    killed: set[int] = set()
    # Again until nothing is found: a process may fork while it is being looked for.
    while found := [process for process in _marked(mark) if process.pid != os.getpid()]:
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
            killed.add(process.pid)
        time.sleep(0.05)
    return len(killed)


def _marked(mark: str) -> list[psutil.Process]:
    marked = []
    for process in psutil.process_iter():
        # Other users' processes, and those that end while we look, cannot be read and are not ours.
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK, "").startswith(mark) and process.status() != psutil.STATUS_ZOMBIE:
                marked.append(process)
    return marked


class Keeper:
    """The process that sweeps when this one ends, even by SIGKILL. Started anew should it end before."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._closing = threading.Event()
        self._process = self._start()
        threading.Thread(target=self._watch, name="keeper", daemon=True).start()

    def close(self) -> None:
        self._closing.set()
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _start(self) -> "subprocess.Popen[bytes]":
        # Its standard input ends when this process does.
        return subprocess.Popen(
            [sys.executable, "-m", "local_sagemaker.processes.keeper", self._mark],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            cwd=Path(__file__).parents[2],
        )

    def _watch(self) -> None:
        while True:
            self._process.wait()
            if self._closing.is_set():
                return
            log.warning("the keeper ended; starting it again")
            assert self._process.stdin
            self._process.stdin.close()
            self._process = self._start()


def _keep(mark: str) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while sys.stdin.buffer.read(1):
        pass
    # A moment for a service that ends in order and ends its own.
    time.sleep(0.2)
    if count := sweep(mark) + docker.remove(mark):
        print(f"local_sagemaker: ended {count} processes that the service left behind", file=sys.stderr)


if __name__ == "__main__":
    _keep(sys.argv[1])
