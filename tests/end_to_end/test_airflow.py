"""Airflow as `make up` starts it: the REST API, a task killed while its training job runs, the report's page."""

import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import psutil
import pytest

from scripts import stack as verbs
from scripts.local_stack import Stack, read_json

DAG = "retrain_digits"


def wait_for(found: Callable[[], Any], seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.2)
    return value


def status_of(url: str, token: str | None = None) -> int:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.fixture(scope="module")
def airflow(stack: Stack) -> tuple[str, str]:
    """(URL, token) of a running Airflow."""
    verbs.up(stack)
    url = stack.ui()
    assert url
    return url, stack.token(url)


def trigger(airflow: tuple[str, str], conf: dict[str, Any]) -> str:
    url, token = airflow
    run = read_json(f"{url}/api/v2/dags/{DAG}/dagRuns", token, {"logical_date": None, "conf": conf})
    return str(run["dag_run_id"])


@pytest.mark.parametrize(
    "conf",
    [{"batch_size": [0]}, {"lr_min": -1}, {"arch": "resnet1"}, {"max_jobs": 100_000}, {"epochs_min": "x"}],
)
def test_the_api_refuses_parameters_out_of_bounds(airflow: tuple[str, str], conf: dict[str, Any]) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        trigger(airflow, conf)
    with refused.value as answer:
        assert answer.code == 400
        assert next(iter(conf)) in answer.read().decode()


def task_process(stack: Stack, task_instance_id: str) -> psutil.Process | None:
    """The process of a running task, which Airflow titles with the task instance's id."""
    for process in stack.processes():
        with suppress(psutil.Error):
            if task_instance_id in " ".join(process.cmdline()):
                return process
    return None


def test_a_killed_task_leaves_one_training_job_and_the_run_succeeds(
    stack: Stack, airflow: tuple[str, str]
) -> None:
    url, token = airflow
    sagemaker = stack.cloud().client("sagemaker")

    def retrainings() -> list[dict[str, Any]]:
        jobs: list[dict[str, Any]] = sagemaker.list_training_jobs(NameContains="digits-retrain")[
            "TrainingJobSummaries"
        ]
        return jobs

    # Long enough a training to be killed in.
    run = trigger(airflow, {"max_jobs": 2, "epochs_min": 200, "epochs_max": 200, "batch_size": [32]})
    wait_for(lambda: [job for job in retrainings() if job["TrainingJobStatus"] == "InProgress"], 180)
    address = f"{url}/api/v2/dags/{DAG}/dagRuns/{quote(run)}"
    task_instance = read_json(f"{address}/taskInstances/retrain", token)["id"]
    wait_for(lambda: task_process(stack, task_instance), 10).kill()
    assert retrainings()[0]["TrainingJobStatus"] == "InProgress"

    wait_for(lambda: read_json(address, token)["state"] in {"success", "failed"}, 300)
    assert read_json(address, token)["state"] == "success"
    assert len(retrainings()) == 1
    assert read_json(f"{address}/taskInstances/retrain", token)["try_number"] == 2

    report = f"{url}/evergreen/reports/{DAG}/{quote(run, safe='')}"
    assert status_of(f"{report}/report.html", token) == 200
    assert status_of(f"{report}/report.html") == 401
    assert status_of(f"{report}/..%2f..%2flatest.json", token) == 404
    assert status_of(f"{report}/secrets.txt", token) == 404
    assert status_of(f"{url}/evergreen/reports/{DAG}/no-such-run/report.html", token) == 404


def test_a_person_approves_and_the_batch_is_predicted(stack: Stack, airflow: tuple[str, str]) -> None:
    url, token = airflow
    run = trigger(airflow, {"max_jobs": 1, "max_parallel_jobs": 1, "approve": True, "batch_predict": True})
    address = f"{url}/api/v2/dags/{DAG}/dagRuns/{quote(run)}"
    state = f"{address}/taskInstances/approve"
    wait_for(
        lambda: read_json(state, token)["state"] in {"awaiting_input", "deferred", "skipped", "failed"}, 200
    )
    details = read_json(f"{address}/taskInstances/approve/-1/hitlDetails", token)
    assert "/report.html" in details["body"]
    assert "Test accuracy" in details["body"]
    answer = {"chosen_options": ["Approve"], "params_input": {}}
    read_json(f"{address}/taskInstances/approve/-1/hitlDetails", token, answer, method="PATCH")
    wait_for(lambda: read_json(address, token)["state"] in {"success", "failed"}, 200)
    assert read_json(address, token)["state"] == "success"
    (job,) = (
        stack.cloud().client("sagemaker").list_transform_jobs(NameContains="digits")["TransformJobSummaries"]
    )
    assert job["TransformJobStatus"] == "Completed"
    s3 = stack.cloud().client("s3")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket="evergreen", Prefix="evergreen/digits/runs/")
    keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    assert len([key for key in keys if "/batch/" in key and key.endswith(".out")]) == 360


def test_down_leaves_no_process_behind(stack: Stack, airflow: tuple[str, str]) -> None:
    started = stack.processes()
    children = [child for process in started for child in process.children(recursive=True)]
    assert len(started) >= 5
    verbs.down(stack)
    _, alive = psutil.wait_procs([*started, *children], timeout=10)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
