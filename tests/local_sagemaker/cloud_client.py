"""A local cloud as a child process, and requests short enough to read in a test."""

import contextlib
import io
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, ClassVar

import boto3
from botocore.config import Config

REPOSITORY = Path(__file__).parents[2]
IMAGES = Path(__file__).with_name("images.yaml")
ROLE = "arn:aws:iam::000000000000:role/EvergreenSageMakerRole"
TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}
    ],
}
PLAIN, SERVING, WARM = "test/plain:1", "test/serving:1", "test/warm:1"
BUCKET = "test-bucket"
_numbers = itertools.count(1)

Json = dict[str, Any]


def unique(prefix: str) -> str:
    """A name that no other test has."""
    return f"{prefix}-{next(_numbers)}"


def free_port() -> int:
    """A port below those that the kernel gives to outgoing connections: free again after a restart, too."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("100 ports from 20000 to 32000 are in use")


def archive(files: dict[str, str]) -> bytes:
    """A tar.gz of some text files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


class Cloud:
    """A running service with clients for it."""

    running: ClassVar[list["Cloud"]] = []

    def __init__(
        self, state: Path, *options: str, port: int = 0, aws_port: int = 0, before: tuple[str, ...] = ()
    ) -> None:
        self.state = state
        state.mkdir(parents=True, exist_ok=True)
        self._log: IO[bytes] = (state / "stderr").open("ab")
        self.process = launch(state, *options, port=port, aws_port=aws_port, stderr=self._log, before=before)
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, (state / "stderr").read_text()
        self.running.append(self)
        self.address: Json = json.loads(line)
        self.s3, self.logs = self.client("s3"), self.client("logs")
        self.sagemaker, self.runtime = self.client("sagemaker"), self.client("sagemaker-runtime")
        if not self.s3.list_buckets()["Buckets"]:
            self.s3.create_bucket(Bucket=BUCKET)
        self.role(ROLE.rpartition("/")[2])

    def port(self, which: str) -> int:
        """Of `sagemaker` or `aws`."""
        return int(self.address[which].rpartition(":")[2])

    def client(self, service: str, **config: Any) -> Any:
        url = self.address["sagemaker" if service.startswith("sagemaker") else "aws"]
        return boto3.client(
            service,
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(**config),
        )

    def role(self, name: str, trust: Json = TRUST) -> str:
        """Create a role unless it is there; its ARN."""
        iam = self.client("iam")
        with contextlib.closing(iam), contextlib.suppress(iam.exceptions.EntityAlreadyExistsException):
            iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))
        return ROLE.rpartition("/")[0] + f"/{name}"

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal the service and wait; its exit status."""
        self.running.remove(self)
        os.kill(self.process.pid, number)
        status = self.process.wait(15)
        assert self.process.stdout
        self.process.stdout.close()
        self._log.close()
        for client in (self.s3, self.logs, self.sagemaker, self.runtime):
            client.close()
        return status

    def put(self, key: str, content: str | bytes) -> str:
        """Write an object; its URI."""
        self.s3.put_object(Bucket=BUCKET, Key=key, Body=content)
        return f"s3://{BUCKET}/{key}"

    def read(self, uri: str) -> bytes:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return bytes(self.s3.get_object(Bucket=bucket, Key=key)["Body"].read())

    def unpack(self, uri: str) -> dict[str, bytes]:
        """The files of a tar.gz."""
        with tarfile.open(fileobj=io.BytesIO(self.read(uri))) as tar:
            files = {member.name: tar.extractfile(member) for member in tar if member.isfile()}
            return {name: file.read() for name, file in files.items() if file}

    def keys(self, prefix: str) -> list[str]:
        answer = self.s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix)
        return [item["Key"].removeprefix(prefix) for item in answer.get("Contents", [])]

    # Training

    def training_request(self, script: str, image: str = PLAIN, **changes: Any) -> Json:
        """A CreateTrainingJob request for a script, with a channel `train` of two files."""
        source = self.put(f"code/{unique('code')}/sourcedir.tar.gz", archive({"train.py": script}))
        for name in ("a.txt", "deep/b.txt"):
            self.put(f"data/train/{name}", name)
        hyperparameters = {"sagemaker_program": "train.py", "sagemaker_submit_directory": source}
        hyperparameters |= changes.pop("HyperParameters", {})
        return {
            "TrainingJobName": unique("train"),
            "AlgorithmSpecification": {
                "TrainingImage": image,
                "TrainingInputMode": "File",
                "MetricDefinitions": [{"Name": "loss", "Regex": r"\bloss=([0-9.e+-]+)"}],
            },
            "RoleArn": ROLE,
            "InputDataConfig": [channel("train", f"s3://{BUCKET}/data/train/")],
            "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/output"},
            "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 10},
            "StoppingCondition": {"MaxRuntimeInSeconds": 60},
            "HyperParameters": hyperparameters,
            **changes,
        }

    def train(self, script: str, image: str = PLAIN, **changes: Any) -> Json:
        """Run a training job to its end."""
        request = self.training_request(script, image, **changes)
        self.sagemaker.create_training_job(**request)
        return self.training_end(request["TrainingJobName"])

    def training_end(self, name: str) -> Json:
        return wait(lambda: self.sagemaker.describe_training_job(TrainingJobName=name), "TrainingJobStatus")

    def log(self, kind: str, name: str) -> list[str]:
        """A job's lines in CloudWatch Logs."""
        group = f"/aws/sagemaker/{kind}"
        streams = self.logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=f"{name}/")[
            "logStreams"
        ]
        events = self.logs.get_log_events(logGroupName=group, logStreamName=streams[0]["logStreamName"])[
            "events"
        ]
        return [event["message"] for event in events]

    # Endpoints

    def model(self, answer: str, **environment: str) -> str:
        """Create a model whose server (server.py) answers with a text; its name."""
        name = unique("model")
        uri = self.put(f"models/{name}/model.tar.gz", archive({"answer.txt": answer}))
        container = {"Image": SERVING, "ModelDataUrl": uri, "Environment": environment}
        self.sagemaker.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=ROLE)
        return name

    def config(self, *models: str, instances: int = 1, **members: Any) -> str:
        """Create an endpoint configuration with variants v1, v2, … of weights 1, 0, …; its name."""
        name = unique("config")
        variants = [
            {
                "VariantName": f"v{number}",
                "ModelName": model,
                "InitialInstanceCount": instances,
                "InstanceType": "ml.m5.large",
                "InitialVariantWeight": float(number == 1),
            }
            for number, model in enumerate(models, 1)
        ]
        self.sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=variants, **members)
        return name

    def endpoint(self, *models: str, instances: int = 1, **members: Any) -> str:
        """Create an endpoint and wait until it is there; its name."""
        name = unique("endpoint")
        self.sagemaker.create_endpoint(
            EndpointName=name, EndpointConfigName=self.config(*models, instances=instances, **members)
        )
        self.endpoint_end(name)
        return name

    def endpoint_end(self, name: str) -> Json:
        return wait(lambda: self.sagemaker.describe_endpoint(EndpointName=name), "EndpointStatus")

    def invoke(self, name: str, body: bytes = b"x", **arguments: Any) -> str:
        answer = self.runtime.invoke_endpoint(EndpointName=name, Body=body, **arguments)
        return str(answer["Body"].read().decode())


