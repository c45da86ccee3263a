"""100 DAG runs at once on 8 worker slots: slots, memory, database connections, time.

    make bench NAME=concurrent-runs
    RUNS=10 DATABASE=sqlite make bench NAME=concurrent-runs

About 35 minutes on 2 cores, 6 with 10 runs. In a stack of its own as many pipelines as runs, each with an endpoint of
its own: 90 of scikit-learn's digits, a random ResNet18 at 32 pixels, 1 trial of 2 epochs, debugger, profiler and
report as by default, without explanations. Every tenth deploys what it has trained; the others end at `hold`, because
each endpoint is a process with torch in it. Everything that waits is deferred
(AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE). Airflow's database is a PostgreSQL server of the benchmark's own where this
machine has its binaries, SQLite otherwise. Looked at every second: task instances that hold a slot, and those that wait
without one.

Then a few of these runs both ways, each in a stack of its own: deferred, and with tasks that hold their slots while
they wait. What grows with the length of the jobs is the second figure alone.
"""

import os
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.servers import postgres
from benchmarks.servers.airflow import LOOK_S, Airflow, Load, few_digits, make_pipelines, short_pipeline
from scripts.bench import conditions
from scripts.local_stack import Cloud, Stack

RUNS, COMPARED = int(os.environ.get("RUNS", "100")), 4
DATABASE = os.environ.get("DATABASE") or ("postgresql" if postgres.binaries() else "sqlite")
SLOTS, MOST_GIB, LIMIT_S = 8, 20, 5400
EVERY = 10
# SageMaker's jobs that one run makes; two training jobs, of which the trial is one.
JOBS = {"processing": 2, "hyper_parameter_tuning": 1, "training": 2}
SETTINGS = {
    "AIRFLOW__CORE__PARALLELISM": str(SLOTS),
    # Airflow's default; a busy machine is late.
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "300",
    # All pipelines are read each time, a third of a second of processor time for each; nobody changes them.
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "600",
    "AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": "600",
    "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "300",
}


def run() -> dict[str, Any]:
    load, jobs = _measure(RUNS, deferrable=True)
    say(f"{RUNS} runs: {_figures(load)}, jobs {jobs}")
    few = min(COMPARED, RUNS)
    ways = {}
    for name, deferrable in (("deferred", True), ("holding", False)):
        ways[name], _ = _measure(few, deferrable=deferrable)
        say(f"{few} runs, {name}: {_figures(ways[name])}")
    seconds = {name: sum(of.running) * LOOK_S / few for name, of in ways.items()}
    once = all(jobs[kind] == count * RUNS for kind, count in JOBS.items())
    return {
        "figures": {
            **_figures(load),
            "memory_mib": dict(load.memory_mib),
            "jobs": dict(jobs),
            "slot_seconds_of_a_run": {name: round(value, 1) for name, value in seconds.items()},
            "slot_seconds_ratio": round(seconds["holding"] / seconds["deferred"], 1),
        },
        "conditions": conditions(
            "apache-airflow", runs=RUNS, compared_runs=few, slots=SLOTS, database=DATABASE
        ),
        "ok": load.runs == {"success": RUNS}
        and load.runs_at_once == RUNS
        and max(load.running) <= SLOTS
        and once
        and load.memory_of_all_mib <= MOST_GIB * 1024,
    }


def _measure(count: int, *, deferrable: bool) -> tuple[Load, Counter[str]]:
    """What `count` runs at once took, and the jobs that they made."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = few_digits(folder / "digits", {"train": 5, "valid": 2, "test": 2})
        pipelines = {
            f"p{number:03d}": short_pipeline(
                dataset, gate={"minimum_accuracy": 0 if number % EVERY == 0 else 1}
            )
            for number in range(count)
        }
        make_pipelines(folder / "dags", pipelines)
        stack = Stack(folder / "var", folder / "dags")
        settings = {**SETTINGS, "AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE": str(deferrable)}
        with ExitStack() as ends:
            if DATABASE == "postgresql":
                settings |= ends.enter_context(postgres.serve(folder / "postgres")).settings
            ends.callback(stack.down)
            airflow = Airflow(stack, settings)
            airflow.start(count)
            load = airflow.run([f"retrain_{pipeline}" for pipeline in pipelines], LIMIT_S)
            return load, _jobs(stack.cloud())


def _jobs(cloud: Cloud) -> Counter[str]:
    """How many there are of each kind."""
    client = cloud.client("sagemaker")
    return Counter(
        {
            kind: sum(
                len(summaries)
                for page in client.get_paginator(f"list_{kind}_jobs").paginate()
                for name, summaries in page.items()
                if name.endswith("Summaries")
            )
            for kind in JOBS
        }
    )


def _figures(load: Load) -> dict[str, Any]:
    return {
        "runs": dict(load.runs),
        "runs_at_once": load.runs_at_once,
        "slots_peak": max(load.running),
        "slots_mean": round(mean(load.running), 2),
        "waiting_without_a_slot_peak": max(load.waiting),
        "wall_seconds": round(load.seconds),
        "memory_of_all_mib": round(load.memory_of_all_mib),
        "database_connections_peak": load.connections,
    }


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
