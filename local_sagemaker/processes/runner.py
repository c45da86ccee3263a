"""The container contract: /opt/ml, a host as one process group, its limits, its log, and its end."""

import json
import math
import os
import random
import re
import shutil
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from local_sagemaker.aws.logs import Shipper
from local_sagemaker.aws.s3 import CREDENTIAL
from local_sagemaker.cloud import ClosedError, Cloud
from local_sagemaker.images import Image
from local_sagemaker.jobs.uploads import Watch
from local_sagemaker.processes import docker, namespace
from local_sagemaker.processes.keeper import signal_group, sweep
from local_sagemaker.processes.mark import MARK
from local_sagemaker.processes.warm import ColdProcess, Process

REASON_LIMIT = 1024
TICK_S = 0.2
MEMORY_EVERY_S = 2.0
GIB = 1 << 30
FIRST_HOST = "algo-1"
# Which devices a job may see is the machine's business; nothing else of our own environment is.
PASSED_ON = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "TZ")


@dataclass(frozen=True)
class Box:
    """A host's /opt/ml and what lies beside it: ROOT/{ml,tmp,log,hosts}."""

    root: Path
    mounted: bool = False
    """Whether its processes see `ml` as /opt/ml, or under the path that it has on this machine."""

    @property
    def ml(self) -> Path:
        return self.root / "ml"

    @property
    def base(self) -> Path:
        """/opt/ml as its processes see it."""
        return Path(namespace.OPT_ML) if self.mounted else self.ml

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def tmp(self) -> Path:
        return self.root / "tmp"

    def create(self) -> None:
        """Make the folders that the platform makes."""
        for name in ("input/config", "input/data", "model", "output/data", "code"):
            (self.ml / name).mkdir(parents=True, exist_ok=True)
        # Of an earlier attempt; clean() leaves it to be read.
        (self.ml / "output/failure").unlink(missing_ok=True)
        self.tmp.mkdir(exist_ok=True)
        self.log.touch()

    def write_config(self, name: str, content: Any, folder: str = "input/config") -> None:
        """Write FOLDER/NAME.json."""
        (self.ml / folder).mkdir(parents=True, exist_ok=True)
        (self.ml / folder / f"{name}.json").write_text(json.dumps(content, indent=1))

    def clean(self) -> None:
        """Remove what S3 has or nobody wants; log, configuration and output/failure stay."""
        inside = [*self.ml.glob("*"), *self.ml.glob("input/*"), *self.ml.glob("output/*")]
        for item in [*inside, self.tmp, self.root / "packages"]:
            if item.relative_to(self.root).as_posix() not in {
                "ml/input",
                "ml/input/config",
                "ml/config",
                "ml/output",
            }:
                _remove(item)

    def here(self, text: str) -> str:
        """The text with /opt/ml as the path by which the box's processes reach it."""
        return re.sub(rf"{namespace.OPT_ML}(?![\w-])", lambda _: str(self.base), text)

    def local(self, path: str) -> Path | None:
        """Where a path below /opt/ml lies on this machine; None for any other path."""
        inside = os.path.normpath(path).removeprefix(f"{namespace.OPT_ML}/")
        return None if inside == os.path.normpath(path) else self.ml / inside


def _remove(item: Path) -> None:
    if item.is_dir() and not item.is_symlink():
        shutil.rmtree(item, ignore_errors=True)
    elif item.name != "failure":
        item.unlink(missing_ok=True)


def job_folder(cloud: Cloud, kind: str, name: str) -> Path:
    return cloud.state / "jobs" / kind / name


def box(cloud: Cloud, kind: str, name: str, host: str = FIRST_HOST) -> Box:
    """The box of one host of a job."""
    return Box(job_folder(cloud, kind, name) / host, mounted=namespace.unavailable() is None)


def host_names(count: int) -> list[str]:
    return [f"algo-{number}" for number in range(1, count + 1)]


