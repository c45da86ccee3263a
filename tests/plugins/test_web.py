"""The plugin's pages, over a real local cloud. What needs Airflow's database is in tests/end_to_end/test_airflow.py."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import evergreen_ui
import httpx
import pytest
import uvicorn

from evergreen import addresses, names
from evergreen.web import jobs
from evergreen.web.app import app, may_see_run
from scripts.local_stack import BUCKET, Cloud, free_port
from tests.plugins.test_durable import IMAGE

RUN = "manual__2026-11-28T07:00:00+00:00"
REPORTS = f"/reports/retrain_digits/{quote(RUN, safe='')}"
JOBS = f"/jobs/retrain_digits/{quote(RUN, safe='')}"


@pytest.fixture(scope="module")
def anybody() -> Iterator[httpx.Client]:
    """The plugin's application in a server of its own; somebody without a login."""
    server = uvicorn.Server(uvicorn.Config(evergreen_ui.app, port=free_port(0), log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    with httpx.Client(base_url=f"http://127.0.0.1:{server.config.port}", timeout=60) as client:
        yield client
    server.should_exit = True
    thread.join()


@pytest.fixture
def reader(cloud: Cloud, anybody: httpx.Client) -> Iterator[httpx.Client]:
    """Somebody who may see the runs."""
    app.dependency_overrides[may_see_run.dependency] = lambda: None
    yield anybody
    app.dependency_overrides.clear()


@pytest.mark.parametrize(
    "path", ["/overview", f"{REPORTS}/report.html", f"{JOBS}/retrain", f"{JOBS}/deploy.endpoint"]
)
def test_without_login_no_page_answers(anybody: httpx.Client, path: str) -> None:
    assert anybody.get(path).status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        f"{REPORTS}/..%2f..%2flatest.json", f"{REPORTS}/secrets.txt", f"{REPORTS}/report.html%00",
        "/reports/other_dag/r/report.html", "/reports/retrain_..%2f..%2fx/r/report.html",
        f"{JOBS}/plan", "/jobs/other_dag/r/retrain",
    ],
)  # fmt: skip
def test_what_is_no_page_is_not_found(reader: httpx.Client, path: str) -> None:
    assert reader.get(path).status_code == 404


def test_a_report_that_is_not_there_is_a_sentence(reader: httpx.Client) -> None:
    answer = reader.get(f"{REPORTS}/report.html")
    assert answer.status_code == 404
    assert "This run has no report yet. It is here once the task export_report has run" in answer.text
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_a_pipeline_without_a_file_is_a_sentence(reader: httpx.Client) -> None:
    answer = reader.get("/reports/retrain_nothing/r/report.html")
    assert (answer.status_code, "cannot be read: SettingsError" in answer.text) == (502, True)


def test_a_report_is_served_and_a_report_of_200_mb_is_a_sentence(
    reader: httpx.Client, cloud: Cloud, tmp_path: Path
) -> None:
    key = f"evergreen/digits/reports/{names.run_folder('retrain_digits', RUN)}"
    s3 = cloud.client("s3")
    s3.put_object(Bucket=BUCKET, Key=f"{key}/report.json", Body=b'{"ours": true}')
    answer = reader.get(f"{REPORTS}/report.json")
    assert answer.json() == {"ours": True}
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    large = tmp_path / "report.html"
    with large.open("wb") as file:
        file.truncate(200 * 2**20)
    with large.open("rb") as file:
        s3.put_object(Bucket=BUCKET, Key=f"{key}/report.html", Body=file)
    answer = reader.get(f"{REPORTS}/report.html")
    assert answer.status_code == 413
    assert f"The report has 200 MiB, too much for a page: s3://{BUCKET}/{key}/report.html" in answer.text
    s3.delete_object(Bucket=BUCKET, Key=f"{key}/report.html")


def test_the_report_of_a_monitors_look_is_its_page(reader: httpx.Client, cloud: Cloud) -> None:
    looks = REPORTS.replace("retrain_", "monitor_")
    assert "once the task compare has run" in reader.get(f"{looks}/report.html").text
    key = f"evergreen/digits/monitor/{names.run_folder('monitor_digits', RUN)}/drift.html"
    cloud.client("s3").put_object(Bucket=BUCKET, Key=key, Body=b"<p>They part</p>")
    assert reader.get(f"{looks}/report.html").text == "<p>They part</p>"
    assert reader.get(f"{looks}/report.json").status_code == 404


