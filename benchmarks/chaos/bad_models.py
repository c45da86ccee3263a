"""Bad models pushed through the DAG's deployment under constant load, each rolled back by a canary's alarms.

    make chaos NAME=bad-models

About 6 minutes on 2 cores. In a local cloud of its own an endpoint serves a good model while a client asks it without
pause. The DAG's own tasks deploy.model, deploy.endpoint_config, deploy.endpoint and verify then deploy, with a canary
of 10 %: a better model, which is rolled back by hand, once when it serves and once while its canary is watched; and
models that raise on load or at each request, have or answer NaN, take ten times as long, have another number of
classes, lack a file, have other bytes than their manifest says, and are killed while loading.

Held against the issue's bounds: within 30 s of the fault's first sign (the first request that met it; of a model that
does not load, the update's begin) the endpoint is in service as before, the task failed with the reason, and no more
than the canary's share of the update's requests were touched: answered wrongly, not at all, or by the bad model.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import httpx

from scripts.bench import conditions
from scripts.local_stack import BUCKET, REPOSITORY, ROLE, Cloud, Stack, make_digits

SHARE_PERCENT, LIMIT_S, BY_HAND_LIMIT_S = 10, 30.0, 10.0
CLIENTS, PAUSE_S = 3, 0.1
# So many times the good model's time are too long.
TOO_SLOW, SLOWER = 8, 10
# What the failed task's sentence must say of each.
REASONS = {
    "raises": "this model cannot be loaded",
    "raises-later": "Invocation5XXErrors",
    "nan": "not finite",
    "nan-later": "InvalidAnswers",
    "slow": "ModelLatency",
    "classes": "InvalidAnswers",
    "missing": "holds no model.safetensors",
    "hash": "sha256",
    "killed": "ended before it answered",
}
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-inference:2.6.0-cpu-py312"
ENDPOINT = "evergreen-digits"


@dataclass(frozen=True)
class Asked:
    """One request of the client."""

    sent: float
    seconds: float
    status: int
    version: str | None


class Load:
    """Clients that ask the endpoint one image after the other."""

    def __init__(self, cloud: Cloud, image: bytes) -> None:
        self.requests: list[Asked] = []
        self._url = f"{cloud.sagemaker}/endpoints/{ENDPOINT}/invocations"
        self._image = image
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def since(self, moment: float, until: float = float("inf")) -> list[Asked]:
        return [asked for asked in self.requests if moment <= asked.sent <= until]

    def _ask(self) -> None:
        with httpx.Client(timeout=70) as client:
            while not self._ending.wait(PAUSE_S):
                sent = time.time()
                answer = client.post(self._url, content=self._image, headers={"content-type": "image/jpeg"})
                version = answer.json().get("model_version") if answer.status_code == 200 else None
                self.requests.append(Asked(sent, time.time() - sent, answer.status_code, version))


class Watcher:
    """Notes when the endpoint changes its state."""

    def __init__(self, sagemaker: Any) -> None:
        self.states: list[tuple[float, str, str]] = []
        self._sagemaker = sagemaker
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def end(self) -> None:
        self._ending.set()
        self._thread.join()

    def update(self, since: float, until: float) -> tuple[float, float]:
        """When the first update within a time began, and when the endpoint was in service again.

        The whole time, for one that was over between two looks.
        """
        states = [(at, status) for at, status, _ in self.states if since <= at <= until]
        began = next((at for at, status in states if status != "InService"), since)
        return began, next((at for at, status in states if at > began and status == "InService"), until)

    def _look(self) -> None:
        while not self._ending.wait(0.1):
            endpoint = self._sagemaker.describe_endpoint(EndpointName=ENDPOINT)
            state = endpoint["EndpointStatus"], endpoint["EndpointConfigName"]
            if not self.states or self.states[-1][1:] != state:
                self.states.append((time.time(), *state))


class Deployer:
    """The DAG's tasks from deploy.model to verify, run in this process."""

    def __init__(self, cloud: Cloud, versions: dict[str, str]) -> None:
        from airflow.dag_processing.dagbag import DagBag

        self._dag = DagBag(dag_folder=REPOSITORY / "dags", bundle_name="chaos").dags["retrain_digits"]
        self._role = cloud.client("iam").get_role(RoleName=ROLE)["Role"]["Arn"]
        self._versions = versions

    def deploy(self, name: str, latency_ms: float) -> None:
        """Raises what the task does that fails."""
        from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook

        from evergreen import endpoints

        plan = self._plan(latency_ms)
        returned: dict[str, Any] = {
            "plan": plan.to_xcom(),
            "retrain": {"Training": {"ModelArtifacts": {"S3ModelArtifacts": archive_uri(name)}}},
            "assess": {
                "uri": f"{run_uri(name)}/assess",
                "model_version": self._versions[name],
                "champion": endpoints.champion(SageMakerHook(aws_conn_id="aws_default"), ENDPOINT),
            },
        }
        context = {"ti": SimpleNamespace(xcom_pull=lambda task_ids: returned[task_ids])}
        for task_id in ("deploy.model", "deploy.endpoint_config", "deploy.endpoint", "verify"):
            returned[task_id] = self._dag.get_task(task_id).execute(context)

    def _plan(self, latency_ms: float) -> Any:
        from evergreen.plan import Plan
        from evergreen.settings import validate

        deployment = {
            "policy": "canary",
            "canary_size": {"value": SHARE_PERCENT},
            "wait_interval_in_seconds": 25,
            "alarms": {"model_latency_ms": latency_ms},
        }
        return Plan(
            dag_id="retrain_digits", run_id="chaos", run_type="manual", started_at="", pipeline_name="digits",
            pipeline=validate({"dataset": {"source": "x"}, "deployment": deployment}, "digits.yaml"), bucket=BUCKET,
            role=self._role, training_image="none", inference_image=IMAGE, local=True,
        )  # fmt: skip