def launch(
    state: Path,
    *options: str,
    port: int = 0,
    aws_port: int = 0,
    stderr: Any = subprocess.PIPE,
    before: tuple[str, ...] = (),
) -> "subprocess.Popen[bytes]":
    """Start the service; it prints its line when it answers."""
    return subprocess.Popen(
        [
            *before,
            REPOSITORY / "var/venv/cloud/bin/python",  # clients may run in another environment
            "-m",
            "local_sagemaker",
            f"--state={state}",
            f"--port={port}",
            f"--aws-port={aws_port}",
            f"--images={IMAGES}",
            "--stop-grace=2",
            "--job-memory=0.5",
            *options,
        ],
        cwd=REPOSITORY,
        env={**os.environ, "SECRET_OF_THE_SERVICE": "not for jobs"},
        stdout=subprocess.PIPE,
        stderr=stderr,
    )


def channel(name: str, uri: str, data_type: str = "S3Prefix") -> Json:
    return {"ChannelName": name, "DataSource": {"S3DataSource": {"S3DataType": data_type, "S3Uri": uri}}}


BUSY = {"InProgress", "Stopping", "Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting"}


def wait(describe: Callable[[], Json], status: str, limit_s: float = 60) -> Json:
    """Describe until the status is a final one."""
    deadline = time.monotonic() + limit_s
    while (description := describe())[status] in BUSY:
        assert time.monotonic() < deadline, description
        time.sleep(0.05)
    return description
