"""docker-compose.yaml from nothing, and kill -9 of each of its containers while a SageMaker job runs.

    make chaos NAME=compose                 # on an engine that reaches a registry
    make chaos NAME=compose STAND_INS=1     # on one that does not: stand_ins/
    make chaos NAME=compose VICTIMS="redis postgres"    # some of them

A stack of its own (project, volumes, ports) is built and started, runs the digits once undisturbed, and then once for
each container: its main process is killed while a job is under way, nobody does anything about it, the run succeeds,
and each SageMaker job was started exactly once. The engine starts the container again, as it does when a process runs
out of memory or crashes. `docker kill` would not do: an engine takes it for the wish of a person and lets the container
be. So it takes root on the engine's own machine. About 40 minutes on 2 cores, and 15 GB of disk for the images.
"""

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.chaos.stand_ins import build as stand_ins
from scripts import env_file
from scripts.airflow_rest import Run
from scripts.bench import conditions
from scripts.local_stack import REPOSITORY, Cloud, Stack, free_port, read_json, wait_for

DAG = "retrain_digits"
PROJECT = "evergreen-chaos"
# Whatever a run does that was disturbed, it is to be over by then.
LIMIT_SECONDS = 900
# The retraining lasts long enough to be killed in, and computes its features anew: nothing is found.
CONF = {"max_jobs": 2, "epochs_min": 60, "epochs_max": 60, "batch_size": [32]}
EXPECTED = {"tune": 1, "retrain": 1, "assess": 1}
VICTIMS = os.environ.get(
    "VICTIMS",
    "airflow-worker local-sagemaker postgres redis airflow-triggerer airflow-apiserver airflow-scheduler "
    "airflow-dag-processor",
).split()


class Compose:
    """The stack of docker-compose.yaml as a project of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {
            name: free_port(0) for name in ("AIRFLOW_PORT", "LOCAL_SAGEMAKER_PORT", "LOCAL_AWS_PORT")
        }
        env_file.write(folder / ".env")
        with (folder / ".env").open("a") as file:
            file.writelines(f"{name}={value}\n" for name, value in self.ports.items())
        self.secrets = dict(
            line.split("=", 1) for line in (folder / ".env").read_text().splitlines() if line[:1].isupper()
        )
        self.url = f"http://127.0.0.1:{self.ports['AIRFLOW_PORT']}"
        self.cloud = Cloud(
            f"http://127.0.0.1:{self.ports['LOCAL_SAGEMAKER_PORT']}",
            f"http://127.0.0.1:{self.ports['LOCAL_AWS_PORT']}",
            "", 0,
        )  # fmt: skip
        self.sagemaker = self.cloud.client("sagemaker")

    def __call__(self, *arguments: str) -> str:
        files = [REPOSITORY / "docker-compose.yaml", *stand_ins.override()]
        command = [
            "docker", "compose", "--project-name", PROJECT, "--project-directory", REPOSITORY,
            "--env-file", self.folder / ".env", *(part for file in files for part in ("--file", file)), *arguments,
        ]  # fmt: skip
        return _run([str(part) for part in command])

    def up(self) -> None:
        self("up", "--detach", "--wait")

    def down(self) -> None:
        self("down", "--volumes", "--timeout", "10")

    def container(self, service: str) -> dict[str, Any]:
        """What the engine says of a service's only container."""
        name = self("ps", "--all", "--quiet", service).strip()
        described: dict[str, Any] = json.loads(_run(["docker", "inspect", name]))[0]
        return described

    def main_process(self, service: str) -> int:
        """Its id on the engine's machine; all others of the container end with it."""
        return int(self.container(service)["State"]["Pid"])

    def is_back(self, service: str, killed: int) -> bool:
        state = self.container(service)["State"]
        return state["Pid"] not in {0, killed} and state["Health"]["Status"] == "healthy"

    def trigger(self) -> Run:
        login = {"username": "admin", "password": self.secrets["WEB_UI_PASSWORD"]}
        token = read_json(f"{self.url}/auth/token", body=login)["access_token"]
        body = {"logical_date": None, "conf": CONF}
        run_id = read_json(f"{self.url}/api/v2/dags/{DAG}/dagRuns", token, body)["dag_run_id"]
        return Run(Stack(self.folder), self.url, token, DAG, str(run_id))

    def jobs(self, since: datetime) -> list[dict[str, Any]]:
        """Name, status and creation of every job that SageMaker was asked for since then."""
        found = []
        for kind in ("TrainingJob", "ProcessingJob", "HyperParameterTuningJob"):
            list_jobs = getattr(self.sagemaker, {
                "TrainingJob": "list_training_jobs", "ProcessingJob": "list_processing_jobs",
                "HyperParameterTuningJob": "list_hyper_parameter_tuning_jobs",
            }[kind])  # fmt: skip
            for job in list_jobs(CreationTimeAfter=since, MaxResults=100)[f"{kind}Summaries"]:
                found.append({"kind": kind, "name": job[f"{kind}Name"], "status": job[f"{kind}Status"]})
        return found

    def memory_mb(self) -> dict[str, float]:
        """Of each container, as the engine counts it."""
        lines = _run(["docker", "stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}"]).splitlines()
        units = {"KiB": 1 / 1024, "MiB": 1.0, "GiB": 1024.0}
        found = {}
        for name, number, unit in re.findall(
            rf"^{PROJECT}-(\S+)-\d+ ([0-9.]+)(KiB|MiB|GiB)", "\n".join(lines), re.M
        ):
            found[name] = round(float(number) * units[unit], 1)
        return found


