"""What training, processing and transform jobs have in common: a queue with slots, Stop, and recovery."""

import logging
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import jmespath  # type: ignore[import-untyped]

from local_sagemaker.cloud import ClosedError, Cloud
from local_sagemaker.logs import Shipper
from local_sagemaker.protocol import Document, invalid
from local_sagemaker.resources import Resources
from local_sagemaker.runner import Box, Run, box
from local_sagemaker.s3 import TransferError
from local_sagemaker.toolkit import HOST

log = logging.getLogger(__name__)

RESTARTED = "InternalServerError: local_sagemaker ended while this job was in progress"


def refuse(request: Document, unsupported: Mapping[str, str]) -> None:
    """Raise ApiError for members that would change what happens and are not carried out here.

    `unsupported` maps JMESPath expressions, true when such a member is given, to what it asks for.
    """
    for expression, meaning in unsupported.items():
        if jmespath.search(expression, request):
            raise invalid(f"local_sagemaker does not do {meaning} ({expression}); take it out of the request")


class Slots:
    """Runs jobs in the order in which they came, a fixed number at once."""

    def __init__(self, count: int) -> None:
        self._queue: queue.SimpleQueue[tuple[Jobs, str]] = queue.SimpleQueue()
        for number in range(count):
            threading.Thread(target=self._work, name=f"slot-{number}", daemon=True).start()

    def submit(self, jobs: "Jobs", name: str) -> None:
        self._queue.put((jobs, name))

    def _work(self) -> None:
        while True:
            jobs, name = self._queue.get()
            jobs.run(name)


class Jobs(Resources, ABC):
    """One kind of job."""

    def __init__(self, cloud: Cloud, slots: Slots, kind: str) -> None:
        super().__init__(cloud.store, kind)
        self.cloud = cloud
        self._slots = slots
        self._lock = threading.Lock()
        self._stops: dict[str, threading.Event] = {}
        self._ends: dict[str, threading.Event] = {}

    @abstractmethod
    def execute(self, job: Document, run: Run) -> Document:
        """Carry out a job that has got its slot; the members to change at its end, its status among them.

        Raises TransferError for a failure whose sentence is the job's FailureReason.
        """

    @abstractmethod
    def ended(self, status: str, reason: str | None) -> Document:
        """The members to set when a job ends without having been carried out to its end."""

    def submit(self, name: str, region: str, document: Document) -> str:
        """Store a new job, queue it and return its ARN."""
        with self._lock:
            identifier = self.create(
                name, region, {**document, self.status_key: "InProgress", "Region": region}
            )
            self._stops[name] = threading.Event()
            self._ends[name] = threading.Event()
        log.info("%s %s: queued", self.kind, name)
        self._slots.submit(self, name)
        return identifier

    def stop(self, request: Document, region: str) -> Document:
        """StopXJob: asks; the job's thread does it. A job that has ended stays as it is."""
        name = request[self.name_key]
        status = self.get(name, region)[self.status_key]
        if status == "InProgress":
            self.stop_job(name)
        elif status != "Stopping":
            raise invalid(f"The request was rejected because the {self.kind} {name} is in status {status}")
        return {}

    def stop_job(self, name: str) -> None:
        with self._lock:
            if stop := self._stops.get(name):
                with self.store.change(self.kind, name) as job:
                    job[self.status_key] = "Stopping"
                stop.set()

    def wait(self, name: str, timeout: float) -> Document | None:
        """The job's document when it has ended; None when it has not within `timeout` seconds."""
        end = self._ends.get(name)
        return self.get(name) if end is None or end.wait(timeout) else None

    def run(self, name: str) -> None:
        """Carry out a queued job. Never raises: what goes wrong is the job's FailureReason."""
        job = self.get(name)
        stop = self._stops[name]
        where = box(self.cloud, self.kind, name)
        try:
            changes = self.ended("Stopped", None) if stop.is_set() else self._carry_out(job, where, stop)
        except ClosedError:
            return
        except TransferError as error:
            changes = self.ended("Failed", str(error))
        except Exception as error:
            if self.cloud.closing.is_set():
                return
            log.exception("%s %s", self.kind, name)
            changes = self.ended("Failed", f"InternalServerError: {type(error).__name__}: {error}")
        where.clean()
        with self._lock:
            self.finish(name, changes)
            del self._stops[name]
        seconds = time.time() - job["CreationTime"]
        log.info("%s %s: %s after %.1f s", self.kind, name, changes[self.status_key], seconds)
        self._ends.pop(name).set()

    def finish(self, name: str, changes: Document) -> None:
        """Write a job's end."""
        self.set(name, **changes)

    def recover(self) -> None:
        """After a restart: no process is left, so what was in progress has failed."""
        for job in self.store.all(self.kind):
            if job[self.status_key] in {"InProgress", "Stopping"}:
                self.finish(job[self.name_key], self.ended("Failed", RESTARTED))

    def _carry_out(self, job: Document, where: Box, stop: threading.Event) -> Document:
        where.create()
        limit: Any = job.get("StoppingCondition", {}).get("MaxRuntimeInSeconds", 86_400)
        stream = f"{job[self.name_key]}/{HOST}-{int(time.time())}"
        shipper = Shipper(self.cloud.logs, where.log, f"/aws/sagemaker/{self.kind}s", stream)
        return self.execute(job, Run(self.cloud, where, stop, float(limit), shipper))
