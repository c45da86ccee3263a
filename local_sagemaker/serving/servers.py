"""Model servers: the process behind an endpoint's instance or a transform job."""

import contextlib
import dataclasses
import http.client
import logging
import os
import signal
import socket
import threading
import time
from dataclasses import dataclass

from local_sagemaker.api.protocol import ApiError, Document
from local_sagemaker.aws.logs import Shipper
from local_sagemaker.aws.s3 import unpack
from local_sagemaker.cloud import Cloud
from local_sagemaker.processes import docker, namespace
from local_sagemaker.processes.keeper import signal_group
from local_sagemaker.processes.mark import MARK
from local_sagemaker.processes.runner import Box, environment, log_end
from local_sagemaker.processes.warm import ColdProcess, Process

log = logging.getLogger(__name__)

PING_EVERY_S = 0.1
STOP_LIMIT_S = 5.0
LONGEST_PAUSE_S = 30.0


class ServerError(Exception):
    """A server that did not come up; the sentence is fit for FailureReason."""


def unpack_model(cloud: Cloud, container: Document, where: Box) -> None:
    """Put a container's model data where its server finds it. Raises TransferError."""
    where.create()
    source = container.get("ModelDataSource", {}).get("S3DataSource", {})
    if source.get("CompressionType") == "None":
        cloud.s3.download(source["S3Uri"], where.ml / "model")
    elif uri := container.get("ModelDataUrl", source.get("S3Uri")):
        archive = where.tmp / "model.tar.gz"
        cloud.s3.download_file(uri, archive)
        unpack(archive, where.ml / "model")
        archive.unlink()


@dataclass(frozen=True)
class ServerPlan:
    """What one server process is to be."""

    container: Document
    box: Box
    region: str
    log_group: str
    log_stream: str
    start_limit_s: float = 60.0
    extra: tuple[tuple[str, str], ...] = ()


class ModelServer:
    """A server process that is started again when it dies, until it is closed.

    `in_flight` and `ready` are read by the router; `in_flight` is changed under the router's lock.
    """

    def __init__(self, cloud: Cloud, plan: ServerPlan) -> None:
        self.in_flight = 0
        self.ready = threading.Event()
        self.port = 0
        self.ends_in_a_row = 0
        """How often its process has ended since it last answered."""
        self.log_stream = plan.log_stream
        self._cloud = cloud
        self._plan = plan
        self._mark = f"{cloud.settings.mark}/{plan.box.root}/"
        self._in_docker = False
        self._closing = threading.Event()
        self._first_end = threading.Event()
        self._shipper = Shipper(cloud.aws, plan.box.log, plan.log_group, plan.log_stream)
        self._thread = threading.Thread(target=self._supervise, name=plan.log_stream, daemon=True)
        self._thread.start()

    def wait_until_ready(self) -> None:
        """Raises ServerError when it does not answer /ping within its limit, or ends before it does."""
        limit = time.monotonic() + self._plan.start_limit_s
        while not self.ready.wait(PING_EVERY_S):
            if self._first_end.is_set():
                raise ServerError(self.failure("the model server ended before it answered /ping"))
            if time.monotonic() > limit:
                raise ServerError(
                    self.failure(
                        f"the model server did not answer /ping within {self._plan.start_limit_s:g} s"
                    )
                )
            if self._closing.is_set() or self._cloud.closing.is_set():
                raise ServerError("the service is ending")

    @property
    def ended(self) -> bool:
        """Whether its process has ended by itself, also when it has been started again."""
        return self._first_end.is_set()

    def close(self) -> None:
        """End the process and wait for it."""
        self._closing.set()
        self._thread.join()

    def failure(self, what: str) -> str:
        """A sentence with the end of its log, fit for FailureReason."""
        end = log_end(self._plan.box.log)
        return f"The primary container did not pass the ping health check: {what}. Its log ends: {end}"

    def _supervise(self) -> None:
        pause = 0.5
        while not self._stopping():
            started = time.monotonic()
            try:
                status = self._run_once()
            except (OSError, ApiError) as error:
                log.warning("%s cannot be started: %s", self._plan.log_stream, error)
                with self._plan.box.log.open("a") as file:
                    print(error, file=file)
                status = -1
            self.ends_in_a_row += 1
            self.ready.clear()
            self._first_end.set()
            if self._stopping():
                return
            # A server that has worked for a while starts again at once, one that keeps dying ever later.
            pause = 0.5 if time.monotonic() - started > 60 else min(pause * 2, LONGEST_PAUSE_S)
            log.warning(
                "model server %s ended with status %s; again in %.1f s", self._plan.log_stream, status, pause
            )
            self._closing.wait(pause)

    def _stopping(self) -> bool:
        return self._closing.is_set() or self._cloud.closing.is_set()

    def _run_once(self) -> int:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        process = self._start()
        try:
            while (status := process.wait(PING_EVERY_S if not self.ready.is_set() else 0.5)) is None:
                if not self.ready.is_set() and answers_ping(self.port):
                    self.ends_in_a_row = 0
                    self.ready.set()
                self._shipper.ship()
                if self._stopping():
                    signal_group(process.pid, signal.SIGTERM)
                    process.wait(STOP_LIMIT_S)
                    return 0
            return status
        finally:
            signal_group(process.pid, signal.SIGKILL)
            process.wait(STOP_LIMIT_S)
            if self._in_docker:
                docker.remove(self._mark)
            self._shipper.ship(final=True)

    def _start(self) -> Process:
        """Raises OSError when there is nothing to start, or it cannot be started."""
        plan, container = self._plan, self._plan.container
        image = self._cloud.images.find(container["Image"])
        self._in_docker = bool(image.docker)
        mounted = self._in_docker or namespace.unavailable() is None
        box = dataclasses.replace(plan.box, mounted=mounted)
        variables = {
            **environment(self._cloud, image, box.tmp, plan.region),
            "SM_MODEL_DIR": str(box.base / "model"),
            "SAGEMAKER_BASE_DIR": str(box.base),
        }
        own = {key: box.here(value) for key, value in container.get("Environment", {}).items()} | dict(
            plan.extra
        )
        if image.docker:
            argv = docker.command(
                str(image.docker), ["serve"], box.ml, variables | own, self._mark, port=self.port
            )
            return ColdProcess(argv, {**os.environ, MARK: self._mark}, box.root, box.log)
        if not image.serve:
            raise OSError(f"the image {container['Image']} has no `serve` command in images.yaml")
        variables |= {"SAGEMAKER_BIND_TO_PORT": str(self.port), "SAGEMAKER_BIND_HOST": "127.0.0.1"}
        seen: namespace.Container = {"ml": str(box.ml)} if mounted else {}
        return self._cloud.warm.start(
            image, image.serve, variables | own, box.base, box.log, own=own, container=seen
        )


def answers_ping(port: int, limit_s: float = 2) -> bool:
    """Whether GET /ping answers 200 in time."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=limit_s)
    with contextlib.closing(connection):
        try:
            connection.request("GET", "/ping")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
