"""200 kills of the local cloud and of what it runs, at random moments, while clients use it.

    make chaos NAME=cloud        # about 10 minutes on 2 cores; KILLS=20 for a short one

In a cloud of its own (folder and ports). A client creates training, spot, processing and tuning jobs, models and
tags, and one endpoint serves. Each kill is a SIGKILL, of the service or of one of its processes: a job, the
endpoint's server, the warm process, the search, MiniStack, the keeper. A killed service is started again on the same
ports. Held against what the client was told:

- every document whose creation was answered is there, a finished job is as it was, and its archive is in S3;
- within 5 s of the service's death nothing that it started runs, and no process of ours stays a zombie;
- the restart takes no more than 3 s, and the endpoint answers again;
- at the end every job has ended: those with spot capacity or retries as Completed.
"""

import io
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import IO, Any

import boto3
import psutil
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from scripts.bench import conditions
from scripts.local_stack import REPOSITORY, free_port

KILLS = int(os.environ.get("KILLS", "200"))
SEED = int(os.environ.get("SEED", "7"))
RESTART_LIMIT_S, ORPHAN_LIMIT_S, END_LIMIT_S = 3.0, 5.0, 240.0
MARK = "LOCAL_SAGEMAKER"
BUCKET, ROLE, SECRET = "chaos", "ChaosRole", "test"
ROLE_ARN = f"arn:aws:iam::000000000000:role/{ROLE}"
IMAGES = """
- {pattern: 'chaos/job:1', python: self, warm: [yaml]}
- {pattern: 'chaos/server:1', python: self, serve: ['{python}', '{here}/server.py']}
"""
SERVER = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.answer()
    def do_POST(self): self.rfile.read(int(self.headers["content-length"])); self.answer()
    def log_message(self, *_): pass
    def answer(self):
        self.send_response(200); self.send_header("content-length", "2"); self.end_headers(); self.wfile.write(b"ok")
port = int(os.environ["SAGEMAKER_BIND_TO_PORT"])
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
# Counts to 10 in a checkpoint, so that an attempt goes on where the one before it ended.
JOB = """
import argparse, os, pathlib, subprocess, time
parser = argparse.ArgumentParser()
parser.add_argument("--x", type=float, default=0.5)
parser.add_argument("--seconds", type=float, default=0.3)
options = parser.parse_args()
# Whatever a job starts is to end with it, a process in a session of its own too.
subprocess.Popen(["sleep", "600"], start_new_session=True)
saved = pathlib.Path("/opt/ml/checkpoints/step")
step = int(saved.read_text()) if saved.exists() else 0
while step < 10:
    time.sleep(options.seconds / 10)
    step += 1
    if saved.parent.exists():
        saved.write_text(str(step))
pathlib.Path("/opt/ml/model/done").write_text(str(step))
print(f"loss={(options.x - 0.3) ** 2:.6f}", flush=True)
"""
FINAL = {"Completed", "Failed", "Stopped"}


class Service:
    """The local cloud's process, started again and again on one state directory."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.port, self.aws_port = free_port(7800), free_port(7850)
        (folder / "images.yaml").write_text(IMAGES)
        (folder / "server.py").write_text(SERVER)
        self._images = folder / "images.yaml"
        self._log: IO[bytes] = (folder / "stderr").open("ab")
        self.process = self.start()
        config = Config(retries={"max_attempts": 1}, connect_timeout=5, read_timeout=20)

        def client(name: str, port: int) -> Any:
            return boto3.client(
                name, endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1",
                aws_access_key_id="test", aws_secret_access_key=SECRET, config=config,
            )  # fmt: skip

        self.sagemaker, self.runtime = client("sagemaker", self.port), client("sagemaker-runtime", self.port)
        self.s3, self.iam = client("s3", self.aws_port), client("iam", self.aws_port)

    def start(self) -> "subprocess.Popen[bytes]":
        command: list[str | Path] = [
            REPOSITORY / "var/venv/cloud/bin/python", "-m", "local_sagemaker", f"--state={self.state}",
            f"--port={self.port}", f"--aws-port={self.aws_port}", f"--images={self._images}", "--stop-grace=2",
            "--slots=3",
        ]  # fmt: skip
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=self._log)
        assert process.stdout
        line = process.stdout.readline()
        assert line, f"the service did not start; see {self._log.name}"
        return process

    def restart(self) -> float:
        """Seconds from the start until it answers."""
        started = time.monotonic()
        self.process = self.start()
        return time.monotonic() - started

    def marked(self) -> list[psutil.Process]:
        """Everything that carries the state directory's mark, the service itself does not."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(MARK, "").startswith(f"{self.state}#"):
                    found.append(process)
        return found

    def zombies(self) -> list[psutil.Process]:
        """Ended processes that one of ours has not waited for."""
        found = []
        for process in [psutil.Process(self.process.pid), *self.marked()]:
            with suppress(psutil.Error):
                found += [child for child in process.children() if child.status() == psutil.STATUS_ZOMBIE]
        return found


