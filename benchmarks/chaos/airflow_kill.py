"""kill -9 of Airflow's processes while a training job runs: one job, and the run succeeds without a human.

    make chaos NAME=airflow-kill

About 5 minutes on 2 cores. In a stack of its own (folder and ports), one run of the digits for each victim: the
task's process; the scheduler with its workers, started again 5 s later as a service manager would. Each is killed
while the retraining job runs.
"""

import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from scripts import stack as verbs
from scripts.airflow_rest import Run, trigger
from scripts.bench import conditions
from scripts.local_stack import Stack, airflow_command, wait_for

DAG = "retrain_digits"
LIMIT_SECONDS = 90


def run() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder) / "var")
        verbs.up(stack)
        try:
            figures = {name: _attack(stack, name, kill) for name, kill in VICTIMS.items()}
        finally:
            stack.down()
    good = all(
        result["state"] == "success"
        and result["training_jobs"] == 1
        and result["recovery_seconds"] <= LIMIT_SECONDS
        for result in figures.values()
    )
    return {"figures": figures, "conditions": conditions("apache-airflow"), "ok": good}


def _attack(stack: Stack, name: str, kill: Callable[[Run], None]) -> dict[str, Any]:
    print(f"killing the {name}", file=sys.stderr, flush=True)
    before = set(_retrainings(stack))
    run = trigger(stack, DAG, {"max_jobs": 2, "epochs_min": 120, "epochs_max": 120, "batch_size": [32]})
    wait_for(
        "the retraining",
        lambda: any(_retrainings(stack)[job] for job in set(_retrainings(stack)) - before),
        240,
    )
    kill(run)
    killed = time.monotonic()
    wait_for("the next try", lambda: run.task("retrain")["try_number"] == 2, 400)
    wait_for("the adoption", lambda: run.task("retrain")["state"] in {"running", "success"}, 400)
    recovered = time.monotonic() - killed
    state = run.wait(400)
    print(f"  the run ended {state}, the next try began after {recovered:.0f} s", file=sys.stderr, flush=True)
    return {
        "state": state,
        "training_jobs": len(set(_retrainings(stack)) - before),
        "recovery_seconds": round(recovered, 1),
    }


def _kill_task(run: Run) -> None:
    process = run.process("retrain")
    assert process, "the task's process is not there"
    process.kill()


def _kill_scheduler(run: Run) -> None:
    url = run.url
    for process in run.stack.processes():
        with suppress(psutil.Error):
            title = " ".join(process.cmdline())
            if "scheduler" in title or "airflow worker" in title or "airflow supervisor" in title:
                process.send_signal(signal.SIGKILL)
    time.sleep(5)
    environment = run.stack.airflow_environment(run.stack.cloud(), int(url.rpartition(":")[2]))
    run.stack.start("scheduler", [*airflow_command(), "scheduler", "--skip-serve-logs"], environment)


def _retrainings(stack: Stack) -> dict[str, bool]:
    """Name → whether it runs, of every retraining job."""
    jobs = (
        stack.cloud()
        .client("sagemaker")
        .list_training_jobs(NameContains="digits-retrain")["TrainingJobSummaries"]
    )
    return {job["TrainingJobName"]: job["TrainingJobStatus"] == "InProgress" for job in jobs}


VICTIMS: dict[str, Callable[[Run], None]] = {"task": _kill_task, "scheduler": _kill_scheduler}
