"""Batch transform: a model's servers, fed with the records of S3 objects."""

import gzip
import logging
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx

from local_sagemaker.api.protocol import Document, invalid
from local_sagemaker.api.unsupported import refuse
from local_sagemaker.aws.s3 import Found, TransferError
from local_sagemaker.cloud import ClosedError, Cloud
from local_sagemaker.jobs.base import Jobs, Slots
from local_sagemaker.jobs.checks import check_bucket, check_instances, check_s3_source
from local_sagemaker.jobs.records import DataProcessing, assemble, batches, data_processing, split
from local_sagemaker.processes.runner import Run
from local_sagemaker.serving.models import Models
from local_sagemaker.serving.servers import ModelServer, ServerError, ServerPlan, unpack_model

log = logging.getLogger(__name__)

MIB = 1 << 20
STOP_EVERY_S = 0.2
# Of requests at once times their size.
MOST_MIB = 100
UNSUPPORTED = {
    "TransformInput.SplitType=='RecordIO' || TransformInput.SplitType=='TFRecord'": "RecordIO and TFRecord",
    "TransformInput.DataSource.S3DataSource.S3DataType=='AugmentedManifestFile'": "augmented manifests",
    "DataCaptureConfig": "data capture",
    "ExperimentConfig": "experiments",
}
# What a request leaves out and the model's /execution-parameters does not say.
DEFAULTS = {"BatchStrategy": "MultiRecord", "MaxConcurrentTransforms": 1, "MaxPayloadInMB": 6}


class TransformJobs(Jobs):
    """CreateTransformJob and its kin."""

    def __init__(self, cloud: Cloud, slots: Slots, models: Models) -> None:
        super().__init__(cloud, slots, "TransformJob")
        self._models = models

    def create_job(self, request: Document, region: str) -> Document:
        """CreateTransformJob. Raises ApiError."""
        refuse(request, UNSUPPORTED)
        model = self._models.get(request["ModelName"], region)
        container = self._models.container(request["ModelName"], region)
        resources = request["TransformResources"]
        check_instances(resources["InstanceType"], resources["InstanceCount"], "transform job")
        concurrent, payload = request.get("MaxConcurrentTransforms", 0), request.get("MaxPayloadInMB", 0)
        if concurrent * payload > MOST_MIB:
            raise invalid(
                f"MaxConcurrentTransforms {concurrent} times MaxPayloadInMB {payload} is over {MOST_MIB} MB"
            )
        try:
            data_processing(request)
        except ValueError as error:
            raise invalid(str(error)) from error
        source = request["TransformInput"]["DataSource"]["S3DataSource"]
        role = model.get("ExecutionRoleArn", "")
        check_s3_source(self.cloud, source["S3Uri"], source["S3DataType"], role, region)
        check_bucket(self.cloud, request["TransformOutput"]["S3OutputPath"])
        document = {**request, "Container": container}
        return {"TransformJobArn": self.submit(request["TransformJobName"], region, document)}

    def resources_of(self, job: Document) -> Document:
        return dict(job["TransformResources"])

    def execute(self, job: Document, run: Run) -> Document:
        self.set(job["TransformJobName"], TransformStartTime=time.time())
        source = job["TransformInput"]["DataSource"]["S3DataSource"]
        found = self.cloud.s3.find(source["S3Uri"], source["S3DataType"])
        with ExitStack() as stack:
            servers = [stack.enter_context(closing(server)) for server in self._start(job, run)]
            try:
                for server in servers:
                    server.wait_until_ready()
            except ServerError as error:
                return self.ended("Failed", f"AlgorithmError: {error}")
            return self._send_all(job, run, servers, found)

    def ended(self, status: str, reason: str | None) -> Document:
        return {"TransformJobStatus": status, **({"FailureReason": reason} if reason else {})}

    def finish(self, name: str, changes: Document) -> None:
        now = time.time()
        with self.store.change(self.kind, name) as job:
            job.setdefault("TransformStartTime", now)
            job |= {**changes, "TransformEndTime": now}

    def _start(self, job: Document, run: Run) -> Iterable[ModelServer]:
        """One server for each instance."""
        given = {key: str(job[key]) for key in DEFAULTS if key in job}
        names = {
            "BatchStrategy": "SAGEMAKER_BATCH_STRATEGY",
            "MaxConcurrentTransforms": "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS",
            "MaxPayloadInMB": "SAGEMAKER_MAX_PAYLOAD_IN_MB",
        }
        variables = {"SAGEMAKER_BATCH": "true", **{names[key]: value for key, value in given.items()}}
        variables |= job.get("Environment", {})
        for number, box in enumerate(run.boxes, 1):
            unpack_model(self.cloud, job["Container"], box)
            stream = f"{job['TransformJobName']}/i-{number}"
            yield ModelServer(
                self.cloud,
                ServerPlan(
                    job["Container"],
                    box,
                    job["Region"],
                    "/aws/sagemaker/TransformJobs",
                    stream,
                    extra=tuple(variables.items()),
                ),
            )

    def _send_all(self, job: Document, run: Run, servers: list[ModelServer], found: list[Found]) -> Document:
        """Send every object to one of the servers. As on AWS, one that fails keeps none of the others back."""
        timeout = job.get("ModelClientConfig", {}).get("InvocationsTimeoutInSeconds", 600)
        with ExitStack() as stack:
            client = stack.enter_context(httpx.Client(timeout=timeout, trust_env=False))
            settings = {**DEFAULTS, **_execution_parameters(client, servers[0])}
            settings |= {key: job[key] for key in DEFAULTS if key in job}
            # 0 leaves the number to the service.
            concurrent = (settings["MaxConcurrentTransforms"] or 1) * len(servers)
            # The objects' threads wait for the requests', so they end first.
            requests, objects = (stack.enter_context(ThreadPoolExecutor(concurrent)) for _ in range(2))
            sender = _Sender(self.cloud, job, run, servers, client, settings, data_processing(job), requests)
            results = [objects.submit(sender.send, number, item) for number, item in enumerate(found)]
            while wait(results, timeout=STOP_EVERY_S).not_done:
                if run.stop.is_set() or self.cloud.closing.is_set():
                    # Requests under way end with their server.
                    for server in servers:
                        server.close()
        errors = [error for result in results if (error := result.exception())]
        for error in errors:
            if not isinstance(error, TransferError | _StoppedError):
                raise error
        if run.stop.is_set():
            return self.ended("Stopped", None)
        return self.ended("Failed", str(errors[0])) if errors else self.ended("Completed", None)


