"""What tuning and retraining cost: the course projects' way against cached features.

    make bench NAME=tuning

About 10 minutes on 2 cores, most of them the naive side's. 1,500 photographs of 400 x 500, 6 trials of 3 epochs and a
retraining of 3, with a ResNet18 and a ResNet50; processor seconds, process starts included.

The naive side (benchmarks/ml/naive.py) runs one training (3 epochs of the ResNet18, 1 of the ResNet50); its median
epoch is multiplied by the 21 there would be, and its start by 7. Ours runs whole, by the DAG's own requests on a local
cloud: cold, and again by a new one that finds the features. Random weights: nothing can be downloaded for it, and time
does not depend on them. One view an image (K = 1); the naive side draws a new crop in each epoch, which is not the same
training, so both validation accuracies stand beside the ratio.
"""

import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from evergreen import requests, source_code
from evergreen.plan import Plan
from evergreen.settings import validate
from evergreen.transfer import Sync
from scripts.bench import conditions
from scripts.local_stack import BUCKET, REPOSITORY, ROLE, Cloud, Stack

TRAIN, VALIDATION, TEST = 1200, 300, 8
TRIALS, AT_ONCE, EPOCHS = 6, 2, 3
NAIVE_EPOCHS = {"resnet18": 3, "resnet50": 1}
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-training:2.10.0-cpu-py313"
ML = REPOSITORY / "var/venv/ml/bin/python"


def run() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photographs = folder / "photographs"
        subprocess.run(
            [ML, "-m", "benchmarks.ml.photographs", photographs, *map(str, (TRAIN, VALIDATION, TEST))],
            cwd=REPOSITORY, check=True,
        )  # fmt: skip
        figures = {arch: _compare(arch, folder, photographs) for arch in NAIVE_EPOCHS}
    return {
        "figures": figures,
        "conditions": conditions(
            "boto3",
            images=TRAIN + VALIDATION,
            trials=TRIALS,
            epochs=EPOCHS,
            views=1,
            naive_epochs=NAIVE_EPOCHS,
        ),
        "ok": all(
            of["ratio_cold"] >= 20 and of["ratio_found"] >= 100 and of["extra_trial_share"] <= 0.02
            for of in figures.values()
        ),
    }


def _compare(arch: str, folder: Path, photographs: Path) -> dict[str, Any]:
    naive = json.loads(_output([ML, "-m", "benchmarks.ml.naive", photographs, arch, str(NAIVE_EPOCHS[arch])]))
    trial = naive["imports"] + EPOCHS * median(naive["epochs"])
    naive_total = (TRIALS + 1) * trial
    stack = Stack(folder / arch)
    cold = _ours(stack, arch, photographs, "cold")
    found = _ours(stack, arch, photographs, "found")
    return {
        "naive_cpu_s": round(naive_total),
        "ours_cold_cpu_s": round(cold["total"], 1),
        "ours_found_cpu_s": round(found["total"], 1),
        "ratio_cold": round(naive_total / cold["total"], 1),
        "ratio_found": round(naive_total / found["total"], 1),
        "extra_trial_cpu_s": round(found["extra_trial"], 2),
        "extra_trial_share": round(found["extra_trial"] / trial, 4),
        "wall_s": {
            "naive_epoch": round(median(naive["wall"])),
            "ours_cold": round(cold["wall"]),
            "ours_found": round(found["wall"]),
        },
        "validation_accuracy": {
            f"naive_after_{len(naive['accuracies'])}_epochs": round(naive["accuracies"][-1], 3),
            "ours": round(cold["accuracy"], 3),
        },
    }  # fmt: skip


def _output(command: list[Any]) -> str:
    return subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, text=True).stdout


def _ours(stack: Stack, arch: str, photographs: Path, run_id: str) -> dict[str, float]:
    """Features unless they are there, tuning, retraining; in a local cloud that has just been started."""
    cloud = stack.cloud()
    try:
        plan, loop = _plan(arch, photographs, run_id), _Loop(cloud)
        dataset = loop.sync(plan, photographs, stack.var)
        started, before = time.monotonic(), _cpu_seconds(cloud)
        features = loop.features(plan, dataset)
        tuning = loop.tune(plan, dataset, features)
        loop.retrain(plan, dataset, features, tuning, "retrain")
        total, wall = _cpu_seconds(cloud) - before, time.monotonic() - started
        before = _cpu_seconds(cloud)
        definition = requests.tune(plan, dataset, features, loop.code)["TrainingJobDefinition"]
        hyperparameters = definition.pop("StaticHyperParameters") | {"epochs": str(EPOCHS)}
        loop.train({**definition, "HyperParameters": hyperparameters}, f"{run_id}-extra")
        extra = _cpu_seconds(cloud) - before
    finally:
        stack.down()
    best = tuning["BestTrainingJob"]["FinalHyperParameterTuningJobObjectiveMetric"]["Value"]
    return {"total": total, "extra_trial": extra, "wall": wall, "accuracy": best}


