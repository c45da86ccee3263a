"""Training jobs, in script mode or with an entry point of their own, on one host or several."""

import math
import os
import time
from pathlib import Path
from typing import Any

from local_sagemaker.api.protocol import Document, in_use, invalid
from local_sagemaker.api.unsupported import refuse
from local_sagemaker.aws.s3 import TransferError, pack, unpack
from local_sagemaker.cloud import Cloud
from local_sagemaker.images import Image
from local_sagemaker.jobs import toolkit
from local_sagemaker.jobs.base import Jobs, Slots, refuse_several_hosts
from local_sagemaker.jobs.checks import check_bucket, check_instances, check_s3_source
from local_sagemaker.jobs.cloudwatch import MetricSender
from local_sagemaker.jobs.debugger import Debugger, check_debugger
from local_sagemaker.jobs.metrics import final_metrics, metric_pattern
from local_sagemaker.jobs.packages import RequirementsError, install
from local_sagemaker.jobs.roles import check_role
from local_sagemaker.jobs.uploads import FolderUpload
from local_sagemaker.processes import namespace
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

# Infrastructure that one machine does not have is recorded and has no effect: VpcConfig, KMS keys, instance types.
# What follows would change the job, and is refused.
UNSUPPORTED = {
    "AlgorithmSpecification.AlgorithmName": "marketplace algorithms",
    "AlgorithmSpecification.TrainingInputMode=='Pipe' || InputDataConfig[?InputMode=='Pipe']": "Pipe mode",
    "InputDataConfig[?CompressionType=='Gzip']": "compressed channels, which belong to Pipe mode",
    "InputDataConfig[?RecordWrapperType=='RecordIO']": "RecordIO",
    "InputDataConfig[].ShuffleConfig": "shuffling of channels",
    "InputDataConfig[].DataSource.FileSystemDataSource": "file system channels",
    "InputDataConfig[].DataSource.DatasetSource": "dataset channels",
    "InputDataConfig[?DataSource.S3DataSource.S3DataType=='AugmentedManifestFile']": "augmented manifests",
    "InputDataConfig[?DataSource.S3DataSource.S3DataType=='Converse']": "Converse data",
    "ResourceConfig.InstanceGroups": "instance groups",
    "EnableNetworkIsolation && ResourceConfig.InstanceCount > `1`": "network isolation of several hosts",
    "ExperimentConfig": "experiments",
    "RemoteDebugConfig.EnableRemoteDebug": "remote debugging",
    "ServerlessJobConfig": "serverless training",
    "MlflowConfig": "MLflow",
    "ModelPackageConfig": "model package output",
    "SessionChainingConfig.EnableSessionTagChaining": "session tag chaining",
}
CHECKPOINTS = "/opt/ml/checkpoints"
TENSORBOARD = "/opt/ml/output/tensorboard"


