"""Tuning jobs go on: after the service was killed, and after their search was."""

import contextlib
import json
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tests.local_sagemaker.cloud_client import Cloud, wait
from tests.local_sagemaker.test_tuning import children, describe
from tests.local_sagemaker.test_tuning_jobs import STATUS, THREE_EPOCHS, body, limits, stored_trials

NAME = "HyperParameterTuningJobName"


def eventually(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Gate:
    """Lets the first two training jobs of a tuning job pass, and holds the others until it is opened."""

    def __init__(self, folder: Path, *, ignore_stop: bool = False) -> None:
        folder.mkdir()
        self._runs, self._open = folder / "runs", folder / "open"
        self._runs.touch()
        self._ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN)" if ignore_stop else ""

    @property
    def script(self) -> str:
        return f"""
import os, pathlib, signal, time
{self._ignore}
runs = pathlib.Path({str(self._runs)!r})
with runs.open("a") as file:
    file.write(os.environ["TRAINING_JOB_NAME"] + "\\n")
while len(runs.read_text().split()) > 2 and not os.path.exists({str(self._open)!r}):
    time.sleep(0.02)
{THREE_EPOCHS}"""

    def open(self) -> None:
        self._open.touch()

    def runs(self) -> list[str]:
        """The training jobs that have begun, one by one."""
        return self._runs.read_text().split()


def create(cloud: Cloud, gate: Gate, **config: Any) -> str:
    made = body(cloud, gate.script, **config)
    cloud.sagemaker.create_hyper_parameter_tuning_job(**made)
    return str(made[NAME])


def end(cloud: Cloud, name: str) -> dict[str, Any]:
    return wait(lambda: describe(cloud, name), STATUS)


def completed(cloud: Cloud, job: dict[str, Any]) -> list[dict[str, Any]]:
    return children(cloud, job, StatusEquals="Completed", MaxResults=100)


class Database:
    """The documents of a service that does not run."""

    def __init__(self, state: Path) -> None:
        self._file = state / "documents.sqlite"

    def change(self, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
        with sqlite3.connect(self._file) as database:
            (text,) = database.execute("select body from documents where name = ?", (name,)).fetchone()
            document = json.loads(text)
            change(document)
            database.execute("update documents set body = ? where name = ?", (json.dumps(document), name))
        database.close()

    def remove(self, name: str) -> None:
        with sqlite3.connect(self._file) as database:
            assert database.execute("delete from documents where name = ?", (name,)).rowcount == 1
        database.close()


SEEDED: dict[str, Any] = {"Strategy": "Bayesian", "RandomSeed": 4, "ResourceLimits": limits(7, parallel=2)}
HYPERBAND: dict[str, Any] = {
    "Strategy": "Hyperband",
    "StrategyConfig": {"HyperbandStrategyConfig": {"MaxResource": 3}},
    "RandomSeed": 1,
    "ResourceLimits": limits(5),
}


def test_a_killed_service_goes_on(tmp_path: Path) -> None:
    """Tuning jobs at once: two that go on, one of them with Hyperband, one that was stopping, one out of time, and
    one whose last training job was written down and not yet created."""
    cloud = Cloud(tmp_path / "state", "--slots=9")
    gates = {
        name: Gate(tmp_path / name, ignore_stop=name == "stopping")
        for name in ("going", "pruning", "stopping", "late", "missing")
    }
    long = {**limits(4, parallel=2), "MaxRuntimeInSeconds": 3600}
    going = create(cloud, gates["going"], **SEEDED)
    pruning = create(cloud, gates["pruning"], **HYPERBAND)
    stopping = create(cloud, gates["stopping"], ResourceLimits=limits(4, parallel=2))
    late = create(cloud, gates["late"], ResourceLimits=long)
    missing = create(cloud, gates["missing"], ResourceLimits=limits(3))
    for name, gate in gates.items():
        eventually(
            lambda gate=gate, count=3 if name in {"pruning", "missing"} else 4: len(gate.runs()) == count
        )
    cloud.sagemaker.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName=stopping)
    assert describe(cloud, stopping)[STATUS] == "Stopping"
    first = {item["TrainingJobName"] for item in completed(cloud, describe(cloud, going))}
    never = children(cloud, describe(cloud, missing))[-1]["TrainingJobName"]
    cloud.end(signal.SIGKILL)

    database = Database(cloud.state)
    database.change(late, lambda job: job.update(CreationTime=job["CreationTime"] - 3600))
    database.remove(never)
    for name in ("going", "pruning", "missing"):
        gates[name].open()
    again = Cloud(cloud.state, "--slots=9")

    job = end(again, going)
    assert job[STATUS] == "Completed"
    assert job["TrainingJobStatusCounters"]["Completed"] == 7
    assert len(stored_trials(again, job)) == 7
    done = completed(again, job)
    # What had completed was not run again, and nothing was tried twice.
    runs = Counter(gates["going"].runs())
    assert len(first) == 2
    assert all(runs[name] == 1 for name in first)
    values = [item["TunedHyperParameters"]["loss"] for item in done]
    assert len(set(values)) == 7
    # The killed ones came back with their values, under their own name or another.
    lost = children(again, job, StatusEquals="Failed")
    assert len(lost) == job["TrainingJobStatusCounters"]["RetryableError"]
    assert {item["TunedHyperParameters"]["loss"] for item in lost} <= set(values)

    pruned = end(again, pruning)
    assert pruned[STATUS] == "Completed"
    assert pruned["ObjectiveStatusCounters"]["Succeeded"] == 5
    assert end(again, stopping)[STATUS] == "Stopped"
    assert len(children(again, describe(again, stopping))) == 4
    job = end(again, late)
    assert job[STATUS] == "Completed"
    assert len(children(again, job)) == 4
    assert job["TrainingJobStatusCounters"]["Completed"] == 2
    job = end(again, missing)
    assert job[STATUS] == "Completed"
    assert job["TrainingJobStatusCounters"]["Completed"] == 3
    assert never in {item["TrainingJobName"] for item in completed(again, job)}

    # And the searches are those of a service which was not killed.
    gate = Gate(tmp_path / "whole")
    gate.open()
    for config, disturbed in ((SEEDED, going), (HYPERBAND, pruning)):
        whole = end(again, create(again, gate, **config))
        found = [
            [(trial["TunedHyperParameters"], trial.get("StoppedAt")) for trial in stored_trials(again, found)]
            for found in (describe(again, disturbed), whole)
        ]
        assert found[0] == found[1]
    assert again.end() == 0


