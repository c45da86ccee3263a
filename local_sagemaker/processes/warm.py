"""Warm processes: a resident Python for images that import the same, from which jobs and servers are forked.

Importing torch takes seconds of processor time; a fork takes milliseconds. `forkserver.py` is the other side.
"""

import json
import logging
import re
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from local_sagemaker.images import Image
from local_sagemaker.processes import namespace
from local_sagemaker.processes.mark import MARK
from local_sagemaker.processes.namespace import Container

log = logging.getLogger(__name__)

START_LIMIT_S = 120.0
PYTHON = re.compile(r"python(3(\.\d+)?)?")
# Read when the interpreter or a library is loaded, which has happened when a warm process forks.
READ_AT_LOAD = re.compile(
    r"PYTHON(?!PATH$|UNBUFFERED$).*|LD_.*|DYLD_.*|OMP_.*|MKL_.*|KMP_.*|CUDA_VISIBLE_DEVICES"
)


class Process(Protocol):
    """A started job process, the leader of its own process group."""

    pid: int

    def wait(self, timeout: float) -> int | None:
        """The exit status, negative for a signal; None when it still runs after `timeout` seconds."""


class ColdProcess:
    """A process started in the ordinary way."""

    def __init__(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        output: Path,
        container: Container | None = None,
    ) -> None:
        """`folder` is where it starts, as seen from within the container. Raises OSError."""
        before = namespace.launcher(container, str(folder)) if container else []
        with output.open("ab") as file:
            self._process = subprocess.Popen(
                [*before, *argv],
                env=dict(environment),
                cwd=None if container else folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def wait(self, timeout: float) -> int | None:
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None


class WarmProcess:
    """A process forked from a warm one, which tells when it ends."""

    def __init__(self) -> None:
        self.pid = 0
        self.started = threading.Event()
        self._ended = threading.Event()
        self._status = -9

    def end(self, status: int) -> None:
        self._status = status
        self._ended.set()
        self.started.set()

    def wait(self, timeout: float) -> int | None:
        return self._status if self._ended.wait(timeout) else None


class Warm(NamedTuple):
    """What images have in common that are forked from one process."""

    python: Path
    modules: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]


def warm_of(image: Image) -> Warm:
    """Without PYTHONPATH, which a fork takes on as well: the modules are those of the interpreter's environment."""
    environment = tuple(item for item in image.environment if item[0] != "PYTHONPATH")
    return Warm(image.python, image.warm, environment)