class TrainingJobs(Jobs):
    """CreateTrainingJob and its kin."""

    def __init__(self, cloud: Cloud, slots: Slots) -> None:
        super().__init__(cloud, slots, "TrainingJob")
        self._debugger = Debugger(cloud)

    def create_job(self, request: Document, region: str, **extra: Any) -> Document:
        """CreateTrainingJob; `extra` members are those that a tuning job adds. Raises ApiError."""
        # Those of a tuning job were checked with it; after a kill the local IAM may not know their role yet.
        if not extra:
            self.check(request)
        now = time.time()
        document = {
            "HyperParameters": {},
            "EnableNetworkIsolation": False,
            "EnableInterContainerTrafficEncryption": False,
            "EnableManagedSpotTraining": False,
            "ProfilingStatus": "Disabled",
            "StoppingCondition": {"MaxRuntimeInSeconds": 86_400},
            "ModelArtifacts": {"S3ModelArtifacts": _artifacts(request)},
            **request,
            **extra,
            "SecondaryStatus": "Starting",
            "SecondaryStatusTransitions": [
                {"Status": "Starting", "StartTime": now, "StatusMessage": "Starting the training job"}
            ],
        }
        # A built-in algorithm has metrics of its own.
        algorithm = request["AlgorithmSpecification"]
        if "MetricDefinitions" not in algorithm and (metrics := self.image_of(request).metric_definitions):
            document["AlgorithmSpecification"] = {**algorithm, "MetricDefinitions": [*metrics]}
        self._debugger.announce(document)
        return {"TrainingJobArn": self.submit(request["TrainingJobName"], region, document)}

    def check(self, request: Document) -> None:
        """Raises ApiError for what could be seen to fail before the job starts."""
        refuse(request, UNSUPPORTED)
        algorithm = request.get("AlgorithmSpecification", {})
        if "TrainingImage" not in algorithm:
            raise invalid("AlgorithmSpecification.TrainingImage is required")
        resources = self.resources_of(request)
        check_instances(resources.get("InstanceType", "local"), resources["InstanceCount"], "training job")
        refuse_several_hosts(resources["InstanceCount"])
        _refuse_drivers(request)
        self._check_times(request)
        for definition in algorithm.get("MetricDefinitions", []):
            metric_pattern(definition)
        channels = request.get("InputDataConfig", [])
        if len({channel["ChannelName"] for channel in channels}) < len(channels):
            raise invalid("InputDataConfig has two channels of one name")
        # The pattern of a ChannelName allows what is a way out of input/data.
        if any(channel["ChannelName"] in {".", ".."} for channel in channels):
            raise invalid("InputDataConfig has a channel whose name is not that of a folder")
        for config, default in (("CheckpointConfig", CHECKPOINTS), ("TensorBoardOutputConfig", TENSORBOARD)):
            path = request.get(config, {}).get("LocalPath", default)
            if not box(self.cloud, self.kind, "x").local(path):
                raise invalid(
                    f"{config}.LocalPath {path} is not below /opt/ml, which is what a job here may use"
                )
        check_debugger(self.cloud, request)
        self.cloud.images.find(algorithm["TrainingImage"])
        check_role(self.cloud, request["RoleArn"])
        check_bucket(self.cloud, request["OutputDataConfig"]["S3OutputPath"])
        for channel in channels:
            source = channel["DataSource"].get("S3DataSource")
            if not source:
                raise invalid(f"The channel {channel['ChannelName']} has no S3DataSource")
            check_s3_source(self.cloud, source["S3Uri"], source["S3DataType"], request["RoleArn"])

    def update(self, request: Document, region: str) -> Document:
        """UpdateTrainingJob: the profiler and its rules while the job runs. Raises ApiError."""
        name = request["TrainingJobName"]
        job = self.get(name, region)
        if job[self.status_key] != "InProgress":
            raise invalid(f"The training job {name} cannot be updated in status {job[self.status_key]}")
        refuse(request, {"RemoteDebugConfig.EnableRemoteDebug": "remote debugging"})
        rules = self._debugger.check_update(job, request)
        with self.store.change(self.kind, name) as changed:
            if "ResourceConfig" in request:
                changed["ResourceConfig"] = {**changed.get("ResourceConfig", {}), **request["ResourceConfig"]}
            self._debugger.write_update(changed, request, rules)
        # Not within the transaction: it waits for a process.
        self._debugger.carry_out_update(changed, rules)
        return {"TrainingJobArn": job["TrainingJobArn"]}

    def delete_ended(self, request: Document, region: str) -> Document:
        if self._debugger.is_evaluating(request["TrainingJobName"]):
            raise in_use(
                f"The rules of the training job {request['TrainingJobName']} are still being evaluated."
            )
        return super().delete_ended(request, region)

    def recover(self) -> None:
        super().recover()
        for job in self.store.all(self.kind):
            ended = job[self.status_key] != "InProgress"
            if ended and self._debugger.has_lost_rules(job):
                with self.store.change(self.kind, job["TrainingJobName"]) as changed:
                    self._debugger.end_lost_rules(changed)

    def interrupt(self, name: str) -> None:
        """What the reclaiming of spot capacity does to a job with managed spot training. Raises ApiError."""
        job = self.get(name)
        control = self._controls.get(name)
        if not job["EnableManagedSpotTraining"] or not control:
            raise invalid(f"The training job {name} is not a job with EnableManagedSpotTraining in progress")
        control.interruption.set()

    def resources_of(self, job: Document) -> Document:
        return {"InstanceCount": 1, **job.get("ResourceConfig", {})}

    def resumes(self, job: Document) -> bool:
        if super().resumes(job):
            return True
        if job["EnableManagedSpotTraining"]:
            self._advance(job["TrainingJobName"], "Interrupted", "The training job was interrupted")
            return True
        return self.retries(job)

    def retries(self, job: Document) -> bool:
        attempts = job.get("RetryStrategy", {}).get("MaximumRetryAttempts", 0)
        with self.store.change(self.kind, job["TrainingJobName"]) as changed:
            done = changed.get("Retries", 0)
            if done >= attempts:
                return False
            changed["Retries"] = done + 1
            _transition(
                changed, "Restarting", f"InternalServerError: attempt {done + 1} of {attempts} to retry"
            )
        return True

    def execute(self, job: Document, run: Run) -> Document:
        name = job["TrainingJobName"]
        seconds = 0.0
        while True:
            self._advance(name, "Downloading", "Downloading input data")
            with self.store.change(self.kind, name) as started:
                started.setdefault("TrainingStartTime", time.time())
            before = time.monotonic()
            outcome = self._attempt(job, run)
            seconds += time.monotonic() - before
            self.set(name, BillableTimeInSeconds=math.ceil(seconds))
            if outcome.ended_for != "interruption":
                break
            self._advance(
                name, "Interrupted", "The training job was interrupted: its spot capacity was reclaimed"
            )
            waited = time.time() - job["CreationTime"]
            if waited > job["StoppingCondition"].get("MaxWaitTimeInSeconds", math.inf):
                return {"TrainingJobStatus": "Stopped", "SecondaryStatus": "MaxWaitTimeExceeded"}
            self._advance(name, "Starting", "Launching requested ML instances")
            run = self.again(run, seconds)
        status = {"stop": "Stopping"}.get(outcome.ended_for or "", "Uploading")
        metrics = final_metrics(job, run.box.log)
        if status == "Uploading":
            self._advance(name, "Uploading", "Uploading generated training model")
        self.set(name, FinalMetricDataList=metrics)
        artifacts = self._upload(job, run)
        return {**self._result(run, outcome), "ModelArtifacts": {"S3ModelArtifacts": artifacts}}

    def _attempt(self, job: Document, run: Run) -> Outcome:
        """Once from data to the end of the script."""
        checkpoints = self._download(job, run)
        image = self.image_of(job)
        commands = [self._command(job, run, image, host) for host in run.boxes]
        if checkpoints:
            run.watch.add(checkpoints.send)
        if "TensorBoardOutputConfig" in job:
            self._send_tensorboard(job, run)
        run.watch.add(MetricSender(self.cloud.aws, job, [host.log for host in run.boxes]).send)
        self._advance(
            job["TrainingJobName"],
            "Training",
            "Training image download completed. Training in progress.",
        )
        with self._debugger.watching(job, run):
            return run.execute(image, commands)

    def ended(self, status: str, reason: str | None) -> Document:
        return {
            "TrainingJobStatus": status,
            "SecondaryStatus": status,
            **({"FailureReason": reason} if reason else {}),
        }

    def stopping(self, job: Document) -> None:
        super().stopping(job)
        job["SecondaryStatus"] = "Stopping"
        _transition(job, "Stopping", "Stopping the training job")

    def finish(self, name: str, changes: Document) -> None:
        """Write the end, with the times that every ended job has, also one that never started."""
        now = time.time()
        secondary = changes["SecondaryStatus"]
        messages = {
            "Completed": "Training job completed",
            "Failed": "Training job failed",
            "MaxRuntimeExceeded": "The training job exceeded MaxRuntimeInSeconds",
            "MaxWaitTimeExceeded": "The training job exceeded MaxWaitTimeInSeconds",
        }
        with self.store.change(self.kind, name) as job:
            seconds = math.ceil(now - job.setdefault("TrainingStartTime", now))
            job |= changes
            job |= {"TrainingEndTime": now, "TrainingTimeInSeconds": seconds}
            job.setdefault("BillableTimeInSeconds", seconds)
            if not job["EnableManagedSpotTraining"]:
                job["BillableTimeInSeconds"] = seconds
            reason = changes.get("FailureReason")
            _transition(job, secondary, reason or messages.get(secondary, "Training job stopped"))
            last = job["SecondaryStatusTransitions"][-1]
            last["EndTime"] = last["StartTime"]
            self._debugger.end_lost_rules(job)

    def _result(self, run: Run, outcome: Outcome) -> Document:
        if outcome.ended_for == "stop":
            return self.ended("Stopped", None)
        if outcome.ended_for == "runtime":
            return {"TrainingJobStatus": "Stopped", "SecondaryStatus": "MaxRuntimeExceeded"}
        if outcome.ended_for == "memory":
            return self.ended("Failed", memory_error(run))
        if outcome.exit_code:
            return self.ended("Failed", algorithm_error(outcome))
        return self.ended("Completed", None)

    def _check_times(self, request: Document) -> None:
        condition = request.get("StoppingCondition", {})
        if "MaxWaitTimeInSeconds" in condition and not request.get("EnableManagedSpotTraining"):
            raise invalid(
                "MaxWaitTimeInSeconds above 0 is not allowed when EnableManagedSpotTraining is false"
            )
        if request.get("EnableManagedSpotTraining"):
            if "MaxWaitTimeInSeconds" not in condition:
                raise invalid("MaxWaitTimeInSeconds is required when EnableManagedSpotTraining is true")
            if condition["MaxWaitTimeInSeconds"] < condition.get("MaxRuntimeInSeconds", 86_400):
                raise invalid(
                    "Invalid MaxWaitTimeInSeconds. It must be present and be greater than or equal to "
                    "MaxRuntimeInSeconds"
                )

    def image_of(self, job: Document) -> Image:
        return self.cloud.images.find(job["AlgorithmSpecification"]["TrainingImage"])

    def _download(self, job: Document, run: Run) -> FolderUpload | None:
        """Bring configuration, channels and checkpoints into place; what sends checkpoints back."""
        channels = job.get("InputDataConfig", [])
        for number, host in enumerate(run.boxes):
            host.write_config("hyperparameters", job["HyperParameters"])
            host.write_config("inputdataconfig", _channels(job))
            host.write_config("resourceconfig", _resources(job, run, host))
            for channel in channels:
                source = channel["DataSource"]["S3DataSource"]
                sharded = source.get("S3DataDistributionType") == "ShardedByS3Key"
                self.cloud.s3.download(
                    source["S3Uri"],
                    host.ml / "input/data" / channel["ChannelName"],
                    source["S3DataType"],
                    (number, len(run.boxes)) if sharded else (0, 1),
                )
        return self._restore_checkpoints(job, run) if "CheckpointConfig" in job else None

    def _restore_checkpoints(self, job: Document, run: Run) -> FolderUpload:
        uri, path = job["CheckpointConfig"]["S3Uri"], job["CheckpointConfig"].get("LocalPath", CHECKPOINTS)
        folders = []
        there = self.cloud.s3.exists(uri)
        for host in run.boxes:
            folder = host.local(path)
            assert folder, "check() has seen to that"
            folder.mkdir(parents=True, exist_ok=True)
            if there:
                self.cloud.s3.download(uri, folder)
            host.write_config("checkpointconfig", {"S3Uri": uri, "LocalPath": host.here(path)})
            folders.append(folder)
        upload = FolderUpload(self.cloud.s3, folders, uri)
        upload.is_current()
        return upload

    def _send_tensorboard(self, job: Document, run: Run) -> None:
        config = job["TensorBoardOutputConfig"]
        path = config.get("LocalPath", TENSORBOARD)
        folders = []
        for host in run.boxes:
            folder = host.local(path)
            assert folder, "check() has seen to that"
            folder.mkdir(parents=True, exist_ok=True)
            host.write_config("tensorboardoutputconfig", {**config, "LocalPath": host.here(path)})
            folders.append(folder)
        uri = f"{config['S3OutputPath'].rstrip('/')}/{job['TrainingJobName']}/tensorboard-output"
        run.watch.add(FolderUpload(self.cloud.s3, folders, uri).send)

    def _command(self, job: Document, run: Run, image: Image, host: Box) -> Command:
        """One host's command line and variables, with its code in place."""
        algorithm, name = job["AlgorithmSpecification"], job["TrainingJobName"]
        variables = environment(self.cloud, image, host.tmp, job["Region"])
        resources, channels = _resources(job, run, host), _channels(job)
        added = toolkit.environment(
            host.base, job["HyperParameters"], resources, channels, job=name, region=job["Region"]
        )
        path = [added.pop("PYTHONPATH"), variables.get("PYTHONPATH")]
        variables |= {**added, "TRAINING_JOB_NAME": name, "TRAINING_JOB_ARN": job["TrainingJobArn"]}
        own = {key: host.here(value) for key, value in job.get("Environment", {}).items()}
        entrypoint = [host.here(part) for part in algorithm.get("ContainerEntrypoint", [])]
        argv = [host.here(part) for part in algorithm.get("ContainerArguments", [])]
        settings = toolkit.decoded(job["HyperParameters"])
        program, source = settings.get("sagemaker_program"), settings.get("sagemaker_submit_directory")
        if image.docker:
            # The image has its own toolkit, or none.
            argv = argv or ([] if entrypoint else ["train"])
        elif not (entrypoint or argv) and program and source:
            argv, packages = self._script(job, image, host, str(program), str(source))
            path.insert(1, packages)
        elif not (entrypoint or argv):
            argv = [*image.train]
        if not (entrypoint or argv):
            raise TransferError(
                "ClientError: the job has no command: give ContainerEntrypoint, or the hyperparameters "
                "sagemaker_program and sagemaker_submit_directory (s3://…/sourcedir.tar.gz), or a `train` command to "
                "the image in images.yaml"
            )
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, path))
        fresh = (host.root / "packages").exists()
        folder = host.base / "code"
        return Command(host, argv, folder, variables, own, entrypoint, fresh)

    def _script(
        self, job: Document, image: Image, host: Box, program: str, source: str
    ) -> tuple[list[str], str | None]:
        """Script mode: the command line, and the folder of packages that requirements.txt brought, if any."""
        archive, code = host.local(source), host.ml / "code"
        if archive is None:
            archive = host.tmp / "sourcedir.tar.gz"
            self.cloud.s3.download_file(source, archive)
        elif not archive.is_file():
            raise TransferError(f"ClientError: {source}: no channel of the job has brought such a file")
        unpack(archive, code)
        try:
            argv = toolkit.command(code, program, toolkit.script_parameters(job["HyperParameters"]))
            requirements, packages = toolkit.requirements(code, program), host.root / "packages"
            installed = requirements is not None and install(requirements, image, packages)
        except ValueError as error:
            raise TransferError(f"ClientError: {source}: {error}") from error
        except RequirementsError as error:
            raise TransferError(f"AlgorithmError: InstallRequirementsError: {error}") from error
        return argv, str(packages) if installed else None

    def _upload(self, job: Document, run: Run) -> str:
        """Send the archives, whatever the job's end was; the model archive's URI."""
        config = job["OutputDataConfig"]
        base = _output(job)
        for folder, archive in (("model", "model.tar.gz"), ("output/data", "output.tar.gz")):
            folders = [host.ml / folder for host in run.boxes]
            if config.get("CompressionType") == "NONE":
                FolderUpload(self.cloud.s3, folders[::-1], f"{base}/{Path(folder).name}").send(final=True)
            elif folder == "model" or any(any(item.iterdir()) for item in folders):
                pack(folders, run.box.tmp / archive)
                self.cloud.s3.upload_file(run.box.tmp / archive, f"{base}/{archive}")
        return _artifacts(job)

    def _advance(self, name: str, status: str, message: str) -> None:
        with self.store.change(self.kind, name) as job:
            if job[self.status_key] == "InProgress":
                job["SecondaryStatus"] = status
                _transition(job, status, message)