def resource_config(instance_type: str, hosts: Sequence[str], current: str) -> dict[str, Any]:
    """resourceconfig.json of one host."""
    group = {"instance_group_name": "homogeneousCluster", "instance_type": instance_type, "hosts": [*hosts]}
    return {
        "current_host": current,
        "current_instance_type": instance_type,
        "current_group_name": "homogeneousCluster",
        "hosts": [*hosts],
        "instance_groups": [group],
        "network_interface_name": "lo",
    }


def environment(cloud: Cloud, image: Image, home: Path, region: str) -> dict[str, str]:
    """A process's variables, from nothing: only what a container would have, and the way to the local AWS."""
    settings = cloud.settings
    variables = {
        "PATH": f"{image.python.parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        "TMPDIR": str(home),
        "LANG": "C.UTF-8",
        # As in AWS's images: log lines are to be seen when they are written.
        "PYTHONUNBUFFERED": "1",
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": CREDENTIAL,
        "AWS_ENDPOINT_URL": settings.aws_url,
        "AWS_ENDPOINT_URL_SAGEMAKER": settings.sagemaker_url,
        "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": settings.sagemaker_url,
        MARK: settings.mark,
    }
    variables |= {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return variables | dict(image.environment)


@dataclass(frozen=True)
class Command:
    """What one host starts. `folder` is as its process sees it; `own` are the variables of this job alone.

    In Docker, `argv` are the arguments to the image's own entry point, or to `entrypoint` where one is given.
    """

    box: Box
    argv: Sequence[str]
    folder: Path
    variables: Mapping[str, str]
    own: Mapping[str, str]
    entrypoint: Sequence[str] = ()
    fresh: bool = False
    """Whether the job has packages of its own, which modules that came warm might be older than."""


@dataclass(frozen=True)
class Outcome:
    """How the processes of a job ended: which host decided it, and what we ended them for, if we did."""

    exit_code: int
    box: Box
    ended_for: str | None = None
    """None, "stop", "runtime", "interruption" or "memory"."""


@dataclass
class Run:
    """One attempt at a job: its hosts, and when to end them."""

    cloud: Cloud
    name: str
    boxes: Sequence[Box]
    shippers: Sequence[Shipper]
    stop: threading.Event
    interruption: threading.Event
    limit_s: float
    volume_gib: int = 0
    isolated: bool = False
    watch: Watch = field(default_factory=Watch)

    @property
    def box(self) -> Box:
        """The first host's."""
        return self.boxes[0]

    @property
    def hosts(self) -> list[str]:
        return [box.root.name for box in self.boxes]

    def execute(self, image: Image, commands: Sequence[Command]) -> Outcome:
        """Start a command for each host and wait for their end: their own, Stop, a limit, or an interruption.

        Raises OSError when a command cannot be started, ClosedError when the service ends.
        """
        addresses = self._write_hosts()
        mark = f"{self.cloud.settings.mark}/{self.name}/"
        processes: list[Process] = []
        for shipper in self.shippers:
            self.watch.add(shipper.ship)
        try:
            for command in commands:
                processes.append(self._start(image, command, addresses, mark))
            self.watch.start()
            outcome = self._wait(processes)
        finally:
            # A container ends with its first process.
            _signal(processes, signal.SIGKILL)
            sweep(mark)
            if image.docker:
                docker.remove(mark)
            self.watch.stop()
        self.watch.finish()
        return outcome

    def _start(self, image: Image, command: Command, addresses: Path, mark: str) -> Process:
        box, variables = command.box, {**command.variables, **command.own}
        if image.docker:
            limit = self.cloud.settings.memory_gib
            argv = docker.command(
                str(image.docker),
                command.argv,
                box.ml,
                variables,
                mark,
                entrypoint=command.entrypoint,
                hostname=box.root.name,
                hosts=addresses,
                isolated=self.isolated,
                memory=int(limit * GIB) if math.isfinite(limit) else None,
            )
            return ColdProcess(argv, {**os.environ, MARK: mark}, box.root, box.log)
        return self.cloud.warm.start(
            image,
            [*command.entrypoint, *command.argv],
            {**variables, MARK: mark},
            command.folder,
            box.log,
            own=command.own,
            container=self._container(box, addresses),
            fresh=command.fresh,
        )

    def _container(self, box: Box, addresses: Path) -> namespace.Container:
        container: namespace.Container = {"file_size": self.volume_gib * GIB}
        if box.mounted:
            container |= {"ml": str(box.ml), "hosts": str(addresses), "hostname": box.root.name}
            container["isolated"] = self.isolated
        return container

    def _write_hosts(self) -> Path:
        """The job's /etc/hosts. With several hosts each has an address of its own, so that ports are its own too."""
        lines = [Path("/etc/hosts").read_text()] if Path("/etc/hosts").exists() else []
        network = random.randrange(1, 255)  # ruff: ignore[suspicious-non-cryptographic-random-usage]
        for number, host in enumerate(self.hosts, 1):
            lines.append(f"127.0.{network if len(self.hosts) > 1 else 0}.{number} {host}")
        file = self.box.root / "hosts"
        file.write_text("\n".join(lines) + "\n")
        return file

    def _wait(self, processes: Sequence[Process]) -> Outcome:
        started = time.monotonic()
        measured = started
        asked: float | None = None
        ended_for: str | None = None
        running = dict(enumerate(processes))
        decided: tuple[int, int] | None = None
        while running:
            for number, process in list(running.items()):
                if (code := process.wait(TICK_S / len(running))) is None:
                    continue
                del running[number]
                if decided is None and code:
                    decided = number, code
            if self.cloud.closing.is_set():
                raise ClosedError
            now = time.monotonic()
            if asked is None and running:
                ended_for = self._reason(now - started)
                if ended_for is None and now - measured > MEMORY_EVERY_S:
                    measured = now
                    ended_for = "memory" if self._too_large(running.values()) else None
                # Where one host has failed, the job has.
                if ended_for or decided:
                    _signal(running.values(), signal.SIGTERM)
                    asked = now
            elif asked is not None and now - asked > self.cloud.settings.stop_grace_s:
                _signal(running.values(), signal.SIGKILL)
        number, code = decided or (0, 0)
        return Outcome(code if code >= 0 else 128 - code, self.boxes[number], ended_for)

    def _reason(self, seconds: float) -> str | None:
        if self.stop.is_set():
            return "stop"
        if self.interruption.is_set():
            return "interruption"
        return "runtime" if seconds > self.limit_s else None

    def _too_large(self, processes: Any) -> bool:
        return sum(memory(process.pid) for process in processes) > self.cloud.settings.memory_gib * GIB


def _signal(processes: Any, number: signal.Signals) -> None:
    for process in processes:
        signal_group(process.pid, number)


def memory(pid: int) -> int:
    """Bytes that a process and those below it hold: shared and file-backed pages left out, so forks count once."""
    total = 0
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for member in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):
                used = member.memory_info()
                total += used.rss - getattr(used, "shared", 0)
    return total


def algorithm_error(outcome: Outcome) -> str:
    """FailureReason for a command that failed: what it wrote to output/failure, or the end of its log."""
    failure = outcome.box.ml / "output/failure"
    text = (
        failure.read_text(errors="replace")[:REASON_LIMIT] if failure.is_file() else log_end(outcome.box.log)
    )
    return f"AlgorithmError: {text}, exit code: {outcome.exit_code}"


def memory_error(run: Run) -> str:
    """FailureReason for a job that was ended because of its size, in AWS's words."""
    return (
        "ClientError: Please use an instance type with more memory, or reduce the size of training data processed on "
        f"an instance: the limit of a job here is {run.cloud.settings.memory_gib:g} GiB (--job-memory)."
    )


def log_end(log: Path) -> str:
    """The last lines of a log, from the last traceback on where there is one; at most 1,024 characters."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 16_384))
        text = file.read().decode("utf-8", "replace").rstrip()
    trace = text.rfind("Traceback (most recent call last)")
    text = text[trace:] if trace >= 0 else "\n".join(text.splitlines()[-15:])
    return text if len(text) <= REASON_LIMIT else "…" + text[-REASON_LIMIT + 1 :]