def _plan(arch: str, photographs: Path, run_id: str) -> Plan:
    settings = {
        "dataset": {"source": str(photographs)},
        "model": {"arch": arch, "weights": "none"},
        "tuning": {
            "epochs": {"min": EPOCHS, "max": EPOCHS}, "max_jobs": TRIALS, "max_parallel_jobs": AT_ONCE,
            "batch_size": [64], "objective": "validation_accuracy",
        },
    }  # fmt: skip
    return Plan(
        dag_id="tuning", run_id=run_id, run_type="manual", started_at="", pipeline_name=f"tuning-{arch}",
        pipeline=validate(settings, "tuning"), bucket=BUCKET, role=f"arn:aws:iam::000000000000:role/{ROLE}",
        training_image=IMAGE, inference_image=IMAGE,
    )  # fmt: skip


class _Loop:
    """The DAG's jobs, by its own requests."""

    def __init__(self, cloud: Cloud) -> None:
        self._s3, self._sagemaker = cloud.client("s3"), cloud.client("sagemaker")

    def sync(self, plan: Plan, photographs: Path, var: Path) -> dict[str, Any]:
        """Dataset and code in S3; not timed."""
        self.code = _upload_code(self._s3, plan)
        splits = plan.pipeline.dataset.splits.model_dump()
        with Sync(self._s3, photographs, splits, BUCKET, plan.root, var / "facts.sqlite") as sync:
            sync.look()
            sync.send()
            return {"counts": sync.manifest.counts(), **sync.publish(anew=True)}

    def features(self, plan: Plan, dataset: dict[str, Any]) -> dict[str, Any]:
        uri = plan.uri("features", "of-the-benchmark")
        prefix = uri.partition(f"{BUCKET}/")[2]
        if not self._s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["KeyCount"]:
            manifests = {split: dataset["manifests"][split] for split in ("train", "validation")}
            request = requests.extract_features(plan, dataset, self.code, None, manifests, uri)
            name = f"features-{plan.pipeline_name}"
            self._sagemaker.create_processing_job(ProcessingJobName=name, **request)
            self._wait(self._sagemaker.describe_processing_job, "ProcessingJobStatus", ProcessingJobName=name)
        return {"uri": uri}

    def tune(self, plan: Plan, dataset: dict[str, Any], features: dict[str, Any]) -> dict[str, Any]:
        name = f"t-{plan.run_id}-{plan.pipeline.model.arch}"
        request = requests.tune(plan, dataset, features, self.code)
        self._sagemaker.create_hyper_parameter_tuning_job(HyperParameterTuningJobName=name, **request)
        describe = self._sagemaker.describe_hyper_parameter_tuning_job
        return self._wait(describe, "HyperParameterTuningJobStatus", HyperParameterTuningJobName=name)

    def retrain(
        self, plan: Plan, dataset: dict[str, Any], features: dict[str, Any], tuning: dict[str, Any], name: str
    ) -> None:
        request = requests.retrain(plan, dataset, features, self.code, {"Tuning": tuning})
        self.train(request, f"{plan.run_id}-{name}")

    def train(self, request: dict[str, Any], name: str) -> None:
        self._sagemaker.create_training_job(TrainingJobName=name, **request)
        self._wait(self._sagemaker.describe_training_job, "TrainingJobStatus", TrainingJobName=name)

    def _wait(self, describe: Callable[..., dict[str, Any]], status: str, **name: str) -> dict[str, Any]:
        while (job := describe(**name))[status] in {"InProgress", "Stopping"}:
            time.sleep(0.2)
        assert job[status] == "Completed", job.get("FailureReason")
        return job


def _upload_code(s3: Any, plan: Plan) -> dict[str, str]:
    code = source_code.read()
    key = f"{plan.root}/code/{code.hash}"
    s3.put_object(Bucket=BUCKET, Key=f"{key}/sourcedir.tar.gz", Body=code.archive())
    for path, content in code.files:
        s3.put_object(Bucket=BUCKET, Key=f"{key}/src/{path}", Body=content)
    return {"archive": f"s3://{BUCKET}/{key}/sourcedir.tar.gz", "source": f"s3://{BUCKET}/{key}/src/"}


def _cpu_seconds(cloud: Cloud) -> float:
    """Of the service and all that it has started, what has ended included: its ancestors here have waited for it."""
    service = psutil.Process(cloud.pid)
    return sum(sum(process.cpu_times()[:4]) for process in [service, *service.children(recursive=True)])
