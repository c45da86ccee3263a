"""Airflow as `make up` starts it: the REST API, a task killed while its training job runs, the report's page."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
import yaml

from evergreen.deployment_requests import BEFORE_TAG
from scripts import stack as verbs
from scripts.airflow_rest import Run, trigger
from scripts.local_stack import BUCKET, REGION, REPOSITORY, Stack, read_json, wait_for

DAG, ENDPOINT = "retrain_digits", "evergreen-digits"
TOPIC = f"arn:aws:sns:{REGION}:000000000000:told"
LOGS = "evergreen/airflow-logs"


@pytest.fixture(scope="module")
def statsd() -> Iterator[socket.socket]:
    """What is told of runs is kept by the kernel until somebody reads."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(1)
        yield listener


@pytest.fixture(scope="module")
def airflow(stack: Stack, statsd: socket.socket) -> Stack:
    """A stack with Airflow running, whose logs go to S3 and whose metrics to `statsd`.

    Its pipeline tells a topic what happens to it, and runs when somebody says that there are new digits.
    """
    settings = {
        "LOGGING__REMOTE_LOGGING": True,
        "LOGGING__REMOTE_BASE_LOG_FOLDER": f"s3://{BUCKET}/{LOGS}",
        "LOGGING__REMOTE_LOG_CONN_ID": "aws_default",
        "METRICS__STATSD_ON": True,
        "METRICS__STATSD_HOST": "127.0.0.1",
        "METRICS__STATSD_PORT": statsd.getsockname()[1],
        # Of the many that Airflow sends, too many for the kernel to keep.
        "METRICS__METRICS_ALLOW_LIST": "evergreen,dagrun.duration",
    }
    stack = replace(stack, settings=settings)
    file = stack.dags / "pipelines/digits.yaml"
    own = {"notify": {"sns": TOPIC}, "schedule": {"asset": "new_digits"}, "assess": {"explanations": "none"}}
    document = {**yaml.safe_load(file.read_text()), **own}
    # Long enough a training to be killed in.
    document["tuning"] |= {"max_jobs": 2, "epochs": {"min": 80, "max": 80}, "batch_size": [32]}
    document["gate"]["approve"] = "always"
    document["deployment"]["batch_predict"] = True
    file.write_text(yaml.safe_dump(document))
    verbs.up(stack)
    cloud = stack.cloud()
    cloud.client("sqs").create_queue(QueueName="told")
    assert cloud.client("sns").create_topic(Name="told")["TopicArn"] == TOPIC
    cloud.client("sns").subscribe(TopicArn=TOPIC, Protocol="sqs", Endpoint=TOPIC.replace(":sns:", ":sqs:"))
    return stack


def status_of(url: str, token: str | None = None) -> int:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.mark.parametrize(
    "conf",
    [{"batch_size": [0]}, {"lr_min": -1}, {"arch": "resnet1"}, {"max_jobs": 100_000}, {"epochs_min": "x"}],
)
def test_the_api_refuses_parameters_out_of_bounds(airflow: Stack, conf: dict[str, Any]) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        trigger(airflow, DAG, conf)
    with refused.value as answer:
        assert answer.code == 400
        assert next(iter(conf)) in answer.read().decode()


def retrainings(stack: Stack) -> list[str]:
    """Statuses of the retraining jobs."""
    jobs = stack.cloud().client("sagemaker").list_training_jobs(NameContains="digits-retrain")
    return [job["TrainingJobStatus"] for job in jobs["TrainingJobSummaries"]]


def test_a_run_survives_a_kill_asks_a_person_and_predicts_the_batch(
    airflow: Stack, statsd: socket.socket
) -> None:
    run = trigger(airflow, DAG, {})
    wait_for("the retraining", lambda: retrainings(airflow) == ["InProgress"], 180)
    process = run.process("retrain")
    assert process
    process.kill()
    assert retrainings(airflow) == ["InProgress"]

    wait_for("the question", lambda: run.task("approve")["state"] in {"awaiting_input", "deferred"}, 300)
    assert retrainings(airflow) == ["Completed"]
    assert run.task("retrain")["try_number"] == 2
    approve(airflow, run)
    assert run.wait(200) == "success"
    check_report_page(run)
    check_other_pages(airflow, run)
    assert batch_answers(airflow) == 360
    check_package(airflow)
    check_messages(airflow)
    check_metrics(statsd)
    check_the_report_of_the_command_line(airflow, run)