class _StoppedError(Exception):
    """The job is to stop."""


def _execution_parameters(client: httpx.Client, server: ModelServer) -> dict[str, Any]:
    """What the model's container asks for, where it does."""
    try:
        answer = client.get(f"http://127.0.0.1:{server.port}/execution-parameters", timeout=10)
        given = answer.json() if answer.status_code == 200 else {}
    except (httpx.TransportError, ValueError):
        return {}
    return {key: given[key] for key in DEFAULTS if key in given} if isinstance(given, dict) else {}


@dataclass(frozen=True)
class _Sender:
    """Sends objects to the servers and their answers to S3."""

    cloud: Cloud
    job: Document
    run: Run
    servers: list[ModelServer]
    client: httpx.Client
    settings: dict[str, Any]
    processing: DataProcessing
    requests: ThreadPoolExecutor

    def send(self, number: int, item: Found) -> None:
        """Raises TransferError when the object has no answer; then nothing is written for it."""
        self._go_on()
        server = self.servers[number % len(self.servers)]
        source, target = self.job["TransformInput"], self.job["TransformOutput"]
        try:
            content = self.cloud.s3.read(str(item))
            if source.get("CompressionType") == "Gzip":
                content = gzip.decompress(content)
            records = split(content, source.get("SplitType", "None"))
            given = [self.processing.before(record) for record in records]
            limit = self.settings["MaxPayloadInMB"] * MIB
            parts = list(batches(given, self.settings["BatchStrategy"], limit))
            bodies = [b"\n".join(given[part]) for part in parts]
            answers = self.requests.map(partial(self._post, server, item), bodies)
            written: list[bytes] = []
            content_type = "application/octet-stream"
            for part, answer in zip(parts, answers, strict=True):
                written += self.processing.after(records[part], answer.content)
                content_type = answer.headers.get("content-type", content_type)
        except (ValueError, OSError, EOFError) as error:
            raise TransferError(f"ClientError: {item}: {error}") from error
        output = f"{target['S3OutputPath'].rstrip('/')}/{item.relative}.out"
        self.cloud.s3.upload_bytes(
            assemble(written, target.get("AssembleWith", "None")), output, content_type
        )

    def _go_on(self) -> None:
        if self.cloud.closing.is_set():
            raise ClosedError
        if self.run.stop.is_set():
            raise _StoppedError

    def _post(self, server: ModelServer, item: Found, content: bytes) -> httpx.Response:
        headers = {}
        if content_type := self.job["TransformInput"].get("ContentType"):
            headers["content-type"] = content_type
        if accept := self.job["TransformOutput"].get("Accept"):
            headers["accept"] = accept
        retries = self.job.get("ModelClientConfig", {}).get("InvocationsMaxRetries", 0)
        for attempt in range(retries + 1):
            self._go_on()
            try:
                url = f"http://127.0.0.1:{server.port}/invocations"
                # A limit of 0 asks for chunked encoding.
                body: Any = content if self.settings["MaxPayloadInMB"] else iter([content])
                answer = self.client.post(url, content=body, headers=headers)
            except httpx.TransportError as error:
                reason = f"{type(error).__name__}: {error}"
            else:
                if answer.status_code < 400:
                    return answer
                reason = f"status {answer.status_code}: {answer.text[:500]}"
            log.warning("transform of %s, attempt %d: %s", item, attempt + 1, reason)
        self._go_on()
        raise TransferError(f"AlgorithmError: the model did not transform {item}: {reason}")
