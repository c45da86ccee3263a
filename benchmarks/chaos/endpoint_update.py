"""Five updates of an endpoint while clients ask it at a constant rate.

    make chaos NAME=endpoint-update        # about 4 minutes on 2 cores

In a local cloud of its own, with the server that the pytorch-inference image stands for and two ResNet18 trained on
scikit-learn's digits. A process of its own sends 40 images a second, each at its appointed time whether or not those
before have been answered, and notes time, error and `model_version`. Between two updates it goes on for a while: that
is the steady state. Held against what it noted:

- no request fails;
- what is sent after an update is InService is answered by its model, and by no other;
- the 99th percentile of the requests sent during the updates, from the appointed time to the answer, is at most twice
  that of the others.
"""

import http.client
import json
import multiprocessing
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import quantiles
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from scripts.bench import conditions
from scripts.local_stack import BUCKET, REPOSITORY, ROLE, Cloud, Stack, make_digits

ML = REPOSITORY / "var/venv/ml/bin/python"
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-inference:2.10.0-cpu-py313"
ENDPOINT, VARIANT = "updated", "AllTraffic"
RATE, CLIENTS = 40, 8
"""Requests a second, and how many of them at most at once."""
STEADY_S, WAIT_S = 20.0, 5
MOST_SLOWER = 2.0
ALARMS = {"errors": ("Invocation5XXErrors", "Sum", 0.0), "latency": ("ModelLatency", "Average", 5e6)}


def percent(value: int) -> dict[str, Any]:
    return {"Type": "CAPACITY_PERCENT", "Value": value}