class Client:
    """What a user does, and what the service has answered."""

    def __init__(self, service: Service, rng: random.Random) -> None:
        self._service = service
        self._rng = rng
        self._numbers = itertools.count(1)
        self.created: dict[str, str] = {}
        """Name of everything whose creation was answered → its kind."""
        self.finished: dict[str, str] = {}
        """Training job → the status with which it was seen to end."""
        self.resuming: set[str] = set()
        service.s3.create_bucket(Bucket=BUCKET)
        self.ensure_role()
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            member = tarfile.TarInfo("train.py")
            member.size = len(JOB)
            tar.addfile(member, io.BytesIO(JOB.encode()))
        service.s3.put_object(Bucket=BUCKET, Key="code/sourcedir.tar.gz", Body=buffer.getvalue())
        empty = io.BytesIO()
        tarfile.open(fileobj=empty, mode="w:gz").close()
        service.s3.put_object(Bucket=BUCKET, Key="model/model.tar.gz", Body=empty.getvalue())

    def ensure_role(self) -> None:
        statement = {
            "Effect": "Allow",
            "Principal": {"Service": "sagemaker.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
        with suppress(self._service.iam.exceptions.EntityAlreadyExistsException):
            self._service.iam.create_role(
                RoleName=ROLE,
                AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [statement]}),
            )

    def training(self, **changes: Any) -> dict[str, Any]:
        return {
            "AlgorithmSpecification": {
                "TrainingImage": "chaos/job:1",
                "TrainingInputMode": "File",
                "MetricDefinitions": [{"Name": "loss", "Regex": "loss=([0-9.]+)"}],
            },
            "RoleArn": ROLE_ARN,
            "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/output"},
            "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
            "StoppingCondition": {"MaxRuntimeInSeconds": 120},
            **changes,
        }

    SCRIPT = {  # ruff: ignore[mutable-class-default]
        "sagemaker_program": "train.py",
        "sagemaker_submit_directory": f"s3://{BUCKET}/code/sourcedir.tar.gz",
    }

    def act(self) -> None:
        """One thing that a user does."""
        action = self._rng.choice(
            [
                self._train,
                self._train,
                self._spot,
                self._retried,
                self._process,
                self._tune,
                self._model,
                self._stop,
            ]
        )
        action(f"c-{next(self._numbers)}")

    def _train(self, name: str) -> None:
        hyperparameters = {**self.SCRIPT, "seconds": str(self._rng.choice([0.1, 0.5, 3]))}
        self._service.sagemaker.create_training_job(
            TrainingJobName=name, **self.training(HyperParameters=hyperparameters)
        )
        self.created[name] = "TrainingJob"

    def _spot(self, name: str) -> None:
        self._resumed(
            name,
            EnableManagedSpotTraining=True,
            StoppingCondition={"MaxRuntimeInSeconds": 600, "MaxWaitTimeInSeconds": 3600},
        )

    def _retried(self, name: str) -> None:
        self._resumed(name, RetryStrategy={"MaximumRetryAttempts": 30})

    def _resumed(self, name: str, **changes: Any) -> None:
        self._service.sagemaker.create_training_job(
            TrainingJobName=name,
            **self.training(
                HyperParameters={**self.SCRIPT, "seconds": "2"},
                CheckpointConfig={"S3Uri": f"s3://{BUCKET}/checkpoints/{name}"},
                **changes,
            ),
        )
        self.created[name] = "TrainingJob"
        self.resuming.add(name)

    def _process(self, name: str) -> None:
        self._service.sagemaker.create_processing_job(
            ProcessingJobName=name,
            AppSpecification={"ImageUri": "chaos/job:1", "ContainerEntrypoint": ["/bin/sleep", "0.5"]},
            ProcessingResources={
                "ClusterConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 1}
            },
            RoleArn=ROLE_ARN,
        )
        self.created[name] = "ProcessingJob"

    def _tune(self, name: str) -> None:
        ranges = {"ContinuousParameterRanges": [{"Name": "x", "MinValue": "0", "MaxValue": "1"}]}
        self._service.sagemaker.create_hyper_parameter_tuning_job(
            HyperParameterTuningJobName=name,
            HyperParameterTuningJobConfig={
                "Strategy": "Random",
                "HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": "loss"},
                "ResourceLimits": {"MaxNumberOfTrainingJobs": 3, "MaxParallelTrainingJobs": 2},
                "ParameterRanges": ranges,
            },
            TrainingJobDefinition=self.training(
                StaticHyperParameters={**self.SCRIPT, "seconds": "0.3"},
                RetryStrategy={"MaximumRetryAttempts": 30},
            ),
        )
        self.created[name] = "HyperParameterTuningJob"

    def _model(self, name: str) -> None:
        arn = self._service.sagemaker.create_model(
            ModelName=name, ExecutionRoleArn=ROLE_ARN, PrimaryContainer=CONTAINER
        )["ModelArn"]
        self.created[name] = "Model"
        self._service.sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": "of", "Value": name}])

    def _stop(self, name: str) -> None:
        """Stop a random job; one that has ended cannot be."""
        running = [
            job for job, kind in self.created.items() if kind == "TrainingJob" and job not in self.finished
        ]
        for job in running[-1:]:
            self.resuming.discard(job)
            with suppress(ClientError):
                self._service.sagemaker.stop_training_job(TrainingJobName=job)

    def look(self) -> list[str]:
        """Hold what the service says against what it has said; the sentences that do not agree."""
        wrong = []
        for name, kind in self.created.items():
            try:
                document = self.describe(kind, name)
            except ClientError as error:
                wrong.append(f"{kind} {name} is lost: {error}")
                continue
            if kind != "TrainingJob":
                continue
            status = document["TrainingJobStatus"]
            if self.finished.get(name, status) != status:
                wrong.append(f"{name} was {self.finished[name]} and is {status}")
            if status == "Completed" and name not in self.finished:
                try:
                    wrong += self._without_archive(document)
                except BotoCoreError:
                    # MiniStack has just been killed: another time.
                    continue
            if status in FINAL:
                self.finished[name] = status
        return wrong

    def describe(self, kind: str, name: str) -> dict[str, Any]:
        calls = {
            "TrainingJob": self._service.sagemaker.describe_training_job,
            "ProcessingJob": self._service.sagemaker.describe_processing_job,
            "HyperParameterTuningJob": self._service.sagemaker.describe_hyper_parameter_tuning_job,
            "Model": self._service.sagemaker.describe_model,
        }
        return dict(calls[kind](**{f"{kind}Name": name}))

    def _without_archive(self, document: dict[str, Any]) -> list[str]:
        bucket, _, key = document["ModelArtifacts"]["S3ModelArtifacts"][5:].partition("/")
        try:
            body = self._service.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
            with tarfile.open(fileobj=io.BytesIO(body)) as tar:
                assert tar.getnames() == ["done"]
        except (ClientError, tarfile.TarError, AssertionError) as error:
            return [f"{document['TrainingJobName']} is Completed without its archive: {error!r}"]
        return []