def run() -> dict[str, Any]:
    if os.geteuid():
        sys.exit("error: killing the main processes of containers takes root on the engine's machine")
    with tempfile.TemporaryDirectory() as folder:
        stack = Compose(Path(folder))
        stand_ins.build()
        _say("building the images")
        stack("build")
        stack.down()
        try:
            started = time.monotonic()
            stack.up()
            up = time.monotonic() - started
            _say(f"healthy after {up:.0f} s")
            runs = {"nothing": _attack(stack, None)} | {victim: _attack(stack, victim) for victim in VICTIMS}
        finally:
            stack.down()
    return {
        "figures": {
            "seconds_until_healthy": round(up, 1),
            "memory_mb": max(sum(run["memory_mb"].values()) for run in runs.values()),
            "median_seconds_until_back": statistics.median(
                run["seconds_until_back"] for run in runs.values() if "seconds_until_back" in run
            ),
            "runs": runs,
        },
        "conditions": conditions("apache-airflow", stand_ins=bool(stand_ins.override())),
        "ok": all(run["state"] == "success" and run["jobs_started_once"] for run in runs.values()),
    }


def _attack(stack: Compose, victim: str | None) -> dict[str, Any]:
    _say(f"a run in which {victim or 'nothing'} is killed")
    since, started = datetime.now(UTC), time.monotonic()
    run = stack.trigger()
    result: dict[str, Any] = {}
    killed = started
    if victim:
        process = stack.main_process(victim)
        _wait_for_retraining(stack, since)
        # The worker is killed in the moment in which it has started the job and has not told anybody of it yet.
        if victim != "airflow-worker":
            time.sleep(3)
        os.kill(process, signal.SIGKILL)
        killed = time.monotonic()
        wait_for(f"{victim} coming back", lambda: stack.is_back(victim, process), LIMIT_SECONDS)
        result["seconds_until_back"] = round(time.monotonic() - killed, 1)
    state, next_try = _wait(run)
    if victim and next_try:
        result["seconds_until_next_try"] = round(next_try - killed, 1)
    jobs = stack.jobs(since)
    started_jobs = _count(jobs)
    trials = started_jobs.pop("trial", 0)
    result |= {
        "state": state,
        "seconds": round(time.monotonic() - started, 1),
        "retrain_tries": run.task("retrain")["try_number"],
        "jobs": started_jobs | {"trial": trials},
        "jobs_started_once": all(started_jobs[task] == count for task, count in EXPECTED.items())
        and max(started_jobs.values()) == 1 and trials == CONF["max_jobs"],
        "not_completed": {job["name"]: job["status"] for job in jobs if job["status"] != "Completed"},
        "memory_mb": stack.memory_mb(),
        "workers": sorted({str(run.task(task)["hostname"]) for task in ("plan", "retrain", "verify")}),
    }  # fmt: skip
    _say(f"  {json.dumps(result)}")
    return result


def _wait_for_retraining(stack: Compose, since: datetime) -> None:
    """Until the retraining job is there: noticed within some hundredths of a second.

    :raises TimeoutError: when it is not there in time.
    """
    deadline = time.monotonic() + LIMIT_SECONDS
    while not stack.sagemaker.list_training_jobs(CreationTimeAfter=since, NameContains="-retrain-")[
        "TrainingJobSummaries"
    ]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"there is no retraining job after {LIMIT_SECONDS} s")
        time.sleep(0.02)


def _count(jobs: list[dict[str, Any]]) -> Counter[str]:
    """How many jobs of each task; a tuning job's own trainings are its trials."""
    counted: Counter[str] = Counter()
    tuning = [job["name"] for job in jobs if job["kind"] == "HyperParameterTuningJob"]
    for job in jobs:
        is_trial = job["kind"] == "TrainingJob" and job["name"].startswith(
            tuple(f"{name}-" for name in tuning)
        )
        found = re.search(r"-(tune|retrain|assess|extract-features|batch-predict)-", job["name"])
        counted["trial" if is_trial else found[1] if found else job["name"]] += 1
    return counted


def _wait(run: Run) -> tuple[str, float | None]:
    """The state in which the run ends, and when the retraining's second try began, if there was one.

    The API server may be away for a while.
    """
    deadline = time.monotonic() + LIMIT_SECONDS
    state, next_try = "unknown", None
    while state not in {"success", "failed"} and time.monotonic() < deadline:
        with suppress(OSError):
            state = run.state
            task = run.task("retrain")
            if task["try_number"] > 1 and task["state"] in {"running", "deferred"}:
                next_try = next_try or time.monotonic()
        time.sleep(1)
    return state, next_try


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