def search_processes(cloud: Cloud) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(cloud.address["pid"]).children():
        # One that has ended has no command line.
        with contextlib.suppress(psutil.Error):
            if "local_sagemaker.tuning.search" in process.cmdline():
                found.append(process)
    return found


def test_a_killed_search_is_made_anew(cloud: Cloud, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    name = create(cloud, gate, ResourceLimits=limits(6, parallel=2))
    eventually(lambda: len(gate.runs()) == 4)
    (process,) = search_processes(cloud)
    process.kill()
    gate.open()
    job = end(cloud, name)
    assert job[STATUS] == "Completed"
    assert job["TrainingJobStatusCounters"]["Completed"] == 6
    assert len(gate.runs()) == 6
    assert len({item["TunedHyperParameters"]["loss"] for item in children(cloud, job)}) == 6


def test_a_search_that_ends_again_and_again_fails_the_job(cloud: Cloud) -> None:
    name = create_plain(cloud, 60)
    while (job := describe(cloud, name))[STATUS] == "InProgress":
        for process in search_processes(cloud):
            process.kill()
    assert job[STATUS] == "Failed"
    assert job["FailureReason"].startswith("InternalServerError: SearchEndedError: the search process ended")


def test_the_service_does_not_import_the_search(cloud: Cloud) -> None:
    """Which would make it twice as large for good."""
    job = end(cloud, create_plain(cloud, 1))
    assert job[STATUS] == "Completed"
    service = psutil.Process(cloud.address["pid"])
    assert not [item.path for item in service.memory_maps() if "/numpy/" in item.path]
    (search,) = search_processes(cloud)
    assert [item.path for item in search.memory_maps() if "/numpy/" in item.path]


def create_plain(cloud: Cloud, jobs: int) -> str:
    made = body(cloud, ResourceLimits=limits(jobs))
    cloud.sagemaker.create_hyper_parameter_tuning_job(**made)
    return str(made[NAME])
