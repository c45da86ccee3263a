"""What starting a job costs once torch is in it: forked from a warm process, against a new interpreter.

    make bench NAME=job-start

About 60 s on 2 cores. Processing jobs that import torch and torchvision and say how much processor time that took,
warm and cold in turn, in a local cloud of their own; medians. A variable that torch reads when it is loaded makes a
job start cold.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from scripts.bench import conditions
from scripts.local_stack import BUCKET, ROLE, Cloud, Stack

ROUNDS = 5
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-training:2.10.0-cpu-py313"
PROGRAM = """
import json, pathlib, sys, time
import torch, torchvision
said = {"cpu_seconds": time.process_time(), "at": time.time()}
pathlib.Path(sys.argv[1], "said.json").write_text(json.dumps(said))
"""
COLD = {"OMP_DYNAMIC": "FALSE"}


def run() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder) / "var")
        cloud = stack.cloud()
        try:
            cloud.client("s3").put_object(Bucket=BUCKET, Key="start/code/start.py", Body=PROGRAM.encode())
            # The first warm job pays for the warm process.
            first = _job(cloud, "first", {})
            times: dict[str, list[dict[str, float]]] = {"warm": [], "cold": []}
            for turn in range(ROUNDS):
                for way, environment in (("warm", {}), ("cold", COLD)):
                    times[way].append(_job(cloud, f"{way}-{turn}", environment))
                    print(f"round {turn} {way}: {times[way][-1]}", file=sys.stderr)
        finally:
            stack.down()
    cpu, wall = (
        {way: median(job[key] for job in jobs) for way, jobs in times.items()}
        for key in ("cpu_seconds", "wall_seconds")
    )
    return {
        "figures": {
            "cpu_seconds": {way: round(value, 3) for way, value in cpu.items()},
            "cpu_ratio": round(cpu["cold"] / cpu["warm"], 1),
            "wall_seconds": {way: round(value, 2) for way, value in wall.items()},
            "first_warm_wall_seconds": round(first["wall_seconds"], 2),
        },
        "conditions": conditions("boto3", rounds=ROUNDS),
        "ok": cpu["cold"] >= 5 * cpu["warm"],
    }


def _job(cloud: Cloud, name: str, environment: dict[str, str]) -> dict[str, float]:
    """Processor seconds of the imports, and seconds from CreateProcessingJob until they were done."""
    sagemaker = cloud.client("sagemaker")
    base, uri = "/opt/ml/processing", f"s3://{BUCKET}/start"
    created = time.time()
    sagemaker.create_processing_job(
        ProcessingJobName=f"start-{name}",
        AppSpecification={
            "ImageUri": IMAGE,
            "ContainerEntrypoint": ["python3", f"{base}/input/code/start.py", f"{base}/output"],
        },
        Environment=environment,
        ProcessingInputs=[
            {
                "InputName": "code",
                "S3Input": {
                    "S3Uri": f"{uri}/code/",
                    "LocalPath": f"{base}/input/code",
                    "S3DataType": "S3Prefix",
                    "S3InputMode": "File",
                },
            }
        ],
        ProcessingOutputConfig={
            "Outputs": [
                {
                    "OutputName": "said",
                    "S3Output": {
                        "S3Uri": f"{uri}/{name}",
                        "LocalPath": f"{base}/output",
                        "S3UploadMode": "EndOfJob",
                    },
                }
            ]
        },
        ProcessingResources={
            "ClusterConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 1}
        },
        RoleArn=f"arn:aws:iam::000000000000:role/{ROLE}",
    )
    sagemaker.get_waiter("processing_job_completed_or_stopped").wait(
        ProcessingJobName=f"start-{name}", WaiterConfig={"Delay": 1, "MaxAttempts": 120}
    )
    body = cloud.client("s3").get_object(Bucket=BUCKET, Key=f"start/{name}/said.json")["Body"]
    said = json.loads(body.read())
    return {"cpu_seconds": said["cpu_seconds"], "wall_seconds": said["at"] - created}