CONTAINER = {"Image": "chaos/server:1", "ModelDataUrl": f"s3://{BUCKET}/model/model.tar.gz"}
VARIANT = {
    "VariantName": "a",
    "ModelName": "served",
    "InitialInstanceCount": 1,
    "InstanceType": "ml.m5.large",
}


def run() -> dict[str, Any]:
    rng = random.Random(SEED)  # ruff: ignore[suspicious-non-cryptographic-random-usage]
    with tempfile.TemporaryDirectory() as folder:
        service = Service(Path(folder))
        try:
            return _attack(service, rng)
        finally:
            with suppress(ProcessLookupError):
                service.process.send_signal(signal.SIGTERM)
            service.process.wait(20)


def _attack(service: Service, rng: random.Random) -> dict[str, Any]:
    client = Client(service, rng)
    sagemaker = service.sagemaker
    sagemaker.create_model(ModelName="served", ExecutionRoleArn=ROLE_ARN, PrimaryContainer=CONTAINER)
    sagemaker.create_endpoint_config(EndpointConfigName="served", ProductionVariants=[VARIANT])
    sagemaker.create_endpoint(EndpointName="served", EndpointConfigName="served")
    victims: Counter[str] = Counter()
    restarts: list[float] = []
    wrong: list[str] = []
    for kill in range(KILLS):
        for _ in range(rng.randrange(1, 4)):
            with suppress(BotoCoreError, ClientError):
                client.act()
        time.sleep(rng.uniform(0, 0.6))
        if rng.random() < 0.6:
            victims["service"] += 1
            _kill_service(service, rng, client, wrong)
            restarts.append(service.restart())
            client.ensure_role()
        else:
            victims[_kill_one(service, rng)] += 1
        if kill % 5 == 4:
            wrong += client.look()
        print(
            f"kill {kill + 1} of {KILLS}: {len(client.created)} documents, {len(client.finished)} training jobs ended, "
            f"{len(wrong)} wrong",
            end="\n" if kill % 20 == 19 else "\r", file=sys.stderr, flush=True,
        )  # fmt: skip
    wrong += _ends(client)
    wrong += _answers(service)
    wrong += client.look()
    wrong += [f"zombie {process}" for process in _lasting(service.zombies)]
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    return {
        "figures": {
            "kills": dict(victims),
            "documents": len(client.created),
            "training_jobs": dict(Counter(client.finished.values())),
            "restart_seconds": {"median": round(median(restarts), 2), "max": round(max(restarts), 2)},
            "wrong": len(wrong),
        },
        "conditions": conditions("boto3", seed=SEED),
        "ok": not wrong and max(restarts) <= RESTART_LIMIT_S,
    }


