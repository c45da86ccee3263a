"""Training jobs, in script mode or with an entry point of their own."""

import math
import time
from typing import Any

from local_sagemaker import toolkit
from local_sagemaker.cloud import Cloud
from local_sagemaker.jobs import Jobs, Slots, refuse
from local_sagemaker.metrics import final_metrics, metric_pattern
from local_sagemaker.protocol import Document, invalid
from local_sagemaker.runner import Outcome, Run, algorithm_error, environment, resource_config
from local_sagemaker.s3 import TransferError, pack, unpack

# Infrastructure that one machine does not have is recorded and has no effect: VpcConfig, KMS keys, volumes,
# instance types, spot capacity, retries. What follows would change the job, and is refused.
UNSUPPORTED = {
    "AlgorithmSpecification.AlgorithmName": "marketplace algorithms",
    "AlgorithmSpecification.TrainingInputMode=='Pipe' || InputDataConfig[?InputMode=='Pipe']": "Pipe mode",
    "InputDataConfig[?CompressionType=='Gzip']": "compressed channels",
    "InputDataConfig[?RecordWrapperType=='RecordIO']": "RecordIO",
    "InputDataConfig[].ShuffleConfig": "shuffling of channels",
    "InputDataConfig[].DataSource.FileSystemDataSource": "file system channels",
    "InputDataConfig[].DataSource.DatasetSource": "dataset channels",
    "InputDataConfig[?DataSource.S3DataSource.S3DataType=='AugmentedManifestFile']": "augmented manifests",
    "InputDataConfig[?DataSource.S3DataSource.S3DataType=='Converse']": "Converse data",
    "ResourceConfig.InstanceGroups": "instance groups",
    "ResourceConfig.InstanceCount > `1`": "training on more than one instance",
    "OutputDataConfig.CompressionType=='NONE'": "uncompressed model output",
    "EnableNetworkIsolation": "network isolation",
    "DebugHookConfig": "DebugHookConfig, give the hook's configuration to the script",
    "DebugRuleConfigurations": "managed debugger rules",
    "ProfilerConfig && ProfilerConfig.DisableProfiler!=`true`": "the managed profiler",
    "ProfilerRuleConfigurations": "managed profiler rules",
    "TensorBoardOutputConfig": "TensorBoard output",
    "ExperimentConfig": "experiments",
    "RemoteDebugConfig.EnableRemoteDebug": "remote debugging",
    "ServerlessJobConfig": "serverless training",
    "MlflowConfig": "MLflow",
    "ModelPackageConfig": "model package output",
    "SessionChainingConfig.EnableSessionTagChaining": "session tag chaining",
}


