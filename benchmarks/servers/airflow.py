"""Airflow and the local cloud as the benchmarks start them: many pipelines, and what their runs take of the machine."""

import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import yaml
from sqlalchemy import Engine, create_engine, text

from scripts.airflow_rest import trigger
from scripts.local_stack import REPOSITORY, Stack, free_port, make_digits, read_json, wait_for

# What is in a process's command line or title; the first that is found.
KINDS = {
    "ministack": "S3 and logs",
    "local_sagemaker/processes": "jobs and endpoints",
    "local_sagemaker": "local cloud",
    "scheduler": "Airflow scheduler",
    "api-server": "Airflow API server",
    "api_server": "Airflow API server",
    "dag-processor": "Airflow DAG processor",
    "triggerer": "Airflow triggerer",
    "airflow": "Airflow workers and tasks",
}
OTHER = "jobs and endpoints"
WAITS, ENDED = ("deferred", "awaiting_input", "up_for_retry"), ("success", "failed")
DATABASE = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
TASKS = "SELECT state, count(*) FROM task_instance GROUP BY state"
DAG_RUNS = "SELECT state, count(*) FROM dag_run GROUP BY state"
LOOK_S, MEMORY_S, SAY_S = 1, 15, 30
MIB = 1 << 20


def few_digits(folder: Path, of_each_class: dict[str, int]) -> Path:
    """So many of scikit-learn's digits, by split."""
    for split, count in of_each_class.items():
        for digit in sorted((make_digits() / split).iterdir()):
            target = folder / split / digit.name
            target.mkdir(parents=True)
            for image in sorted(digit.iterdir())[:count]:
                shutil.copy(image, target)
    return folder


def short_pipeline(dataset: Path, **more: Any) -> dict[str, Any]:
    """A pipeline file whose jobs take seconds: a random ResNet18 at 32 pixels, 1 trial of 2 epochs."""
    return {
        "dataset": {"source": str(dataset)},
        "model": {"weights": "none", "image_size": 32, "flip": False},
        "tuning": {
            "batch_size": [16],
            "epochs": {"min": 2, "max": 2},
            "max_jobs": 1,
            "max_parallel_jobs": 1,
        },
        "assess": {"explanations": "none"},
        "deployment": {"policy": "all_at_once", "wait_interval_in_seconds": 0},
        **more,
    }


def make_pipelines(dags: Path, documents: dict[str, dict[str, Any]]) -> None:
    """A DAG folder with the retraining DAG for each of these pipeline files."""
    (dags / "pipelines").mkdir(parents=True)
    for name in ("retrain.py", "prices.yaml"):
        shutil.copy(REPOSITORY / "dags" / name, dags / name)
    for name, document in documents.items():
        (dags / "pipelines" / f"{name}.yaml").write_text(yaml.safe_dump(document))


@dataclass
class Load:
    """What was seen of a stack while its runs went on."""

    running: list[int] = field(default_factory=list)
    """Task instances that held a worker slot, at each look."""
    waiting: list[int] = field(default_factory=list)
    """Task instances that waited without one."""
    runs: Counter[str] = field(default_factory=Counter)
    """By state, at the end."""
    runs_at_once: int = 0
    memory_mib: Counter[str] = field(default_factory=Counter)
    """The most, by kind of process; pages that several have count once."""
    memory_of_all_mib: float = 0
    connections: int = 0
    """With the database, the most; of SQLite, open handles of its file."""
    seconds: float = 0


class Airflow:
    """A stack with `settings` over its own, whose runs are triggered at once and looked at until they have ended."""

    def __init__(self, stack: Stack, settings: dict[str, str]) -> None:
        self._stack = stack
        # Who finds SQLite locked waits.
        file = {DATABASE: f"sqlite:///{stack.airflow_home}/airflow.db?timeout=120"}
        self._environment = stack.airflow_environment(stack.cloud(), free_port(8080)) | file | settings
        self._memory: Counter[str] = Counter()

    def start(self, dags: int) -> None:
        """:raises StackError: when Airflow, or as many DAGs, are not there in time."""
        stack, url = self._stack, self._environment["AIRFLOW__API__BASE_URL"]
        stack.migrate(self._environment)
        stack.start_airflow(self._environment)
        (stack.run / "ui.json").write_text(json.dumps({"url": url}))
        wait_for("Airflow's answer", lambda: stack.ui() is not None, 300)
        wait_for(
            "the DAG processor reading the DAGs",
            lambda: self.ask("/dags?limit=1")["total_entries"] == dags,
            600,
        )

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """What the REST API answers; to POST when there is a body."""
        url = self._environment["AIRFLOW__API__BASE_URL"]
        return read_json(f"{url}/api/v2{path}", self._token, body)

    @cached_property
    def _token(self) -> str:
        return self._stack.token(self._environment["AIRFLOW__API__BASE_URL"])

    def run(self, dag_ids: Sequence[str], limit_s: float) -> Load:
        """Trigger all; what was seen until the last has ended, or the limit."""
        load, began = Load(), time.monotonic()
        for dag_id in dag_ids:
            trigger(self._stack, dag_id, {})
        measured = said = began - SAY_S
        engine = create_engine(self._environment[DATABASE])
        while sum(load.runs[state] for state in ENDED) < len(dag_ids) and load.seconds < limit_s:
            now = time.monotonic()
            tasks, load.runs = _states(engine, TASKS), _states(engine, DAG_RUNS)
            load.running.append(tasks["running"])
            load.waiting.append(sum(tasks[state] for state in WAITS))
            load.runs_at_once = max(load.runs_at_once, load.runs["running"])
            load.seconds = now - began
            if now - measured >= MEMORY_S:
                measured = now
                self._measure(load, engine)
            if now - said >= SAY_S:
                said = now
                print(
                    f"{load.seconds:5.0f} s: runs {dict(load.runs)}, tasks {dict(tasks)}, MiB {dict(self._memory)}",
                    file=sys.stderr,
                    flush=True,
                )
            time.sleep(LOOK_S)
        engine.dispose()
        return load

    def _measure(self, load: Load, engine: Engine) -> None:
        memory, connections = Counter[str](), 0
        for process in self._stack.processes():
            with suppress(psutil.Error):
                kind = _kind(" ".join(process.cmdline()))
                memory[kind] += round(process.memory_full_info().pss / MIB)
                connections += sum(file.path.endswith("airflow.db") for file in process.open_files())
        self._memory = memory
        load.memory_mib |= memory
        load.memory_of_all_mib = max(load.memory_of_all_mib, memory.total())
        if engine.dialect.name == "postgresql":
            with engine.connect() as connection:
                # But for ours.
                connections = connection.execute(text(CONNECTIONS)).scalar_one() - 1
        load.connections = max(load.connections, connections)


def _states(engine: Engine, query: str) -> Counter[str]:
    with engine.connect() as connection:
        return Counter({str(state): count for state, count in connection.execute(text(query))})


def _kind(command: str) -> str:
    return next((kind for part, kind in KINDS.items() if part in command), OTHER)