def run() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stack = Stack(folder / "var")
        try:
            return _attack(stack, folder)
        finally:
            stack.down()


def _attack(stack: Stack, folder: Path) -> dict[str, Any]:
    digits, cloud = make_digits(), stack.cloud()
    # Airflow reads its environment when it is imported.
    os.environ |= {**stack.airflow_environment(cloud), "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR"}
    versions = make_models(folder / "models", digits)
    upload(cloud, folder / "models")
    deployer = Deployer(cloud, versions)
    deployer.deploy("good", 1000)
    image = next((digits / "test/7").iterdir()).read_bytes()
    with loaded(cloud, image) as (load, watcher):
        time.sleep(5)
        steady = median(asked.seconds for asked in load.requests)
        say(f"the good model answers in {1000 * steady:.0f} ms")
        latency_ms = 1000 * TOO_SLOW * steady
        good = cloud.client("sagemaker").describe_endpoint(EndpointName=ENDPOINT)["EndpointConfigName"]
        by_hand, wrong = _better(deployer, load, watcher, latency_ms, versions, good)
        ended_by_hand, more = _ended(deployer, load, latency_ms, good)
        wrong += more
        figures = {}
        for fault in REASONS:
            figures[fault], more = _bad(deployer, load, watcher, fault, latency_ms, versions, good)
            wrong += more
        slow = [asked.seconds for asked in load.requests if asked.version == versions["slow"]]
    if not slow or median(slow) < SLOWER * steady:
        wrong.append(f"the slow model was not {SLOWER} times slower")
    for sentence in wrong:
        say(f"WRONG: {sentence}")
    return {
        "figures": {
            "good_ms": round(1000 * steady),
            "slow_ms": round(1000 * median(slow)) if slow else None,
            "requests": len(load.requests),
            "by_hand_seconds": by_hand,
            "update_ended_by_hand_seconds": ended_by_hand,
            "faults": figures,
        },
        "conditions": conditions("apache-airflow", canary_percent=SHARE_PERCENT),
        "ok": not wrong,
    }


def _better(
    deployer: Deployer, load: Load, watcher: Watcher, latency_ms: float, versions: dict[str, str], good: str
) -> tuple[float, list[str]]:
    """A model without a fault is deployed, and rolled back by hand; seconds of that, and what was wrong."""
    from evergreen import rollback

    began = time.time()
    deployer.deploy("better", latency_ms)
    deployed = time.time()
    time.sleep(1)
    before = time.time()
    sentence = rollback.roll_back("aws_default", ENDPOINT)
    # The good model's server has to start, which is its own matter.
    began_back, ended_back = watcher.update(before, time.time())
    starting = ended_back - began_back
    seconds = time.time() - before - starting
    say(
        f"better: deployed after {deployed - began:.0f} s; by hand after {seconds:.1f} s and {starting:.1f} s for the "
        f"endpoint's update: {sentence}"
    )
    wrong = [f"{asked} during a good update" for asked in load.since(began) if asked.status != 200]
    if {asked.version for asked in load.since(deployed, before)} != {versions["better"]}:
        wrong.append("the better model was deployed and does not answer")
    if not sentence.startswith(f"{good} serves again") or seconds > BY_HAND_LIMIT_S:
        wrong.append(f"by hand: {sentence} ({seconds:.1f} s)")
    return round(seconds, 1), wrong


