"""What training, processing and transform jobs have in common: a queue with slots, Stop, retries and recovery."""

import logging
import queue
import shutil
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

from local_sagemaker.api.protocol import ApiError, Document, invalid
from local_sagemaker.api.resources import Resources
from local_sagemaker.aws.logs import Shipper
from local_sagemaker.aws.s3 import TransferError
from local_sagemaker.cloud import RESTARTED, ClosedError, Cloud
from local_sagemaker.images import Image
from local_sagemaker.jobs.uploads import Watch
from local_sagemaker.processes import namespace
from local_sagemaker.processes.runner import Box, Run, box, host_names, job_folder

log = logging.getLogger(__name__)

DAY_S = 86_400


def refuse_several_hosts(count: int) -> None:
    """Raise ApiError where hosts cannot have names and addresses of their own."""
    if count > 1 and (reason := namespace.unavailable()):
        raise invalid(
            f"InstanceCount {count}: jobs of several instances need Linux with user namespaces, and here {reason}"
        )


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
            try:
                jobs.run(name)
            except Exception:
                # The slot has further jobs to carry out.
                log.exception("%s %s", jobs.kind, name)


class _Control:
    """The service's hold on a job that has not ended."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.interruption = threading.Event()
        self.ended = threading.Event()
        self.started = False


class Jobs(Resources, ABC):
    """One kind of job."""

    def __init__(self, cloud: Cloud, slots: Slots, kind: str) -> None:
        super().__init__(cloud.store, kind)
        self.cloud = cloud
        self._slots = slots
        self._lock = threading.Lock()
        self._controls: dict[str, _Control] = {}
        self.start_key = kind.replace("Job", "StartTime")
        """The member that a job has from the moment on at which it was carried out."""

    @abstractmethod
    def execute(self, job: Document, run: Run) -> Document:
        """Carry out a job that has got its slot; the members to change at its end, its status among them.

        Raises TransferError for a failure whose sentence is the job's FailureReason.
        """

    @abstractmethod
    def ended(self, status: str, reason: str | None) -> Document:
        """The members to set when a job ends without having been carried out to its end."""

    def resources_of(self, job: Document) -> Document:
        """InstanceCount, InstanceType and VolumeSizeInGB."""
        return {"InstanceCount": 1}

    def image_of(self, job: Document) -> Image | None:
        """What its hosts start; None where that is not the runner's."""
        return None

    def is_isolated(self, job: Document) -> bool:
        return bool(job.get("EnableNetworkIsolation"))

    def resumes(self, job: Document) -> bool:
        """Whether a job that was in progress when the service was killed is carried out again."""
        return self.start_key not in job

    def retries(self, job: Document) -> bool:
        """Whether a job that failed through no fault of its own is tried again; the try is then counted."""
        return False

    def submit(self, name: str, region: str, document: Document) -> str:
        """Store a new job, queue it and return its ARN."""
        with self._lock:
            identifier = self.create(
                name, region, {**document, self.status_key: "InProgress", "Region": region}
            )
            self._controls[name] = _Control()
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
        """Ask a job to stop; one that still waits for its slot ends at once."""
        with self._lock:
            control = self._controls.get(name)
            if not control or control.stop.is_set():
                return
            control.stop.set()
            if not control.started:
                self._end(name, self.ended("Stopped", None))
                return
            with self.store.change(self.kind, name) as job:
                if job[self.status_key] == "InProgress":
                    self.stopping(job)

    def stopping(self, job: Document) -> None:
        """Write into the document that a job is to stop."""
        job[self.status_key] = "Stopping"

    def wait(self, name: str, timeout: float) -> Document | None:
        """The job's document when it has ended; None when it has not within `timeout` seconds."""
        control = self._controls.get(name)
        return self.get(name) if control is None or control.ended.wait(timeout) else None

    def run(self, name: str) -> None:
        """Carry out a queued job. Never raises: what goes wrong is the job's FailureReason."""
        with self._lock:
            control = self._controls.get(name)
            if not control or self.cloud.closing.is_set():
                return
            control.started = True
        job = self.get(name)
        boxes: list[Box] = []
        try:
            boxes += self._boxes(job)
            changes = self.execute(job, self._run_of(job, boxes, control))
        except ClosedError:
            return
        except TransferError as error:
            changes = self.ended("Failed", str(error))
        except ApiError as error:
            # An image whose row, interpreter or engine has gone since the job was created.
            changes = self.ended("Failed", f"ClientError: {error.message}")
        except Exception as error:
            if self.cloud.closing.is_set():
                return
            log.exception("%s %s", self.kind, name)
            if self.retries(job):
                self._slots.submit(self, name)
                return
            changes = self.ended("Failed", f"InternalServerError: {type(error).__name__}: {error}")
        # Before the end is told: from then on the name may be another job's.
        for item in boxes:
            item.clean()
        with self._lock:
            self._end(name, changes)
        seconds = time.time() - job["CreationTime"]
        log.info("%s %s: %s after %.1f s", self.kind, name, changes[self.status_key], seconds)

    def again(self, run: Run, spent_s: float) -> Run:
        """A further attempt within the same job, with empty boxes and what is left of its time."""
        run.interruption.clear()
        for item in run.boxes:
            item.clean()
            item.create()
        return replace(run, limit_s=run.limit_s - spent_s, watch=Watch())

    def delete_ended(self, request: Document, region: str) -> Document:
        """Also its log and what it left: a later job of the name must not find them."""
        answer = super().delete_ended(request, region)
        shutil.rmtree(job_folder(self.cloud, self.kind, request[self.name_key]), ignore_errors=True)
        return answer

    def finish(self, name: str, changes: Document) -> None:
        """Write a job's end."""
        self.set(name, **changes)

    def recover(self) -> None:
        """After a restart no process is left: a job goes on from its queue, again from its start, or has failed."""
        for job in self.store.all(self.kind):
            name, status = job[self.name_key], job[self.status_key]
            if status == "Stopping":
                self.finish(name, self.ended("Stopped", None))
            elif status == "InProgress" and self.resumes(job):
                self._controls[name] = _Control()
                self._slots.submit(self, name)
            elif status == "InProgress":
                self.finish(name, self.ended("Failed", RESTARTED))

    def _end(self, name: str, changes: Document) -> None:
        """Write a job's end and let go of it; under the lock."""
        self.finish(name, changes)
        self._controls.pop(name).ended.set()

    def _boxes(self, job: Document) -> list[Box]:
        hosts, image = host_names(self.resources_of(job)["InstanceCount"]), self.image_of(job)
        boxes = [box(self.cloud, self.kind, job[self.name_key], host) for host in hosts]
        return [replace(item, mounted=True) for item in boxes] if image and image.docker else boxes

    def _run_of(self, job: Document, boxes: list[Box], control: _Control) -> Run:
        """A run with empty boxes."""
        name, now = job[self.name_key], int(time.time())
        for item in boxes:
            item.clean()
            item.create()
        limit: Any = job.get("StoppingCondition", {}).get("MaxRuntimeInSeconds", DAY_S)
        group = f"/aws/sagemaker/{self.kind}s"
        return Run(
            cloud=self.cloud,
            name=f"{self.kind}/{name}",
            boxes=boxes,
            shippers=[
                Shipper(self.cloud.aws, item.log, group, f"{name}/{item.root.name}-{now}") for item in boxes
            ],
            stop=control.stop,
            interruption=control.interruption,
            limit_s=float(limit),
            volume_gib=self.resources_of(job).get("VolumeSizeInGB", 0),
            isolated=self.is_isolated(job),
        )