class TrainingJobs(Jobs):
    """CreateTrainingJob and its kin."""

    def __init__(self, cloud: Cloud, slots: Slots) -> None:
        super().__init__(cloud, slots, "TrainingJob")

    def create_job(self, request: Document, region: str, **extra: Any) -> Document:
        """CreateTrainingJob; `extra` members are those that a tuning job adds. Raises ApiError."""
        self.check(request)
        now = time.time()
        document = {
            "HyperParameters": {},
            "EnableNetworkIsolation": False,
            "EnableInterContainerTrafficEncryption": False,
            "EnableManagedSpotTraining": False,
            "ProfilingStatus": "Disabled",
            **request,
            **extra,
            "SecondaryStatus": "Starting",
            "SecondaryStatusTransitions": [
                {"Status": "Starting", "StartTime": now, "StatusMessage": "Starting the training job"}
            ],
        }
        return {"TrainingJobArn": self.submit(request["TrainingJobName"], region, document)}

    def check(self, request: Document) -> None:
        """Raises ApiError for what could be seen to fail before the job starts."""
        refuse(request, UNSUPPORTED)
        algorithm = request["AlgorithmSpecification"]
        if "TrainingImage" not in algorithm:
            raise invalid("AlgorithmSpecification.TrainingImage is required")
        self.cloud.images.find(algorithm["TrainingImage"])
        for definition in algorithm.get("MetricDefinitions", []):
            metric_pattern(definition)
        names = [channel["ChannelName"] for channel in request.get("InputDataConfig", [])]
        if len(set(names)) < len(names):
            raise invalid("InputDataConfig has two channels of one name")

    def execute(self, job: Document, run: Run) -> Document:
        name = job["TrainingJobName"]
        self._advance(name, "Downloading", "Downloading input data", TrainingStartTime=time.time())
        self._download(job, run)
        image = self.cloud.images.find(job["AlgorithmSpecification"]["TrainingImage"])
        argv = self._command(job, run)
        variables = environment(self.cloud, image, run.box.tmp, job["Region"])
        variables |= toolkit.environment(
            run.box.ml, job["HyperParameters"], resource_config(_instance_type(job)), _channels(job)
        )
        variables |= {"TRAINING_JOB_NAME": name, "TRAINING_JOB_ARN": job["TrainingJobArn"]}
        own = {key: run.box.here(value) for key, value in job.get("Environment", {}).items()}
        self._advance(name, "Training", "Training image download completed. Training in progress.")
        outcome = run.execute(image, argv, run.box.ml / "code", variables, own)
        metrics = final_metrics(job, run.box.log)
        self._advance(name, "Uploading", "Uploading generated training model", FinalMetricDataList=metrics)
        artifacts = self._upload(job, run)
        return {**self._result(run, outcome), "ModelArtifacts": {"S3ModelArtifacts": artifacts}}

    def ended(self, status: str, reason: str | None) -> Document:
        return {
            "TrainingJobStatus": status,
            "SecondaryStatus": status,
            **({"FailureReason": reason} if reason else {}),
        }

    def finish(self, name: str, changes: Document) -> None:
        """Write the end, with the times that every ended job has, also one that never started."""
        now = time.time()
        secondary = changes["SecondaryStatus"]
        messages = {"Completed": "Training job completed", "Failed": "Training job failed"}
        with self.store.change(self.kind, name) as job:
            started = job.setdefault("TrainingStartTime", now)
            seconds = math.ceil(now - started)
            job |= changes
            job |= {
                "TrainingEndTime": now,
                "TrainingTimeInSeconds": seconds,
                "BillableTimeInSeconds": seconds,
            }
            reason = changes.get("FailureReason")
            _add_transition(job, secondary, reason or messages.get(secondary, "Training job stopped"))
            last = job["SecondaryStatusTransitions"][-1]
            last["EndTime"] = last["StartTime"]

    def _result(self, run: Run, outcome: Outcome) -> Document:
        if outcome.stopped:
            return self.ended("Stopped", None)
        if outcome.timed_out:
            return {"TrainingJobStatus": "Stopped", "SecondaryStatus": "MaxRuntimeExceeded"}
        if outcome.exit_code:
            return self.ended("Failed", algorithm_error(run, outcome))
        return self.ended("Completed", None)

    def _download(self, job: Document, run: Run) -> None:
        run.box.write_config("hyperparameters", job["HyperParameters"])
        run.box.write_config("inputdataconfig", _channels(job))
        run.box.write_config("resourceconfig", resource_config(_instance_type(job)))
        for channel in job.get("InputDataConfig", []):
            target = run.box.ml / "input/data" / channel["ChannelName"]
            source = channel["DataSource"]["S3DataSource"]
            self.cloud.s3.download(source["S3Uri"], target, source["S3DataType"])
        if "CheckpointConfig" in job:
            target = self._checkpoints(job, run)
            target.mkdir(parents=True, exist_ok=True)
            if self.cloud.s3.exists(job["CheckpointConfig"]["S3Uri"]):
                self.cloud.s3.download(job["CheckpointConfig"]["S3Uri"], target)

    def _command(self, job: Document, run: Run) -> list[str]:
        """The job's command line, with its code in place."""
        algorithm = job["AlgorithmSpecification"]
        given = algorithm.get("ContainerEntrypoint", []) + algorithm.get("ContainerArguments", [])
        if given:
            return [run.box.here(part) for part in given]
        settings = toolkit.decoded(job["HyperParameters"])
        program, source = settings.get("sagemaker_program"), settings.get("sagemaker_submit_directory")
        if not program or not source:
            raise TransferError(
                "ClientError: the job has no command: give ContainerEntrypoint, or the hyperparameters "
                "sagemaker_program and sagemaker_submit_directory (s3://…/sourcedir.tar.gz)"
            )
        archive = run.box.tmp / "sourcedir.tar.gz"
        self.cloud.s3.download_file(source, archive)
        unpack(archive, run.box.ml / "code")
        if not (run.box.ml / "code" / program).is_file():
            raise TransferError(f"ClientError: {source} has no {program} (hyperparameter sagemaker_program)")
        interpreter = "/bin/sh" if program.endswith(".sh") else "python"
        return [interpreter, program, *toolkit.arguments(toolkit.script_parameters(job["HyperParameters"]))]

    def _upload(self, job: Document, run: Run) -> str:
        """Send the archives, whatever the job's end was; the model archive's URI."""
        base = f"{job['OutputDataConfig']['S3OutputPath'].rstrip('/')}/{job['TrainingJobName']}/output"
        for folder, archive in (("model", "model.tar.gz"), ("output/data", "output.tar.gz")):
            if folder == "model" or any((run.box.ml / folder).iterdir()):
                pack(run.box.ml / folder, run.box.tmp / archive)
                self.cloud.s3.upload_file(run.box.tmp / archive, f"{base}/{archive}")
        if "CheckpointConfig" in job:
            self.cloud.s3.upload_folder(self._checkpoints(job, run), job["CheckpointConfig"]["S3Uri"])
        return f"{base}/model.tar.gz"

    def _checkpoints(self, job: Document, run: Run) -> Any:
        local = job["CheckpointConfig"].get("LocalPath", "/opt/ml/checkpoints")
        path = run.box.here(local)
        if path == local:
            raise TransferError(f"ClientError: CheckpointConfig.LocalPath {local} is not below /opt/ml")
        return run.box.ml / path

    def _advance(self, name: str, status: str, message: str, **changes: Any) -> None:
        with self.store.change(self.kind, name) as job:
            job |= changes
            job["SecondaryStatus"] = status
            _add_transition(job, status, message)


def _add_transition(job: Document, status: str, message: str) -> None:
    now = time.time()
    job["SecondaryStatusTransitions"][-1].setdefault("EndTime", now)
    job["SecondaryStatusTransitions"].append({"Status": status, "StartTime": now, "StatusMessage": message})


def _instance_type(job: Document) -> str:
    return str(job.get("ResourceConfig", {}).get("InstanceType", "local"))


def _channels(job: Document) -> Document:
    """inputdataconfig.json."""
    return {
        channel["ChannelName"]: {
            "TrainingInputMode": "File",
            "S3DistributionType": "FullyReplicated",
            "RecordWrapperType": "None",
            **({"ContentType": channel["ContentType"]} if "ContentType" in channel else {}),
        }
        for channel in job.get("InputDataConfig", [])
    }
