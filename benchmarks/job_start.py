"""What starting a job costs once torch is in it: forked from a warm process, against a new interpreter.

    make bench NAME=job-start

About 2 minutes on 2 cores. Training jobs that import torch and torchvision and say how much processor time that took
until their first line, then tuning jobs of 6 such trials, 2 at once; warm and cold in turn, in a local cloud of their
own; medians. A variable that torch reads when it is loaded makes a job start cold. At the end, with nothing to do,
the memory and processor time of the service itself.
"""

import io
import json
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from scripts.bench import conditions
from scripts.local_stack import BUCKET, ROLE, Cloud, Stack

ROUNDS, TUNING_ROUNDS = 5, 3
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-training:2.10.0-cpu-py313"
PROGRAM = """
import json, os, pathlib, time
import torch, torchvision
said = {"cpu_seconds": time.process_time(), "at": time.time()}
pathlib.Path(os.environ["SM_MODEL_DIR"], "said.json").write_text(json.dumps(said))
print("loss=1.0")
"""
COLD = {"OMP_DYNAMIC": "FALSE"}
WAYS: dict[str, dict[str, str]] = {"warm": {}, "cold": COLD}
TRIALS, AT_ONCE = 6, 2
IDLE_S = 10
MIB = 1 << 20


def run() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder) / "var")
        cloud = stack.cloud()
        try:
            _upload_program(cloud)
            # The first warm job pays for the warm process.
            first = _job(cloud, "first", {})
            jobs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
            tunings: dict[str, list[float]] = {way: [] for way in WAYS}
            for turn in range(ROUNDS):
                for way, environment in WAYS.items():
                    jobs[way].append(_job(cloud, f"{way}-{turn}", environment))
                    print(f"round {turn} {way}: {jobs[way][-1]}", file=sys.stderr)
            for turn in range(TUNING_ROUNDS):
                for way, environment in WAYS.items():
                    tunings[way].append(_tuning(cloud, f"tune-{way}-{turn}", environment))
                    print(f"tuning {turn} {way}: {tunings[way][-1]:.2f} s", file=sys.stderr)
            idle = _idle(cloud)
        finally:
            stack.down()
    cpu, wall = (
        {way: median(job[key] for job in of_way) for way, of_way in jobs.items()}
        for key in ("cpu_seconds", "wall_seconds")
    )
    tuning = {way: median(seconds) for way, seconds in tunings.items()}
    return {
        "figures": {
            "cpu_seconds": {way: round(value, 3) for way, value in cpu.items()},
            "cpu_ratio": round(cpu["cold"] / cpu["warm"], 1),
            "wall_seconds": {way: round(value, 2) for way, value in wall.items()},
            "first_warm_wall_seconds": round(first["wall_seconds"], 2),
            "tuning_wall_seconds": {way: round(value, 2) for way, value in tuning.items()},
            "tuning_ratio": round(tuning["cold"] / tuning["warm"], 1),
            "idle": idle,
        },
        "conditions": conditions("boto3", rounds=ROUNDS, tuning_rounds=TUNING_ROUNDS),
        "ok": cpu["cold"] >= 5 * cpu["warm"] and idle["memory_mib"] <= 60 and idle["cpu_percent"] <= 1,
    }


def _upload_program(cloud: Cloud) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        member = tarfile.TarInfo("start.py")
        member.size = len(PROGRAM)
        tar.addfile(member, io.BytesIO(PROGRAM.encode()))
    cloud.client("s3").put_object(Bucket=BUCKET, Key="start/sourcedir.tar.gz", Body=archive.getvalue())


def _definition(environment: dict[str, str]) -> dict[str, Any]:
    """What training jobs and the trials of tuning jobs have in common."""
    return {
        "AlgorithmSpecification": {
            "TrainingImage": IMAGE,
            "TrainingInputMode": "File",
            "MetricDefinitions": [{"Name": "loss", "Regex": "loss=([0-9.]+)"}],
        },
        "Environment": environment,
        "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/start"},
        "ResourceConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 1},
        "RoleArn": f"arn:aws:iam::000000000000:role/{ROLE}",
        "StoppingCondition": {"MaxRuntimeInSeconds": 300},
    }


HYPERPARAMETERS = {
    "sagemaker_program": "start.py",
    "sagemaker_submit_directory": f"s3://{BUCKET}/start/sourcedir.tar.gz",
}


def _job(cloud: Cloud, name: str, environment: dict[str, str]) -> dict[str, float]:
    """Processor seconds of the imports, and seconds from CreateTrainingJob until they were done."""
    sagemaker = cloud.client("sagemaker")
    created = time.time()
    sagemaker.create_training_job(
        TrainingJobName=name, HyperParameters=HYPERPARAMETERS, **_definition(environment)
    )
    sagemaker.get_waiter("training_job_completed_or_stopped").wait(
        TrainingJobName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 120}
    )
    body = cloud.client("s3").get_object(Bucket=BUCKET, Key=f"start/{name}/output/model.tar.gz")["Body"]
    with tarfile.open(fileobj=io.BytesIO(body.read())) as tar:
        file = tar.extractfile("said.json")
        assert file
        said = json.load(file)
    return {"cpu_seconds": said["cpu_seconds"], "wall_seconds": said["at"] - created}


def _tuning(cloud: Cloud, name: str, environment: dict[str, str]) -> float:
    """Seconds from CreateHyperParameterTuningJob to its end."""
    sagemaker = cloud.client("sagemaker")
    ranges = {"ContinuousParameterRanges": [{"Name": "x", "MinValue": "0", "MaxValue": "1"}]}
    sagemaker.create_hyper_parameter_tuning_job(
        HyperParameterTuningJobName=name,
        HyperParameterTuningJobConfig={
            "Strategy": "Bayesian",
            "HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": "loss"},
            "ResourceLimits": {"MaxNumberOfTrainingJobs": TRIALS, "MaxParallelTrainingJobs": AT_ONCE},
            "ParameterRanges": ranges,
        },
        TrainingJobDefinition={"StaticHyperParameters": HYPERPARAMETERS, **_definition(environment)},
    )
    while True:
        job = sagemaker.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
        if job["HyperParameterTuningJobStatus"] != "InProgress":
            assert job["TrainingJobStatusCounters"]["Completed"] == TRIALS, job
            ended: float = (job["HyperParameterTuningEndTime"] - job["CreationTime"]).total_seconds()
            return ended
        time.sleep(0.2)


def _idle(cloud: Cloud) -> dict[str, float]:
    """The service's resident memory and share of one processor, after all of the above."""
    process = psutil.Process(cloud.pid)
    time.sleep(IDLE_S / 2)
    before = sum(process.cpu_times()[:2])
    time.sleep(IDLE_S)
    used = sum(process.cpu_times()[:2]) - before
    return {
        "memory_mib": round(process.memory_info().rss / MIB, 1),
        "cpu_percent": round(100 * used / IDLE_S, 2),
    }
