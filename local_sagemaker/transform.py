"""Batch transform: a model's server, one request for each S3 object."""

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx

from local_sagemaker.cloud import ClosedError, Cloud
from local_sagemaker.jobs import Jobs, Slots, refuse
from local_sagemaker.models import Models
from local_sagemaker.protocol import Document
from local_sagemaker.runner import Run
from local_sagemaker.s3 import Found, TransferError
from local_sagemaker.servers import ModelServer, ServerError, ServerPlan, unpack_model

log = logging.getLogger(__name__)

UNSUPPORTED = {
    "BatchStrategy=='MultiRecord'": "records in batches",
    "TransformInput.SplitType!='None' && TransformInput.SplitType": "splitting objects into records",
    "TransformInput.CompressionType=='Gzip'": "compressed input",
    "TransformInput.DataSource.S3DataSource.S3DataType=='AugmentedManifestFile'": "augmented manifests",
    "TransformOutput.AssembleWith=='Line'": "assembling lines",
    "TransformResources.InstanceCount > `1`": "transforming on more than one instance",
    "DataProcessing.InputFilter || DataProcessing.OutputFilter || DataProcessing.JoinSource=='Input'": "data filters",
    "DataCaptureConfig": "data capture",
    "ExperimentConfig": "experiments",
}


class TransformJobs(Jobs):
    """CreateTransformJob and its kin."""

    def __init__(self, cloud: Cloud, slots: Slots, models: Models) -> None:
        super().__init__(cloud, slots, "TransformJob")
        self._models = models

    def create_job(self, request: Document, region: str) -> Document:
        """CreateTransformJob. Raises ApiError."""
        refuse(request, UNSUPPORTED)
        container = self._models.get(request["ModelName"], region)["Container"]
        document = {**request, "Container": container}
        return {"TransformJobArn": self.submit(request["TransformJobName"], region, document)}

    def execute(self, job: Document, run: Run) -> Document:
        name = job["TransformJobName"]
        self.set(name, TransformStartTime=time.time())
        source = job["TransformInput"]["DataSource"]["S3DataSource"]
        found = self.cloud.s3.find(source["S3Uri"], source["S3DataType"])
        unpack_model(self.cloud, job["Container"], run.box)
        group = "/aws/sagemaker/TransformJobs"
        variables = tuple(job.get("Environment", {}).items())
        plan = ServerPlan(job["Container"], run.box, job["Region"], group, f"{name}/i-1", extra=variables)
        server = ModelServer(self.cloud, plan)
        try:
            server.wait_until_ready()
            return self._send_all(job, run, server, found)
        except ServerError as error:
            return self.ended("Failed", f"AlgorithmError: {error}")
        finally:
            server.close()

    def ended(self, status: str, reason: str | None) -> Document:
        return {"TransformJobStatus": status, **({"FailureReason": reason} if reason else {})}

    def finish(self, name: str, changes: Document) -> None:
        now = time.time()
        with self.store.change(self.kind, name) as job:
            job.setdefault("TransformStartTime", now)
            job |= {**changes, "TransformEndTime": now}

    def _send_all(self, job: Document, run: Run, server: ModelServer, found: list[Found]) -> Document:
        # 0 and absence leave the number to the service.
        concurrent = job.get("MaxConcurrentTransforms") or 1
        timeout = job.get("ModelClientConfig", {}).get("InvocationsTimeoutInSeconds", 600)
        with (
            httpx.Client(timeout=timeout, trust_env=False) as client,
            ThreadPoolExecutor(concurrent, thread_name_prefix=job["TransformJobName"]) as pool,
        ):
            sender = _Sender(self.cloud, job, run, server, client)
            for result in pool.map(sender.send, found):
                if not result:
                    return self.ended("Stopped", None)
        return self.ended("Completed", None)


@dataclass(frozen=True)
class _Sender:
    """Sends objects to the server and its answers to S3."""

    cloud: Cloud
    job: Document
    run: Run
    server: ModelServer
    client: httpx.Client

    def send(self, item: Found) -> bool:
        """False when the job is to stop. Raises TransferError when the object has no answer."""
        if self.cloud.closing.is_set():
            raise ClosedError
        if self.run.stop.is_set():
            return False
        content = self.cloud.s3.read(str(item))
        limit = (self.job.get("MaxPayloadInMB") or 6) * 1024 * 1024
        if len(content) > limit:
            raise TransferError(f"ClientError: {item} has {len(content)} bytes, over MaxPayloadInMB")
        answer = self._post(item, content)
        output = self.job["TransformOutput"]["S3OutputPath"].rstrip("/")
        content_type = answer.headers.get("content-type", "application/octet-stream")
        self.cloud.s3.upload_bytes(answer.content, f"{output}/{item.relative}.out", content_type)
        return True

    def _post(self, item: Found, content: bytes) -> httpx.Response:
        headers = {}
        if content_type := self.job["TransformInput"].get("ContentType"):
            headers["content-type"] = content_type
        if accept := self.job["TransformOutput"].get("Accept"):
            headers["accept"] = accept
        retries = self.job.get("ModelClientConfig", {}).get("InvocationsMaxRetries", 0)
        for attempt in range(retries + 1):
            try:
                answer = self.client.post(
                    f"http://127.0.0.1:{self.server.port}/invocations", content=content, headers=headers
                )
            except httpx.TransportError as error:
                reason = f"{type(error).__name__}: {error}"
            else:
                if answer.status_code < 400:
                    return answer
                reason = f"status {answer.status_code}: {answer.text[:500]}"
            log.warning("transform of %s, attempt %d: %s", item, attempt + 1, reason)
        raise TransferError(f"AlgorithmError: the model did not transform {item}: {reason}")