def _kill_service(service: Service, rng: random.Random, client: Client, wrong: list[str]) -> None:
    """SIGKILL at a moment at which it may be at anything, then wait until nothing of it runs."""
    if rng.random() < 0.5:
        # In the middle of a request: the answer is not waited for.
        with suppress(BotoCoreError, ClientError, OSError):
            client.act()
    service.process.kill()
    service.process.wait()
    assert service.process.stdout
    service.process.stdout.close()
    left = _lasting(service.marked)
    wrong += [f"orphan {process.pid}: {' '.join(_command(process))}" for process in left]


def _kill_one(service: Service, rng: random.Random) -> str:
    """SIGKILL one of the processes that the service has started; what it was."""
    processes = service.marked()
    if not processes:
        return "nothing"
    process = rng.choice(processes)
    words = " ".join(_command(process))
    with suppress(psutil.Error):
        process.kill()
    kinds = ("ministack", "forkserver", "server.py", "keeper", "search", "train.py", "sleep")
    return next((kind for kind in kinds if kind in words), "job")


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return ["gone"]


def _lasting(find: Any) -> list[psutil.Process]:
    """What is found again and again until the limit."""
    deadline = time.monotonic() + ORPHAN_LIMIT_S
    while (found := find()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return list(found)


def _ends(client: Client) -> list[str]:
    """Wait until every job has ended; those that have not, or not as they should."""
    wrong = []
    for name, kind in client.created.items():
        if kind == "Model":
            continue
        deadline = time.monotonic() + END_LIMIT_S
        while (job := client.describe(kind, name))[
            f"{kind}Status"
        ] not in FINAL and time.monotonic() < deadline:
            time.sleep(0.2)
        status = job[f"{kind}Status"]
        if status not in FINAL:
            wrong.append(f"{name} has not ended: {status}")
        # A job whose own process was killed has failed by itself.
        killed = "exit code: 137" in job.get("FailureReason", "")
        if name in client.resuming and status != "Completed" and not killed:
            wrong.append(f"{name} was to go on and is {status}: {job.get('FailureReason')}")
    return wrong


def _answers(service: Service) -> list[str]:
    """Whether the endpoint serves."""
    deadline = time.monotonic() + 60
    reason = ""
    while time.monotonic() < deadline:
        try:
            body = service.runtime.invoke_endpoint(EndpointName="served", Body=b"x")["Body"].read()
            return [] if body == b"ok" else [f"the endpoint answered {body!r}"]
        except (BotoCoreError, ClientError) as error:
            reason = str(error)
            time.sleep(0.2)
    return [f"the endpoint does not answer: {reason}"]
