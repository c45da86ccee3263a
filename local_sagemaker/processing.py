"""Processing jobs: inputs from S3, a command, outputs to S3."""

import time
from pathlib import Path

from local_sagemaker.cloud import Cloud
from local_sagemaker.jobs import Jobs, Slots, refuse
from local_sagemaker.protocol import Document, invalid
from local_sagemaker.runner import Box, Run, algorithm_error, environment, resource_config

UNSUPPORTED = {
    "ProcessingInputs[].DatasetDefinition": "Athena and Redshift inputs",
    "ProcessingInputs[?AppManaged]": "inputs that the application manages",
    "ProcessingInputs[?S3Input.S3InputMode=='Pipe']": "Pipe mode",
    "ProcessingInputs[?S3Input.S3CompressionType=='Gzip']": "compressed inputs",
    "ProcessingOutputConfig.Outputs[].FeatureStoreOutput": "feature store outputs",
    "ProcessingOutputConfig.Outputs[?AppManaged]": "outputs that the application manages",
    "ProcessingOutputConfig.Outputs[?S3Output.S3UploadMode=='Continuous']": "continuous upload",
    "ProcessingResources.ClusterConfig.InstanceCount > `1`": "processing on more than one instance",
    "NetworkConfig.EnableNetworkIsolation": "network isolation",
    "ExperimentConfig": "experiments",
}


class ProcessingJobs(Jobs):
    """CreateProcessingJob and its kin."""

    def __init__(self, cloud: Cloud, slots: Slots) -> None:
        super().__init__(cloud, slots, "ProcessingJob")

    def create_job(self, request: Document, region: str) -> Document:
        """CreateProcessingJob. Raises ApiError."""
        refuse(request, UNSUPPORTED)
        self.cloud.images.find(request["AppSpecification"]["ImageUri"])
        if not request["AppSpecification"].get("ContainerEntrypoint"):
            raise invalid(
                "AppSpecification.ContainerEntrypoint is required: an image here has no entry point"
            )
        for item in _inputs(request) + _outputs(request):
            if not item["LocalPath"].startswith("/opt/ml/"):
                raise invalid(
                    f"LocalPath {item['LocalPath']} is not below /opt/ml/, which is what a job here may use"
                )
        return {"ProcessingJobArn": self.submit(request["ProcessingJobName"], region, request)}

    def execute(self, job: Document, run: Run) -> Document:
        self.set(job["ProcessingJobName"], ProcessingStartTime=time.time())
        for item in _inputs(job):
            self.cloud.s3.download(item["S3Uri"], _local(run.box, item), item["S3DataType"])
        for item in _outputs(job):
            _local(run.box, item).mkdir(parents=True, exist_ok=True)
        resources = resource_config(job["ProcessingResources"]["ClusterConfig"].get("InstanceType", "local"))
        run.box.write_config("resourceconfig", resources)
        run.box.write_config("processingjobconfig", {key: job[key] for key in job if key != "Tags"})
        specification = job["AppSpecification"]
        image = self.cloud.images.find(specification["ImageUri"])
        argv = [*specification["ContainerEntrypoint"], *specification.get("ContainerArguments", [])]
        variables = environment(self.cloud, image, run.box.tmp, job["Region"])
        variables |= {"PROCESSING_JOB_ARN": job["ProcessingJobArn"]}
        own = {key: run.box.here(value) for key, value in job.get("Environment", {}).items()}
        outcome = run.execute(image, [run.box.here(part) for part in argv], run.box.ml, variables, own)
        if outcome.stopped:
            return self.ended("Stopped", None)
        if outcome.timed_out:
            return self.ended("Stopped", None) | {"ExitMessage": "MaxRuntimeExceeded"}
        # As on AWS, a failed job's outputs are uploaded too.
        for item in _outputs(job):
            self.cloud.s3.upload_folder(_local(run.box, item), item["S3Uri"])
        if outcome.exit_code:
            return self.ended("Failed", algorithm_error(run, outcome))
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


def _inputs(job: Document) -> list[Document]:
    return [item["S3Input"] for item in job.get("ProcessingInputs", [])]


def _outputs(job: Document) -> list[Document]:
    return [item["S3Output"] for item in job.get("ProcessingOutputConfig", {}).get("Outputs", [])]


def _local(box: Box, item: Document) -> Path:
    return Path(box.here(item["LocalPath"]))