def _output(job: Document) -> str:
    return f"{job['OutputDataConfig']['S3OutputPath'].rstrip('/')}/{job['TrainingJobName']}/output"


def _artifacts(job: Document) -> str:
    """Where the model is, or will be."""
    uncompressed = job["OutputDataConfig"].get("CompressionType") == "NONE"
    return f"{_output(job)}/model/" if uncompressed else f"{_output(job)}/model.tar.gz"


def _refuse_drivers(request: Document) -> None:
    """Raise ApiError for the SDK's ModelTrainer where there is no /opt/ml, which its drivers name in their code."""
    drivers = any(channel["ChannelName"] == "sm_drivers" for channel in request.get("InputDataConfig", []))
    if drivers and (reason := namespace.unavailable()):
        raise invalid(
            "The channel sm_drivers holds code of the SageMaker SDK that needs a real /opt/ml, which takes Linux with "
            f"user namespaces, and here {reason}"
        )


def _transition(job: Document, status: str, message: str) -> None:
    now = time.time()
    job["SecondaryStatusTransitions"][-1].setdefault("EndTime", now)
    job["SecondaryStatusTransitions"].append({"Status": status, "StartTime": now, "StatusMessage": message})


def _resources(job: Document, run: Run, host: Box) -> Document:
    """resourceconfig.json."""
    instance_type = str(job.get("ResourceConfig", {}).get("InstanceType", "local"))
    return resource_config(instance_type, run.hosts, host.root.name)


def _channels(job: Document) -> Document:
    """inputdataconfig.json."""
    return {
        channel["ChannelName"]: {
            "TrainingInputMode": "File",
            "S3DistributionType": channel["DataSource"]["S3DataSource"].get(
                "S3DataDistributionType", "FullyReplicated"
            ),
            "RecordWrapperType": "None",
            **({"ContentType": channel["ContentType"]} if "ContentType" in channel else {}),
        }
        for channel in job.get("InputDataConfig", [])
    }