def approve(airflow: Stack, run: Run) -> None:
    """Answer when the scheduler has seen that the task waits.

    An earlier answer counts as a failed try (Airflow 3.3.2), and the question is asked again. On a quiet machine that
    is a second, in which no person answers.
    """
    log = airflow.log / "scheduler.log"
    task = f"TaskInstanceKey(dag_id='{DAG}', task_id='approve'"
    seen = f"Received executor event with state success for task instance {task}"
    wait_for("the scheduler's note of the question", lambda: seen in log.read_text(errors="replace"), 120)
    time.sleep(1)
    run.approve("approve")


def check_package(stack: Stack) -> None:
    """The model registry knows who approved."""
    sagemaker = stack.cloud().client("sagemaker")
    (package,) = sagemaker.list_model_packages(ModelPackageGroupName=ENDPOINT)["ModelPackageSummaryList"]
    described = sagemaker.describe_model_package(ModelPackageName=package["ModelPackageArn"])
    assert described["ModelApprovalStatus"] == "Approved"
    assert described["ApprovalDescription"].startswith(f"Approved by {stack.login()[0]} in run ")


def check_report_page(run: Run) -> None:
    report = f"{run.url}/evergreen/reports/{DAG}/{quote(run.run_id, safe='')}"
    assert status_of(f"{report}/report.html", run.token) == 200
    assert status_of(f"{report}/report.html") == 401
    profiler = "rule-output/ProfilerReport/profiler-output/profiler-report.html"
    assert status_of(f"{report}/{profiler}", run.token) == 200
    assert status_of(f"{report}/{profiler}") == 401
    assert status_of(f"{report}/..%2f..%2flatest.json", run.token) == 404
    assert status_of(f"{report}/secrets.txt", run.token) == 404
    assert status_of(f"{run.url}/evergreen/reports/{DAG}/no-such-run/report.html", run.token) == 404


def check_other_pages(stack: Stack, run: Run) -> None:
    """The overview and the pages of the jobs, which ask the local cloud."""
    overview = f"{run.url}/evergreen/overview"
    assert status_of(overview) == 401
    text = text_of(overview, run.token)
    assert "evergreen-digits" in text
    assert all(f'<span class="tag good">{word}</span>' in text for word in ("InService", "success", "serves"))
    assert '<span class="tag warn">ask</span>' in text
    jobs = f"{run.url}/evergreen/jobs/{DAG}/{quote(run.run_id, safe='')}"
    assert status_of(f"{jobs}/retrain") == 401
    assert "best epoch=" in text_of(f"{jobs}/retrain", run.token)
    assert '<span class="tag good">Completed</span>' in text_of(f"{jobs}/tune", run.token)
    assert "served before" in text_of(f"{jobs}/deploy.endpoint", run.token)
    assert log_in_s3(stack, run, "tune").count("the best so far is") == 2


def log_in_s3(stack: Stack, run: Run, task_id: str) -> str:
    """Of the task's first try; Airflow empties its own copy."""
    s3 = stack.cloud().client("s3")
    key = f"{LOGS}/dag_id={DAG}/run_id={run.run_id}/task_id={task_id}/attempt=1.log"
    wait_for(key, lambda: "Contents" in s3.list_objects_v2(Bucket=BUCKET, Prefix=key), 30)
    return str(s3.get_object(Bucket=BUCKET, Key=key)["Body"].read().decode())


def text_of(url: str, token: str) -> str:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=30) as response:
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        return str(response.read().decode())


def check_messages(stack: Stack) -> None:
    """A person was told that they are asked, and that the model serves."""
    sqs = stack.cloud().client("sqs")
    queue = sqs.get_queue_url(QueueName="told")["QueueUrl"]
    messages = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]
    told = {json.loads(message["Body"])["Subject"] for message in messages}
    assert told == {"digits: deploy the new model?", "digits: a new model serves"}


def check_metrics(statsd: socket.socket) -> None:
    """The run's own figures, and Airflow's, have been sent."""
    sent = set()
    with suppress(TimeoutError):
        while True:
            sent.add(statsd.recv(1024).decode().partition(":")[0])
    names = ("challenger.accuracy", "verdict.ask", "tuning.seconds", "retraining.cost", "cost")
    assert {f"airflow.evergreen.digits.{name}" for name in names} <= sent
    assert any(name.startswith("airflow.dagrun.duration") for name in sent)