def train(cloud: Cloud, name: str, program: str) -> None:
    sagemaker = cloud.client("sagemaker")
    sagemaker.create_training_job(
        TrainingJobName=name,
        AlgorithmSpecification={
            "TrainingImage": IMAGE, "TrainingInputMode": "File", "ContainerEntrypoint": ["python3", "-c", program],
            "MetricDefinitions": [{"Name": "validation_loss", "Regex": r"validation_loss=([0-9.]+)"}],
        },
        RoleArn="arn:aws:iam::000000000000:role/EvergreenSageMakerRole",
        OutputDataConfig={"S3OutputPath": f"s3://{BUCKET}/out"},
        ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        StoppingCondition={"MaxRuntimeInSeconds": 60},
    )  # fmt: skip
    while sagemaker.describe_training_job(TrainingJobName=name)["TrainingJobStatus"] == "InProgress":
        time.sleep(0.05)


def test_a_job_page_shows_the_newest_try(reader: httpx.Client, cloud: Cloud) -> None:
    answer = reader.get(f"{JOBS}/retrain")
    assert (answer.status_code, "has started no job" in answer.text) == (404, True)
    tries = [
        names.resource("digits-retrain", "retrain_digits", RUN, "retrain", -1, attempt=attempt)
        for attempt in (0, 1)
    ]
    train(cloud, tries[0], "raise SystemExit('no luck')")
    text = reader.get(f"{JOBS}/retrain").text
    assert f"<h1>{tries[0]}</h1>" in text
    assert "no luck" in text
    assert '<span class="tag bad">Failed</span>' in text
    train(cloud, tries[1], "print('<b>validation_loss=0.1234</b>')")
    text = reader.get(f"{JOBS}/retrain").text
    assert f"<h1>{tries[1]}</h1>" in text
    assert "<dt>validation_loss</dt><dd>0.1234</dd>" in text
    assert "&lt;b&gt;validation_loss=0.1234&lt;/b&gt;" in text
    assert "SageMaker evaluates no rule beside this job" in text


def test_an_endpoint_that_is_not_there_is_a_sentence(reader: httpx.Client) -> None:
    answer = reader.get(f"{JOBS}/deploy.endpoint")
    assert (answer.status_code, "There is no endpoint evergreen-digits (yet)" in answer.text) == (404, True)


def connection(**extra: Any) -> str:
    return json.dumps({"conn_type": "aws", "login": "x", "password": "x", "extra": extra})


def test_a_cloud_that_does_not_answer_is_a_sentence(
    reader: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = {"sagemaker": {"endpoint_url": "http://127.0.0.1:9"}}
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", connection(region_name="us-east-1", service_config=dead))
    answer = reader.get(f"{JOBS}/deploy.endpoint")
    assert (answer.status_code, "SageMaker does not answer: EndpointConnectionError" in answer.text) == (
        502,
        True,
    )


@pytest.mark.parametrize(
    ("extra", "url"),
    [
        (
            {"region_name": "eu-west-1"},
            "https://eu-west-1.console.aws.amazon.com/sagemaker/home?region=eu-west-1#/",
        ),
        (
            {"region_name": "cn-north-1"},
            "https://cn-north-1.console.amazonaws.cn/sagemaker/home?region=cn-north-1#/",
        ),
    ],
)
def test_on_aws_a_job_is_in_the_console(
    extra: Any, url: str, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", connection(**extra))
    assert jobs.console(jobs.hook(), "tuning", "a-job") == f"{url}hyper-tuning-jobs/a-job"


@pytest.mark.parametrize(
    ("url", "local"),
    [
        (None, False),
        ("https://api.sagemaker.eu-west-1.amazonaws.com", False),
        ("https://vpce-1.api.sagemaker.us-east-1.vpce.amazonaws.com", False),
        ("http://127.0.0.1:7700", True),
    ],
)
def test_the_connections_address_tells_the_local_cloud(url: str | None, local: bool) -> None:
    assert addresses.is_local(url) == local
