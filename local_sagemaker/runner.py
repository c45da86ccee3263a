"""The container contract: /opt/ml as a folder, a job as one process group, its limits and its log."""

import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_sagemaker.cloud import ClosedError, Cloud
from local_sagemaker.images import Image
from local_sagemaker.logs import Shipper
from local_sagemaker.processes import MARK, signal_group
from local_sagemaker.s3 import CREDENTIAL
from local_sagemaker.toolkit import HOST
from local_sagemaker.warm import Process

REASON_LIMIT = 1024
TICK_S = 0.2
SHIP_EVERY_S = 1.0
# Which devices a job may see is the machine's business; nothing else of our own environment is.
PASSED_ON = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "TZ")


@dataclass(frozen=True)
class Box:
    """A job's /opt/ml and what lies beside it: DIR/jobs/KIND/NAME/{ml,tmp,log}."""

    root: Path

    @property
    def ml(self) -> Path:
        return self.root / "ml"

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
        self.tmp.mkdir(exist_ok=True)
        self.log.touch()

    def write_config(self, name: str, content: Any) -> None:
        """Write input/config/NAME.json."""
        (self.ml / "input/config" / f"{name}.json").write_text(json.dumps(content, indent=1))

    def clean(self) -> None:
        """Remove what S3 has or nobody wants; log, configuration and output/failure stay."""
        for name in (
            "input/data",
            "model",
            "output/data",
            "output/tensors",
            "code",
            "checkpoints",
            "processing",
        ):
            shutil.rmtree(self.ml / name, ignore_errors=True)
        shutil.rmtree(self.tmp, ignore_errors=True)

    def here(self, text: str) -> str:
        """The text with /opt/ml as the path it has on this machine."""
        return re.sub(r"/opt/ml(?![\w-])", lambda _: str(self.ml), text)


def box(cloud: Cloud, kind: str, name: str) -> Box:
    return Box(cloud.state / "jobs" / kind / name)


def resource_config(instance_type: str) -> dict[str, Any]:
    """resourceconfig.json of a job on one instance."""
    group = {"instance_group_name": "homogeneousCluster", "instance_type": instance_type, "hosts": [HOST]}
    return {
        "current_host": HOST,
        "current_instance_type": instance_type,
        "current_group_name": "homogeneousCluster",
        "hosts": [HOST],
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
class Outcome:
    """How a process ended."""

    exit_code: int
    stopped: bool = False
    timed_out: bool = False


@dataclass
class Run:
    """One process of a job: what to start, and when to end it."""

    cloud: Cloud
    box: Box
    stop: threading.Event
    limit_s: float
    shipper: Shipper

    def execute(
        self,
        image: Image,
        argv: Sequence[str],
        folder: Path,
        variables: Mapping[str, str],
        own: Mapping[str, str],
    ) -> Outcome:
        """Start the command and wait for its end, whichever comes first: its own, Stop, or the time limit.

        Raises OSError when the command cannot be started, ClosedError when the service ends.
        """
        process = self.cloud.warm.start(image, argv, {**variables, **own}, folder, self.box.log, own=own)
        try:
            return self._wait(process)
        finally:
            # A container ends with its first process.
            signal_group(process.pid, signal.SIGKILL)
            self.shipper.ship(final=True)

    def _wait(self, process: Process) -> Outcome:
        started = time.monotonic()
        shipped = started
        asked: float | None = None
        timed_out = stopped = False
        while (code := process.wait(TICK_S)) is None:
            now = time.monotonic()
            if self.cloud.closing.is_set():
                raise ClosedError
            if asked is None:
                stopped, timed_out = self.stop.is_set(), now - started > self.limit_s
                if stopped or timed_out:
                    signal_group(process.pid, signal.SIGTERM)
                    asked = now
            elif now - asked > self.cloud.settings.stop_grace_s:
                signal_group(process.pid, signal.SIGKILL)
            if now - shipped > SHIP_EVERY_S:
                self.shipper.ship()
                shipped = now
        if self.cloud.closing.is_set():
            raise ClosedError
        return Outcome(code if code >= 0 else 128 - code, stopped, timed_out)


def algorithm_error(run: Run, outcome: Outcome) -> str:
    """FailureReason for a command that failed: what it wrote to output/failure, or the end of its log."""
    failure = run.box.ml / "output/failure"
    text = failure.read_text(errors="replace")[:REASON_LIMIT] if failure.is_file() else log_end(run.box.log)
    return f"AlgorithmError: {text}, exit code: {outcome.exit_code}"


def log_end(log: Path) -> str:
    """The last lines of a log, from the last traceback on where there is one; at most 1,024 characters."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 16_384))
        text = file.read().decode("utf-8", "replace").rstrip()
    trace = text.rfind("Traceback (most recent call last)")
    text = text[trace:] if trace >= 0 else "\n".join(text.splitlines()[-15:])
    return text if len(text) <= REASON_LIMIT else "…" + text[-REASON_LIMIT + 1 :]
