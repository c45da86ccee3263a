"""Process groups: ended kindly, ended for certain, and found again after a crash.

Every process started here carries STATE_MARK in its environment, and so does everything it starts. That is how
the keeper (and the next start) find what a killed service left behind, whatever groups it made.

    python -m local_sagemaker.processes STATE_DIR < PIPE    # the keeper: waits for the end of PIPE, then sweeps
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

STATE_MARK = "LOCAL_SAGEMAKER_STATE"


def signal_group(group: int, number: signal.Signals) -> bool:
    """Signal a process group; False when it has ended."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def sweep(state: Path) -> int:
    """Kill every process that carries this state directory's mark, save this one; how many there were."""
    killed: set[int] = set()
    # Again until nothing is found: a process may fork while it is being looked for.
    while found := [process for process in _marked(state) if process.pid != os.getpid()]:
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
            killed.add(process.pid)
        psutil.wait_procs(found, timeout=2)
    return len(killed)


def _marked(state: Path) -> list[psutil.Process]:
    marked = []
    for process in psutil.process_iter():
        # Other users' processes, and those that end while we look, cannot be read and are not ours.
        with contextlib.suppress(psutil.Error):
            if process.environ().get(STATE_MARK) == str(state) and process.status() != psutil.STATUS_ZOMBIE:
                marked.append(process)
    return marked


def start_keeper(state: Path) -> "subprocess.Popen[bytes]":
    """Start the process that sweeps when this one ends, even by SIGKILL: its standard input ends then."""
    return subprocess.Popen(
        [sys.executable, "-m", "local_sagemaker.processes", str(state)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        cwd=Path(__file__).parents[1],
    )


def _keep(state: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while sys.stdin.buffer.read(1):
        pass
    # A moment for a service that ends in order and ends its own.
    time.sleep(0.2)
    if count := sweep(state):
        print(f"local_sagemaker: ended {count} processes that the service left behind", file=sys.stderr)


if __name__ == "__main__":
    _keep(Path(sys.argv[1]))
