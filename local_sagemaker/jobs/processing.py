"""Processing jobs: inputs from S3, a command on one host or several, outputs to S3."""

import time
from collections.abc import Sequence
from pathlib import Path

from local_sagemaker.api.protocol import Document, invalid
from local_sagemaker.api.unsupported import refuse
from local_sagemaker.cloud import Cloud
from local_sagemaker.images import Image
from local_sagemaker.jobs.base import Jobs, Slots, refuse_several_hosts
from local_sagemaker.jobs.checks import check_bucket, check_instances
from local_sagemaker.jobs.roles import check_role
from local_sagemaker.jobs.uploads import FolderUpload
from local_sagemaker.processes.runner import (
    Box,
    Command,
    Outcome,
    Run,
    algorithm_error,
    box,
    environment,
    memory_error,
    resource_config,
)

UNSUPPORTED = {
    "ProcessingInputs[].DatasetDefinition": "Athena and Redshift inputs",
    "ProcessingInputs[?AppManaged]": "inputs that the application manages",
    "ProcessingInputs[?S3Input.S3InputMode=='Pipe']": "Pipe mode",
    "ProcessingInputs[?S3Input.S3CompressionType=='Gzip']": "compressed inputs, which belong to Pipe mode",
    "ProcessingOutputConfig.Outputs[].FeatureStoreOutput": "feature store outputs",
    "ProcessingOutputConfig.Outputs[?AppManaged]": "outputs that the application manages",
    "NetworkConfig.EnableNetworkIsolation && ProcessingResources.ClusterConfig.InstanceCount > `1`": (
        "network isolation of several hosts"
    ),
    "ExperimentConfig": "experiments",
}


class ProcessingJobs(Jobs):
    """CreateProcessingJob and its kin."""

    def __init__(self, cloud: Cloud, slots: Slots) -> None:
        super().__init__(cloud, slots, "ProcessingJob")

    def create_job(self, request: Document, region: str) -> Document:
        """CreateProcessingJob. Raises ApiError."""
        refuse(request, UNSUPPORTED)
        cluster = self.resources_of(request)
        check_instances(cluster["InstanceType"], cluster["InstanceCount"], "processing job")
        refuse_several_hosts(cluster["InstanceCount"])
        image = self.image_of(request)
        if not (request["AppSpecification"].get("ContainerEntrypoint") or image.process or image.docker):
            raise invalid(
                "AppSpecification.ContainerEntrypoint is required: the image has no `process` command in images.yaml"
            )
        outputs = request.get("ProcessingOutputConfig", {}).get("Outputs", [])
        if not all("S3Input" in item for item in request.get("ProcessingInputs", [])):
            raise invalid("An item of ProcessingInputs has no S3Input")
        if not all("S3Output" in item for item in outputs):
            raise invalid("An item of ProcessingOutputConfig.Outputs has no S3Output")
        place = box(self.cloud, self.kind, "x")
        for item in _inputs(request) + _outputs(request):
            path = item.get("LocalPath", "")
            if not place.local(path):
                raise invalid(f"LocalPath {path!r} is not below /opt/ml/, which is what a job here may use")
        check_role(self.cloud, request["RoleArn"])
        for item in _outputs(request):
            check_bucket(self.cloud, item["S3Uri"])
        return {"ProcessingJobArn": self.submit(request["ProcessingJobName"], region, request)}

    def resources_of(self, job: Document) -> Document:
        return {"InstanceCount": 1, "InstanceType": "local", **job["ProcessingResources"]["ClusterConfig"]}

    def image_of(self, job: Document) -> Image:
        return self.cloud.images.find(job["AppSpecification"]["ImageUri"])

    def is_isolated(self, job: Document) -> bool:
        return bool(job.get("NetworkConfig", {}).get("EnableNetworkIsolation"))

    def execute(self, job: Document, run: Run) -> Document:
        self.set(job["ProcessingJobName"], ProcessingStartTime=time.time())
        for number, host in enumerate(run.boxes):
            self._prepare(job, run, host, number)
        uploads = [
            (item["S3UploadMode"], FolderUpload(self.cloud.s3, _folders(run.boxes, item), item["S3Uri"]))
            for item in _outputs(job)
        ]
        for mode, upload in uploads:
            if mode == "Continuous":
                run.watch.add(upload.send)
        image = self.image_of(job)
        outcome = run.execute(image, [self._command(job, image, host) for host in run.boxes])
        # As on AWS, the outputs of a failed job are uploaded too.
        if outcome.ended_for != "stop":
            for _, upload in uploads:
                upload.send(final=True)
        return self._result(run, outcome)

    def _result(self, run: Run, outcome: Outcome) -> Document:
        if outcome.ended_for == "stop":
            return self.ended("Stopped", None)
        if outcome.ended_for == "runtime":
            return self.ended("Stopped", None) | {"ExitMessage": "MaxRuntimeExceeded"}
        if outcome.ended_for == "memory":
            return self.ended("Failed", memory_error(run))
        if outcome.exit_code:
            return self.ended("Failed", algorithm_error(outcome))
        message = run.box.ml / "output/message"
        exit_message = {"ExitMessage": message.read_text()[:1024]} if message.is_file() else {}
        return self.ended("Completed", None) | exit_message

    def ended(self, status: str, reason: str | None) -> Document:
        return {"ProcessingJobStatus": status, **({"FailureReason": reason} if reason else {})}

    def finish(self, name: str, changes: Document) -> None:
        now = time.time()
        with self.store.change(self.kind, name) as job:
            job.setdefault("ProcessingStartTime", now)
            job |= {**changes, "ProcessingEndTime": now}

    def _prepare(self, job: Document, run: Run, host: Box, number: int) -> None:
        for item in _inputs(job):
            sharded = item.get("S3DataDistributionType") == "ShardedByS3Key"
            shard = (number, len(run.boxes)) if sharded else (0, 1)
            self.cloud.s3.download(item["S3Uri"], _local(host, item), item["S3DataType"], shard)
        for item in _outputs(job):
            _local(host, item).mkdir(parents=True, exist_ok=True)
        instance_type = self.resources_of(job)["InstanceType"]
        # https://docs.aws.amazon.com/sagemaker/latest/dg/byoc-config.html
        host.write_config(
            "resourceconfig", resource_config(instance_type, run.hosts, host.root.name), "config"
        )
        host.write_config("processingjobconfig", {key: job[key] for key in job if key != "Tags"}, "config")

    def _command(self, job: Document, image: Image, host: Box) -> Command:
        specification = job["AppSpecification"]
        entrypoint = [host.here(part) for part in specification.get("ContainerEntrypoint", image.process)]
        argv = [host.here(part) for part in specification.get("ContainerArguments", [])]
        variables = environment(self.cloud, image, host.tmp, job["Region"])
        variables |= {"PROCESSING_JOB_ARN": job["ProcessingJobArn"]}
        own = {key: host.here(value) for key, value in job.get("Environment", {}).items()}
        return Command(host, argv, host.base, variables, own, entrypoint)


def _inputs(job: Document) -> list[Document]:
    return [item["S3Input"] for item in job.get("ProcessingInputs", [])]


def _outputs(job: Document) -> list[Document]:
    return [item["S3Output"] for item in job.get("ProcessingOutputConfig", {}).get("Outputs", [])]


def _local(box: Box, item: Document) -> Path:
    path = box.local(item["LocalPath"])
    assert path, "create_job() has seen to that"
    return path


def _folders(boxes: Sequence[Box], item: Document) -> list[Path]:
    """An output's folder on every host, the first host's last, so that its files are the ones that stay."""
    return [_local(box, item) for box in boxes][::-1]