def blue_green(kind: str, **members: Any) -> dict[str, Any]:
    routing = {"Type": kind, "WaitIntervalInSeconds": WAIT_S, **members}
    return {"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing}}


WATCHED = {"AutoRollbackConfiguration": {"Alarms": [{"AlarmName": name} for name in ALARMS]}}
UPDATES: dict[str, dict[str, Any]] = {
    "default": {},
    "all at once": blue_green("ALL_AT_ONCE"),
    "canary": {**blue_green("CANARY", CanarySize=percent(10)), **WATCHED},
    "linear": {**blue_green("LINEAR", LinearStepSize=percent(34)), **WATCHED},
    "rolling": {
        "RollingUpdatePolicy": {"MaximumBatchSize": percent(50), "WaitIntervalInSeconds": WAIT_S},
        **WATCHED,
    },
}


class Asked(NamedTuple):
    """One request, in seconds since the epoch."""

    appointed: float
    sent: float
    done: float
    version: str
    error: str


class Window(NamedTuple):
    """A time in which one thing went on."""

    name: str
    start: float
    end: float
    version: str
    """Of the model that serves afterwards."""
    load: float


def run() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archives = _train(folder)
        stack = Stack(folder / "var")
        cloud = stack.cloud(7910, 7911)
        try:
            versions = _prepare(cloud, archives)
            asked, windows = _under_load(cloud, versions)
        finally:
            stack.down()
    return _judge(asked, windows)


def _train(folder: Path) -> list[Path]:
    """Archives of two models, as training jobs leave them."""
    features, digits = folder / "features", make_digits()
    subprocess.run(
        [ML, "ml_code/features.py", "--train", digits / "train", "--validation", digits / "valid",
         "--output", features, "--image-size", "64"], cwd=REPOSITORY, check=True, stdout=sys.stderr,
    )  # fmt: skip
    archives = []
    for job in ("first", "second"):
        environment = os.environ | {
            "TRAINING_JOB_NAME": job,
            "SM_CHANNEL_TRAIN": f"{features}/train",
            "SM_CHANNEL_VALIDATION": f"{features}/validation",
            "SM_CHANNEL_TRUNK": f"{features}/trunk",
            "SM_MODEL_DIR": f"{folder}/{job}",
            "SM_OUTPUT_DATA_DIR": f"{folder}/{job}-output",
        }
        subprocess.run(
            [ML, "ml_code/train.py", "--epochs", "10"],
            cwd=REPOSITORY,
            env=environment,
            check=True,
            stdout=sys.stderr,
        )
        archives.append(folder / f"{job}.tar.gz")
        with tarfile.open(archives[-1], "w:gz", compresslevel=1) as tar:
            for item in (folder / job).iterdir():
                tar.add(item, item.name)
    return archives


def _prepare(cloud: Cloud, archives: list[Path]) -> list[str]:
    """Models, alarms and the endpoint on the first model; the models' versions."""
    versions = []
    for number, archive in enumerate(archives):
        cloud.client("s3").upload_file(str(archive), BUCKET, f"models/{number}/model.tar.gz")
        cloud.client("sagemaker").create_model(
            ModelName=f"model-{number}",
            ExecutionRoleArn=f"arn:aws:iam::000000000000:role/{ROLE}",
            PrimaryContainer={"Image": IMAGE, "ModelDataUrl": f"s3://{BUCKET}/models/{number}/model.tar.gz"},
        )
        with tarfile.open(archive) as tar:
            manifest = tar.extractfile("model.json")
            assert manifest
            versions.append(json.load(manifest)["version"])
    dimensions = [{"Name": "EndpointName", "Value": ENDPOINT}, {"Name": "VariantName", "Value": VARIANT}]
    for name, (metric, statistic, threshold) in ALARMS.items():
        cloud.client("cloudwatch").put_metric_alarm(
            AlarmName=name, Namespace="AWS/SageMaker", MetricName=metric, Dimensions=dimensions,
            Statistic=statistic, Period=10, EvaluationPeriods=1, Threshold=threshold,
            ComparisonOperator="GreaterThanThreshold", TreatMissingData="notBreaching",
        )  # fmt: skip
    cloud.client("sagemaker").create_endpoint(
        EndpointName=ENDPOINT, EndpointConfigName=_config(cloud, "config-0", 0)
    )
    _in_service(cloud)
    return versions


def _config(cloud: Cloud, name: str, model: int) -> str:
    variant = {
        "VariantName": VARIANT,
        "ModelName": f"model-{model}",
        "InitialInstanceCount": 1,
        "InstanceType": "ml.m5.large",
    }
    cloud.client("sagemaker").create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
    return name


def _in_service(cloud: Cloud) -> dict[str, Any]:
    sagemaker = cloud.client("sagemaker")
    while True:
        endpoint: dict[str, Any] = sagemaker.describe_endpoint(EndpointName=ENDPOINT)
        if endpoint["EndpointStatus"] in {"InService", "Failed", "UpdateRollbackFailed"}:
            assert endpoint["EndpointStatus"] == "InService", endpoint
            assert "FailureReason" not in endpoint, endpoint["FailureReason"]
            return endpoint
        time.sleep(0.5)


def _under_load(cloud: Cloud, versions: list[str]) -> tuple[list[Asked], list[Window]]:
    """The updates in turn, with steady times before, between and after them."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    stop = context.Event()
    images = [path.read_bytes() for path in sorted(make_digits().glob("test/*/*.jpg"))[::10]]
    client = context.Process(target=_ask, args=(cloud.sagemaker, images, stop, sender))
    client.start()
    # The first answers are of a client and a server that have just started.
    time.sleep(5)
    windows = [_steady(versions[0])]
    for number, (name, deployment) in enumerate(UPDATES.items(), 1):
        model = number % len(versions)
        start = time.time()
        cloud.client("sagemaker").update_endpoint(
            EndpointName=ENDPOINT,
            EndpointConfigName=_config(cloud, f"config-{number}", model),
            **({"DeploymentConfig": deployment} if deployment else {}),
        )
        _in_service(cloud)
        windows.append(Window(name, start, time.time(), versions[model], os.getloadavg()[0]))
        print(f"{name}: {windows[-1].end - start:.1f} s, load {windows[-1].load:.2f}", file=sys.stderr)
        windows.append(_steady(versions[model]))
    stop.set()
    asked: list[Asked] = receiver.recv()
    client.join()
    return asked, windows


def _steady(version: str) -> Window:
    start = time.time()
    time.sleep(STEADY_S)
    return Window("steady", start, time.time(), version, os.getloadavg()[0])


def _ask(url: str, images: list[bytes], stop: Event, sender: Any) -> None:
    """Send images at the rate until told to stop, then all that was noted."""
    noted: list[Asked] = []
    lock, taken, begin = threading.Lock(), [0], time.time()
    address = urlsplit(url).netloc

    def client() -> None:
        connection = http.client.HTTPConnection(address, timeout=90)
        while not stop.is_set():
            with lock:
                number, taken[0] = taken[0], taken[0] + 1
            appointed = begin + number / RATE
            time.sleep(max(0.0, appointed - time.time()))
            sent, version, error = time.time(), "", ""
            try:
                connection.request(
                    "POST", f"/endpoints/{ENDPOINT}/invocations", images[number % len(images)],
                    {"content-type": "image/jpeg"},
                )  # fmt: skip
                response = connection.getresponse()
                body = response.read()
                version = json.loads(body).get("model_version", "") if response.status == 200 else ""
                error = "" if version else f"{response.status}: {body[:300].decode(errors='replace')}"
            except (OSError, http.client.HTTPException, ValueError) as failure:
                error = repr(failure)
                connection.close()
            noted.append(Asked(appointed, sent, time.time(), version, error))
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sender.send(noted)


def _judge(asked: list[Asked], windows: list[Window]) -> dict[str, Any]:
    failed = [one for one in asked if one.error]
    for one in failed[:10]:
        print(one.error, file=sys.stderr)
    seconds: dict[str, list[float]] = {"steady": [], "updates": []}
    p99 = {}
    retired = 0
    for number, window in enumerate(windows):
        inside = [one for one in asked if window.start <= one.appointed < window.end]
        latencies = [one.done - one.appointed for one in inside]
        seconds["steady" if window.name == "steady" else "updates"] += latencies
        p99[f"{number} {window.name}"] = round(1000 * _p99(latencies), 1)
        if window.name == "steady":
            retired += sum(
                one.version != window.version for one in inside if one.sent >= window.start and not one.error
            )
    steady, updates = _p99(seconds["steady"]), _p99(seconds["updates"])
    figures = {
        "updates": sum(window.name != "steady" for window in windows),
        "requests": len(asked),
        "failed": len(failed),
        "of_a_retired_version": retired,
        "p50_ms": {name: round(1000 * quantiles(values)[1], 1) for name, values in seconds.items()},
        "p99_ms": {"steady": round(1000 * steady, 1), "updates": round(1000 * updates, 1)},
        "p99_ratio": round(updates / steady, 2),
        "p99_ms_of_each": p99,
        "seconds_of_each": {
            window.name: round(window.end - window.start, 1) for window in windows if window.name != "steady"
        },
    }
    return {
        "figures": figures,
        "conditions": conditions(
            "boto3",
            rate=RATE,
            steady_s=STEADY_S,
            wait_s=WAIT_S,
            load_of_each=[round(window.load, 2) for window in windows],
        ),
        "ok": not failed and not retired and updates <= MOST_SLOWER * steady,
    }


def _p99(values: list[float]) -> float:
    return quantiles(values, n=100)[98]