def _ended(deployer: Deployer, load: Load, latency_ms: float, good: str) -> tuple[float, list[str]]:
    """An update of a model without a fault is ended by hand while its canary is watched; seconds of that."""
    from evergreen import rollback

    began, failed = time.time(), []

    def deploy() -> None:
        try:
            deployer.deploy("better", latency_ms)
        except Exception as error:
            failed.append(str(error))

    thread = threading.Thread(target=deploy)
    thread.start()
    while len({asked.version for asked in load.since(began)}) < 2:
        time.sleep(0.1)
    before = time.time()
    sentence = rollback.roll_back("aws_default", ENDPOINT)
    seconds = time.time() - before
    thread.join()
    say(f"ended by hand after {seconds:.1f} s: {sentence}")
    wrong = [f"{asked} during an ended update" for asked in load.since(began) if asked.status != 200]
    if not sentence.endswith(f"was ended: {good} serves") or seconds > BY_HAND_LIMIT_S:
        wrong.append(f"ended by hand: {sentence} ({seconds:.1f} s)")
    if not failed or "Rolled back by hand" not in failed[0]:
        wrong.append(f"the task of the ended update says {failed}")
    return round(seconds, 1), wrong


def _bad(
    deployer: Deployer,
    load: Load,
    watcher: Watcher,
    fault: str,
    latency_ms: float,
    versions: dict[str, str],
    good: str,
) -> tuple[dict[str, Any], list[str]]:
    from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
    from airflow.providers.common.compat.sdk import AirflowException

    from evergreen import endpoints

    started = time.time()
    reason = ""
    try:
        deployer.deploy(fault, latency_ms)
    except AirflowException as error:
        reason = str(error)
    ended = time.time()
    time.sleep(2)
    began, settled = watcher.update(started, ended)
    during = load.since(began, settled)
    touched = [asked for asked in during if asked.status != 200 or asked.version != versions["good"]]
    shown = min((asked.sent for asked in touched), default=began)
    after = {(asked.status, asked.version) for asked in load.since(ended)}
    figures = {
        "shown_after_seconds": round(shown - began, 1),
        "rolled_back_after_seconds": round(settled - shown, 1),
        "requests": len(during),
        "touched": len(touched),
        "task": reason,
    }
    say(f"{fault}: {json.dumps(figures)}")
    wrong = []
    if REASONS[fault] not in reason:
        wrong.append(f"{fault}: the task does not say why: {reason or 'it succeeded'}")
    if settled - shown > LIMIT_S:
        wrong.append(f"{fault}: rolled back {settled - shown:.0f} s after it showed")
    if 100 * len(touched) > SHARE_PERCENT * len(during):
        wrong.append(f"{fault}: {len(touched)} of {len(during)} requests were touched")
    if watcher.states[-1][2] != good:
        # So that the next fault is planted beside the good model.
        endpoints.restore(SageMakerHook(aws_conn_id="aws_default"), ENDPOINT, good)
        wrong.append(f"{fault}: it was not rolled back")
    if after != {(200, versions["good"])}:
        wrong.append(f"{fault}: afterwards it answers {after}")
    return figures, wrong


@contextmanager
def loaded(cloud: Cloud, image: bytes) -> Generator[tuple[Load, Watcher]]:
    load, watcher = Load(cloud, image), Watcher(cloud.client("sagemaker"))
    try:
        yield load, watcher
    finally:
        load.end()
        watcher.end()


def make_models(folder: Path, digits: Path) -> dict[str, str]:
    """Name → the version that the model's answers say."""
    done = subprocess.run(
        [REPOSITORY / "var/venv/ml/bin/python", "-m", "benchmarks.ml.bad_models", folder, digits],
        cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": ".:ml_code"}, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    versions: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return versions


def run_uri(name: str) -> str:
    return f"s3://{BUCKET}/evergreen/digits/runs/{name}"


def archive_uri(name: str) -> str:
    return f"{run_uri(name)}/jobs/{name}/output/model.tar.gz"


def upload(cloud: Cloud, folder: Path) -> None:
    s3 = cloud.client("s3")
    for model in folder.iterdir():
        for file in (path for path in model.rglob("*") if path.is_file()):
            uri = (
                archive_uri(model.name)
                if file.suffix == ".gz"
                else f"{run_uri(model.name)}/{file.relative_to(model)}"
            )
            s3.upload_file(str(file), BUCKET, uri.removeprefix(f"s3://{BUCKET}/"))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