class ForkServer:
    """The service's side of one warm process."""

    def __init__(self, warm: Warm, environment: Mapping[str, str], folder: Path, output: Path) -> None:
        """Returns when the modules are imported. Raises OSError when that fails, see the file `output`."""
        ours, theirs = socket.socketpair()
        with output.open("ab") as file:
            self._process = subprocess.Popen(
                [str(warm.python), str(Path(__file__).with_name("forkserver.py")), json.dumps(warm.modules)],
                env=dict(environment),
                cwd=folder,
                stdin=theirs.fileno(),
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        theirs.close()
        self._socket = ours
        self._lock = threading.Lock()
        self._jobs: dict[int, WarmProcess] = {}
        self._count = 0
        self._lines = ours.makefile("rb")
        ours.settimeout(START_LIMIT_S)
        ready = self._lines.readline()
        ours.settimeout(None)
        if not ready:
            self.close()
            raise OSError(f"the warm process ended while it imported {', '.join(warm.modules)}; see {output}")
        log.info(
            "warm process %d imported %s in %s s", self._process.pid, warm.modules, json.loads(ready)["ready"]
        )
        threading.Thread(target=self._listen, name="warm", daemon=True).start()

    def fork(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        output: Path,
        container: Container,
    ) -> WarmProcess:
        """Start `python ARGV…`. Raises OSError when the warm process is gone."""
        process = WarmProcess()
        with self._lock:
            self._count += 1
            self._jobs[self._count] = process
            request = {
                "id": self._count,
                "argv": list(argv),
                "environment": dict(environment),
                "folder": str(folder),
                "log": str(output),
                "container": container,
            }
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        process.started.wait()
        if not process.pid:
            raise OSError("the warm process ended")
        return process

    def close(self) -> None:
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def _listen(self) -> None:
        try:
            for line in self._lines:
                self._receive(json.loads(line))
        except OSError as error:
            log.debug("warm process: %s", error)
        with self._lock:
            for process in self._jobs.values():
                process.end(-9)

    def _receive(self, message: dict[str, int]) -> None:
        with self._lock:
            process = self._jobs[message["id"]]
            if "status" in message:
                del self._jobs[message["id"]]
                process.end(message["status"])
            else:
                process.pid = message["pid"]
                process.started.set()


class WarmPool:
    """Starts job processes, warm where that cannot be told from cold, and cold otherwise."""

    def __init__(self, folder: Path, logs: Path, mark: str) -> None:
        """`mark` is the service's own: a job's would end the warm process with that job."""
        self._folder = folder
        self._logs = logs
        self._mark = mark
        self._lock = threading.Lock()
        self._servers: dict[Warm, ForkServer] = {}
        self._failed: set[Warm] = set()

    def start(
        self,
        image: Image,
        argv: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        output: Path,
        *,
        own: Mapping[str, str] | None = None,
        container: Container | None = None,
        fresh: bool = False,
    ) -> Process:
        """Start a command of an image; `own` are the variables that are the job's and not the image's.

        `fresh` asks for a new interpreter in any case.

        A leading `python` means the image's interpreter; `folder` is as seen from within the container.
        """
        arguments = list(argv)
        is_python = PYTHON.fullmatch(Path(arguments[0]).name) or arguments[0] == str(image.python)
        if is_python:
            arguments[0] = str(image.python)
        container = container or {}
        script = folder / arguments[1] if len(arguments) > 1 else folder
        if "ml" in container and script.is_relative_to(namespace.OPT_ML):
            script = Path(container["ml"]) / script.relative_to(namespace.OPT_ML)
        if (
            is_python
            and not fresh
            and warm_of(image) not in self._failed
            and forkable(image, arguments, own or {}, script)
        ):
            try:
                server = self._server(warm_of(image), environment)
                return server.fork(arguments[1:], environment, folder, output, container)
            except OSError as error:
                log.warning("starting cold: %s", error)
                self._discard(warm_of(image))
        return ColdProcess(arguments, environment, folder, output, container)

    def close(self) -> None:
        with self._lock:
            for server in self._servers.values():
                server.close()
            self._servers.clear()

    def _server(self, warm: Warm, environment: Mapping[str, str]) -> ForkServer:
        with self._lock:
            if warm not in self._servers:
                kept = {key: environment[key] for key in ("PATH", "LANG")} | {MARK: self._mark}
                kept |= {"HOME": str(self._folder), "PYTHONUNBUFFERED": "1"} | dict(warm.environment)
                output = self._logs / "warm.log"
                try:
                    self._servers[warm] = ForkServer(warm, kept, self._folder, output)
                except OSError:
                    # Not tried again: each try costs every job the seconds that it was meant to save.
                    self._failed.add(warm)
                    raise
            return self._servers[warm]

    def _discard(self, warm: Warm) -> None:
        with self._lock:
            server = self._servers.pop(warm, None)
        if server:
            server.close()


def forkable(image: Image, argv: Sequence[str], own: Mapping[str, str], script: Path) -> bool:
    """Whether `python ARGV[1]…` may be forked from a warm process and not see the difference.

    :param script: what ARGV[1] is outside the container, when it is a file.
    """
    if not image.warm or len(argv) < 2 or any(READ_AT_LOAD.fullmatch(name) for name in own):
        return False
    if argv[1] == "-m":
        return len(argv) > 2
    return not argv[1].startswith("-") and script.is_file()
