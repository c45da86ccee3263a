"""Images that run in Docker, for whom an engine is there: the container contract as a `docker run` command line.

`docker run` stays in the foreground, so to its caller it is a process like any other: it writes what the container
writes, hands SIGTERM on to it, and ends with its exit status (125: the engine could not start it). Only SIGKILL it
cannot hand on; `remove` ends what is left then. What a container writes to /opt/ml belongs to the user that its image
names, which is root for most, unless the engine is rootless.
"""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from local_sagemaker.processes.mark import MARK

ANSWER_LIMIT_S = 60.0
SERVER_PORT = 8080
# Those describe the machine that a process runs on.
ITS_OWN = {"PATH", "HOME", "TMPDIR", "LANG", MARK}


def unavailable() -> str | None:
    """Why containers cannot be run here; None when they can."""
    if not shutil.which("docker"):
        return "there is no docker command"
    try:
        _docker("version", "--format={{.Server.Version}}")
    except OSError as error:
        return str(error)
    return None


def command(
    image: str,
    arguments: Sequence[str],
    ml: Path,
    variables: Mapping[str, str],
    mark: str,
    *,
    entrypoint: Sequence[str] = (),
    hostname: str = "algo-1",
    hosts: Path | None = None,
    isolated: bool = False,
    port: int | None = None,
    memory: int | None = None,
) -> list[str]:
    """`docker run IMAGE ARGUMENTS` with the folder `ml` as /opt/ml and a label by which `remove` finds it.

    `entrypoint` takes the place of the image's own. `hosts` is shown as /etc/hosts. With `port` the container's port
    8080 is reached at that one of 127.0.0.1, else it has the machine's network, or none when `isolated`. `memory` is
    its limit in bytes.
    """
    if port is not None:
        network = [f"--publish=127.0.0.1:{port}:{SERVER_PORT}"]
    else:
        network = ["--network=none" if isolated else "--network=host"]
    return [
        "docker",
        "run",
        "--rm",
        *network,
        f"--hostname={hostname}",
        f"--label={MARK}={mark}",
        # As Linux gives it to a machine; Docker's 64 MiB are too few for a data loader's processes.
        f"--shm-size={psutil.virtual_memory().total // 2}",
        *([f"--memory={memory}"] if memory else []),
        f"--volume={ml}:/opt/ml",
        *([f"--volume={hosts}:/etc/hosts:ro"] if hosts else []),
        *(f"--env={name}={value}" for name, value in variables.items() if name not in ITS_OWN),
        *([f"--entrypoint={entrypoint[0]}"] if entrypoint else []),
        image,
        *entrypoint[1:],
        *arguments,
    ]


def remove(mark: str) -> int:
    """End every container whose mark begins so (`STATE_DIR#` for all runs of a state); how many there were.

    Raises OSError when the engine does not do so. Where there is no engine there is no container either.
    """
    if unavailable():
        return 0
    lines = _docker("ps", "--all", f"--filter=label={MARK}", f'--format={{{{.ID}}}} {{{{.Label "{MARK}"}}}}')
    found = [line.split(" ", 1) for line in lines.splitlines()]
    ours = [container for container, its in found if its.startswith(mark)]
    if ours:
        _docker("rm", "--force", *ours)
    return len(ours)


def _docker(*arguments: str) -> str:
    """What a docker command prints. Raises OSError."""
    try:
        done = subprocess.run(
            ["docker", *arguments], capture_output=True, text=True, timeout=ANSWER_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"`docker {arguments[0]}` did not end within {ANSWER_LIMIT_S:g} s") from error
    if done.returncode:
        raise OSError(f"`docker {arguments[0]}`: {' '.join(done.stderr.split())}")
    return done.stdout