def test_new_data_said_by_an_asset_starts_a_run_that_skips_what_was_learned(airflow: Stack) -> None:
    """After the run before it, whose model serves: the same data, code and settings. The log is read from S3."""
    url = airflow.ui()
    assert url
    token = airflow.token(url)
    (asset,) = read_json(f"{url}/api/v2/assets?name_pattern=new_digits", token)["assets"]
    read_json(f"{url}/api/v2/assets/events", token, {"asset_id": asset["id"], "extra": {}})

    def started() -> list[str]:
        runs = read_json(f"{url}/api/v2/dags/{DAG}/dagRuns", token)["dag_runs"]
        return [run["dag_run_id"] for run in runs if run["run_type"] == "asset_triggered"]

    wait_for("the run", lambda: bool(started()), 120)
    run = Run(airflow, url, token, DAG, started()[0])
    assert run.wait(120) == "success"
    assert run.task("sync_dataset")["state"] == run.task("retrain")["state"] == "skipped"
    assert "which made the model now serving" in log_in_s3(airflow, run, "sync_dataset")
    # The web UI reads it there.
    shown = json.dumps(read_json(f"{run.address}/taskInstances/sync_dataset/logs/1", token))
    assert "which made the model now serving" in shown


def check_the_report_of_the_command_line(stack: Stack, run: Run) -> None:
    """The same job assessed again without Airflow comes to the same; and what the DAG knew is in the report."""
    cloud = stack.cloud()
    (job,) = cloud.client("sagemaker").list_training_jobs(NameContains="digits-retrain")[
        "TrainingJobSummaries"
    ]
    command = [sys.executable, "-m", "scripts.report", job["TrainingJobName"], "--var", str(stack.var)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    again = json.loads(Path(done.stdout.splitlines()[-1]).with_name("report.json").read_text())
    page = f"{run.url}/evergreen/reports/{DAG}/{quote(run.run_id, safe='')}/report.json"
    report = json.loads(text_of(page, run.token))
    assert again["metrics"]["confusion"] == report["metrics"]["confusion"]
    stages = report["cost"]["stages"]
    assert report["cost"]["total"] == pytest.approx(sum(stage["cost"] for stage in stages))
    assert all(stage["cost"] > 0 for stage in stages)
    changes = report["lineage"]["changes"]
    assert changes["reason"] == "nothing serves, so there is no promoted run to compare with"
    assert report["lineage"]["links"]["training job"].startswith(f"{run.url}/evergreen/jobs/")


def batch_answers(stack: Stack) -> int:
    """How many images the transform job has answered."""
    cloud = stack.cloud()
    (job,) = cloud.client("sagemaker").list_transform_jobs(NameContains="digits")["TransformJobSummaries"]
    assert job["TransformJobStatus"] == "Completed"
    pages = (
        cloud.client("s3")
        .get_paginator("list_objects_v2")
        .paginate(Bucket=BUCKET, Prefix="evergreen/digits/runs/")
    )
    keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    return len([key for key in keys if "/batch/" in key and key.endswith(".out")])


def test_a_rollback_is_one_trigger(airflow: Stack) -> None:
    """After the run before it: a second configuration of its model is put into service, which came after the first."""
    sagemaker = airflow.cloud().client("sagemaker")
    first = sagemaker.describe_endpoint(EndpointName=ENDPOINT)["EndpointConfigName"]
    variants = sagemaker.describe_endpoint_config(EndpointConfigName=first)["ProductionVariants"]
    before = [{"Key": BEFORE_TAG, "Value": first}]
    second = f"{ENDPOINT}-second"
    sagemaker.create_endpoint_config(EndpointConfigName=second, ProductionVariants=variants, Tags=before)
    sagemaker.update_endpoint(EndpointName=ENDPOINT, EndpointConfigName=second)
    sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=ENDPOINT, WaiterConfig={"Delay": 1})
    run = trigger(airflow, "rollback", {"pipeline": "digits"})
    assert run.wait(120) == "success"
    assert sagemaker.describe_endpoint(EndpointName=ENDPOINT)["EndpointConfigName"] == first


def test_down_leaves_no_process_behind(airflow: Stack) -> None:
    started = airflow.processes()
    children = [child for process in started for child in process.children(recursive=True)]
    assert len(started) >= 5
    verbs.down(airflow)
    _, alive = psutil.wait_procs([*started, *children], timeout=10)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
