"""The loop as `make demo` runs it, on real data against a real local cloud: twice, on another dataset, on bad input."""

import base64
import io
import json
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException
from airflow.sdk.exceptions import TaskDeferred
from PIL import Image, ImageDraw, ImageOps

from evergreen import freshness, sync
from evergreen.batch import BatchPredictOperator
from evergreen.deployment import EndpointOperator
from evergreen.monitoring import CompareOperator
from evergreen.plan import Plan
from evergreen.settings import read, validate
from evergreen.verification import VerifyEndpointOperator
from scripts.local_stack import BUCKET, REPOSITORY, ROLE, Cloud, Stack
from tests.plugins.test_durable import fired

# An operator run without Airflow's task runner says so.
pytestmark = pytest.mark.filterwarnings("ignore:.*outside of the Task Runner")

Demo = Callable[..., subprocess.CompletedProcess[str]]
RULES = {
    "VanishingGradient", "PoorWeightInitialization", "LossNotDecreasing", "Overfit", "Overtraining", "ProfilerReport",
}  # fmt: skip


def summary(stack: Stack) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((stack.var / "demo" / "summary.json").read_text())
    return document


def test_the_loop_from_data_to_endpoint_and_again(
    stack: Stack, demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = tmp_path / "events.jsonl"
    with monkeypatch.context() as patch:
        patch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "file")
        patch.setenv("OPENLINEAGE__TRANSPORT__LOG_FILE_PATH", str(events))
        patch.setenv("OPENLINEAGE__TRANSPORT__APPEND", "true")
        first = demo()
    assert first.returncode == 0
    check_lineage([json.loads(line) for line in events.read_text().splitlines()])
    told = summary(stack)
    assert told["dag_run_state"] == "success"
    assert told["verdict"]["decision"] == "promote"
    jobs = told["tuning"]["jobs"]
    assert len(jobs) >= 4
    assert all(job["status"] == "Completed" and job["objective"] > 0 for job in jobs)
    assert told["tuning"]["best"] == min(jobs, key=lambda job: job["objective"])["name"]
    assert {rule["name"] for rule in told["rules"]} == RULES
    assert told["metrics"]["accuracy"] >= 0.95
    assert told["endpoint"]["status"] == "InService"
    assert told["prediction"]["label"] == told["prediction"]["truth"]
    assert {"plan", "tune", "retrain", "assess", "deploy.endpoint", "verify"} <= set(told["seconds"])
    assert told["report"] in first.stdout

    # Trials ran two at a time: the second began before the first ended.
    cloud = stack.cloud()
    sagemaker = cloud.client("sagemaker")
    trials = sagemaker.list_training_jobs_for_hyper_parameter_tuning_job(
        HyperParameterTuningJobName=told["tuning"]["name"], SortBy="CreationTime", SortOrder="Ascending"
    )["TrainingJobSummaries"]
    assert trials[1]["TrainingStartTime"] < trials[0]["TrainingEndTime"]

    endpoint = sagemaker.describe_endpoint(EndpointName=told["endpoint"]["name"])
    second = demo()
    assert second.returncode == 0
    again = summary(stack)
    updated = sagemaker.describe_endpoint(EndpointName=told["endpoint"]["name"])
    assert updated["CreationTime"] == endpoint["CreationTime"]
    assert updated["EndpointConfigName"] == again["endpoint"]["config"] != told["endpoint"]["config"]
    assert Path(told["report"]).is_file()
    assert Path(again["report"]).is_file()
    assert told["report"] != again["report"]
    # The same data: nothing was computed twice.
    assert len(sagemaker.list_processing_jobs(NameContains="extract-features")["ProcessingJobSummaries"]) == 1


def check_lineage(events: list[dict[str, Any]]) -> None:
    """OpenLineage's events of the run lead from the folder to the endpoint, by way of every step between them."""
    done = {
        event["job"]["name"].partition(".")[2]: event for event in events if event["eventType"] == "COMPLETE"
    }

    def names(task: str, side: str) -> set[tuple[str, str]]:
        return {(one["namespace"], one["name"]) for one in done[task].get(side, [])}

    path = [
        "sync_dataset", "extract_features", "tune", "retrain", "deploy.model", "deploy.endpoint_config",
        "deploy.endpoint", "verify",
    ]  # fmt: skip
    for before, after in pairwise(path):
        assert names(before, "outputs") & names(after, "inputs"), (before, after)
    assert names("retrain", "outputs") & names("assess", "inputs")
    assert {name.partition("/")[0] for _, name in names("register", "outputs")} == {"model-package"}
    assert ("sagemaker://us-east-1", "endpoint/evergreen-digits") in names("deploy.endpoint", "outputs")
    (dataset,) = done["sync_dataset"]["outputs"]
    assert dataset["outputFacets"]["outputStatistics"]["fileCount"] == 1797
    (read,) = (one for one in done["extract_features"]["inputs"] if one["name"] == dataset["name"])
    assert read["facets"]["version"]["datasetVersion"] == dataset["facets"]["version"]["datasetVersion"]


def test_a_held_model_leaves_the_endpoint_alone(stack: Stack, demo: Demo) -> None:
    """After the test before it: a champion serves, and the gate asks for more than the digits give."""
    sagemaker = stack.cloud().client("sagemaker")
    (endpoint,) = sagemaker.list_endpoints(NameContains="digits")["Endpoints"]
    before = sagemaker.describe_endpoint(EndpointName=endpoint["EndpointName"])
    done = demo(minimum_accuracy=0.999, max_jobs=2, debugger_mode="managed")
    assert done.returncode == 1
    told = summary(stack)
    check_managed_rules(stack, told)
    assert told["dag_run_state"] == "success"
    assert told["verdict"]["decision"] == "hold"
    assert "99.90%" in " ".join(told["verdict"]["reasons"])
    assert "deploy.endpoint" not in told["seconds"]
    assert Path(told["report"]).is_file()
    after = sagemaker.describe_endpoint(EndpointName=endpoint["EndpointName"])
    assert after["EndpointConfigName"] == before["EndpointConfigName"]
    assert after["LastModifiedTime"] == before["LastModifiedTime"]


def check_managed_rules(stack: Stack, told: dict[str, Any]) -> None:
    """SageMaker evaluated the rules beside the training, and the report has its word and our evidence."""
    sagemaker = stack.cloud().client("sagemaker")
    (latest, *_) = sagemaker.list_training_jobs(
        NameContains="digits-retrain", SortBy="CreationTime", SortOrder="Descending"
    )["TrainingJobSummaries"]
    job = sagemaker.describe_training_job(TrainingJobName=latest["TrainingJobName"])
    statuses = {
        one["RuleConfigurationName"]: one["RuleEvaluationStatus"]
        for kind in ("DebugRuleEvaluationStatuses", "ProfilerRuleEvaluationStatuses")
        for one in job[kind]
    }
    assert statuses.keys() == RULES
    assert set(statuses.values()) <= {"NoIssuesFound", "IssuesFound"}, job
    for rule in told["rules"]:
        assert rule["status"] == statuses[rule["name"]]
        assert rule["detail"].startswith(f"SageMaker says {rule['status']}")
    report = json.loads(Path(told["report"]).with_name("report.json").read_text())
    assert report["profiler"]["system"]
    assert report["training"]["hook_errors"] == []
    vanishing = next(rule for rule in report["rules"] if rule["name"] == "VanishingGradient")
    assert vanishing["tensor"].startswith("gradient/Tail_fc.")


@dataclass(frozen=True)
class Deployed:
    """What the runs of the tests before have left: two configurations, one of them in service."""

    cloud: Cloud
    name: str
    live: str
    other: str
    runs: tuple[str, ...]
    """Addresses of their folders, the first run's first."""

    def serving(self) -> str:
        described = self.cloud.client("sagemaker").describe_endpoint(EndpointName=self.name)
        assert described["EndpointStatus"] == "InService"
        return str(described["EndpointConfigName"])

    def doubted(self) -> dict[str, Any]:
        """What assess returned for the first run, with other answers than its model gives."""
        s3, folder = self.cloud.client("s3"), f"{self.runs[0].removeprefix(f's3://{BUCKET}/')}/assess"
        rows = json.loads(s3.get_object(Bucket=BUCKET, Key=f"{folder}/smoke/smoke.json")["Body"].read())
        for row in rows:
            copied = {"Bucket": BUCKET, "Key": f"{folder}/smoke/{row['file']}"}
            s3.copy_object(Bucket=BUCKET, Key=f"evergreen/doubt/smoke/{row['file']}", CopySource=copied)
            row["probability"] = 0.5
        s3.put_object(Bucket=BUCKET, Key="evergreen/doubt/smoke/smoke.json", Body=json.dumps(rows))
        report = json.loads(s3.get_object(Bucket=BUCKET, Key=f"{folder}/report.json")["Body"].read())
        version = report["model"]["version"]
        return {
            "uri": f"s3://{BUCKET}/evergreen/doubt",
            "champion": {"endpoint_config": self.live},
            "model_version": version,
        }


@pytest.fixture
def deployed(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Deployed:
    cloud = stack.cloud()
    environment = stack.airflow_environment(cloud)
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", environment["AIRFLOW_CONN_AWS_DEFAULT"])
    sagemaker = cloud.client("sagemaker")
    (endpoint,) = sagemaker.list_endpoints(NameContains="digits")["Endpoints"]
    name = endpoint["EndpointName"]
    live = sagemaker.describe_endpoint(EndpointName=name)["EndpointConfigName"]
    configs = sagemaker.list_endpoint_configs(NameContains=f"{name}-")["EndpointConfigs"]
    (other,) = {config["EndpointConfigName"] for config in configs} - {live}
    models = sagemaker.list_models(NameContains=f"{name}-", SortBy="CreationTime", SortOrder="Ascending")
    archives = [
        sagemaker.describe_model(ModelName=model["ModelName"])["PrimaryContainer"]["ModelDataUrl"]
        for model in models["Models"]
    ]
    return Deployed(cloud, name, live, other, tuple(uri.partition("/jobs/")[0] for uri in archives))


def context(**returned: Any) -> Any:
    """What a task is given, with what the tasks before it returned."""
    return {"ti": SimpleNamespace(
        dag_id="retrain_digits", run_id="r", task_id="t", map_index=-1,
        xcom_pull=lambda task_ids: returned[task_ids],
    )}  # fmt: skip


def plan_of(pipeline: str, more: dict[str, Any] | None = None, **deployment: Any) -> dict[str, Any]:
    """:param more: settings besides the file's."""
    document = read(REPOSITORY / f"dags/pipelines/{pipeline}.yaml")
    settings = validate({**document, **(more or {}), "deployment": deployment}, pipeline)
    return Plan(
        dag_id=f"retrain_{pipeline}", run_id="r", run_type="manual", started_at="", pipeline_name=pipeline,
        pipeline=settings, bucket=BUCKET, role="r", training_image="i", inference_image="i", local=True,
    ).to_xcom()  # fmt: skip


def test_what_serves_counts_where_another_run_was_judged_since(deployed: Deployed) -> None:
    """The run that was judged last had other parameters; the file's are those of the run before it, which serves."""
    s3, sagemaker = S3Hook(aws_conn_id="aws_default"), SageMakerHook(aws_conn_id="aws_default")
    context = json.loads(s3.read_key(f"{deployed.runs[1]}/context.json"))
    settings = validate(context["run"]["settings"], "digits")
    images = {f"{kind}_image": uri for kind, uri in context["lineage"]["images"].items()}
    plan = Plan.model_validate(plan_of("digits") | {"pipeline": settings} | images)
    same = (context["dataset"]["version"], context["code"]["hash"])
    known = freshness.nothing_new(s3, sagemaker, plan, *same)
    assert known
    assert known.endswith(f"are those of run {context['run']['run_id']}, which made the model now serving")
    assert freshness.nothing_new(s3, sagemaker, plan, "another", same[1]) is None


def captured(images: Iterable[Path]) -> str:
    """Inverted, as SageMaker's data capture keeps requests."""
    lines = []
    for path in images:
        body = io.BytesIO()
        with Image.open(path) as image:
            ImageOps.invert(image).save(body, "JPEG")
        given = {"observedContentType": "image/jpeg", "mode": "INPUT", "encoding": "BASE64"}
        given["data"] = base64.b64encode(body.getvalue()).decode()
        moment = {"inferenceTime": "2026-11-28T10:00:00Z"}
        lines.append({"captureData": {"endpointInput": given}, "eventMetadata": moment, "eventVersion": "0"})
    return "".join(json.dumps(line) + "\n" for line in lines)


def test_other_pictures_than_those_of_training_are_drift_and_are_looked_at_once(deployed: Deployed) -> None:
    hour = f"evergreen/digits/data-capture/{deployed.name}/AllTraffic/{datetime.now(UTC):%Y/%m/%d/%H}"
    images = sorted((REPOSITORY / "var/data/digits/test").rglob("*.jpg"))[::3]
    s3 = deployed.cloud.client("s3")
    compare = CompareOperator(task_id="compare", inputs={"code": "upload_code"})
    context_of_run = json.loads(
        S3Hook(aws_conn_id="aws_default").read_key(f"{deployed.runs[1]}/context.json")
    )
    capture = {"data_capture": {"initial_sampling_percentage": 100}}
    plan = plan_of("digits", {"monitor": {"minimum_images": 100}}, **capture)
    plan |= {"role": ROLE, "training_image": context_of_run["lineage"]["images"]["training"]}
    code = sync.upload_source(Plan.model_validate(plan))
    with pytest.raises(AirflowSkipException, match=f"nothing was captured at {deployed.name} since"):
        compare.execute(context(plan=plan, upload_code=code))
    s3.put_object(Bucket=BUCKET, Key=f"{hour}/00-00-000-x.jsonl", Body=captured(images).encode())
    found = compare.execute(context(plan=plan, upload_code=code))
    assert (found["evaluated"], found["drifted"]) == (True, True)
    assert found["sentence"].startswith(
        f"{len(images)} captured images part from the training images in brightness"
    )
    assert found["measures"]["brightness"] > 1
    page = f"{found['uri'].removeprefix(f's3://{BUCKET}/')}/drift.html"
    assert b"They part from the training pictures" in s3.get_object(Bucket=BUCKET, Key=page)["Body"].read()
    # Another run: what was looked at is not looked at again.
    with pytest.raises(AirflowSkipException, match="nothing was captured"):
        compare.execute(context(plan={**plan, "run_id": "next"}, upload_code=code))


SERVING = {"endpoint_config_name": "config", "assessment": "assess"}


def go_on(operator: Any, given: Any, deferred: TaskDeferred) -> Any:
    """What triggerer and worker do with a deferred task."""
    while True:
        event = fired(deferred.trigger)
        try:
            return getattr(operator, deferred.method_name)(given, event=event)
        except TaskDeferred as again:
            deferred = again


def test_a_canary_that_answers_otherwise_is_rolled_back_by_its_alarm(deployed: Deployed) -> None:
    plan = plan_of("digits", canary_size={"value": 50}, wait_interval_in_seconds=30)
    operator = EndpointOperator(task_id="endpoint", inputs=SERVING, deferrable=True)
    given = context(plan=plan, config=deployed.other, assess=deployed.doubted())
    reason = (
        rf"{deployed.name} is InService with {deployed.live}, not InService with {deployed.other}: .*"
        rf"{deployed.name}-InvalidAnswers.*the model offline .*; {deployed.live} serves again$"
    )
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(given)
    assert deferred.value.method_name == "look_again"
    with pytest.raises(AirflowFailException, match=reason):
        go_on(operator, given, deferred.value)
    assert deployed.serving() == deployed.live


def test_a_second_try_of_a_deployment_changes_nothing(deployed: Deployed) -> None:
    def changed() -> Any:
        described = deployed.cloud.client("sagemaker").describe_endpoint(EndpointName=deployed.name)
        return described["LastModifiedTime"]

    before = changed()
    operator = EndpointOperator(task_id="endpoint", inputs=SERVING)
    returned = operator.execute(
        context(plan=plan_of("digits"), config=deployed.live, assess=deployed.doubted())
    )
    assert returned["Endpoint"]["EndpointConfigName"] == deployed.live
    assert changed() == before


def test_a_rollback_is_one_command_which_may_be_repeated(stack: Stack, deployed: Deployed) -> None:
    def roll_back() -> str:
        command = [sys.executable, "-m", "scripts.rollback", "digits", "--var", str(stack.var)]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    sentence = roll_back()
    assert sentence.startswith(f"{deployed.other} serves again, in place of {deployed.live}; ")
    assert sentence.endswith("test images are answered as the report has them")
    assert deployed.serving() == deployed.other
    assert roll_back() == f"{deployed.other} serves already, since {deployed.live} was rolled back"
    assert deployed.serving() == deployed.other


def test_an_endpoint_that_disagrees_gets_its_previous_configuration_back(deployed: Deployed) -> None:
    """Without a worker's slot while it is put back."""
    assessment = {**deployed.doubted(), "champion": {"endpoint_config": deployed.other}}
    verify = VerifyEndpointOperator(task_id="verify", inputs=SERVING, deferrable=True)
    given = context(plan=plan_of("digits"), config=deployed.live, assess=assessment)
    with pytest.raises(TaskDeferred) as deferred:
        verify.execute(given)
    assert deferred.value.method_name == "put_back_again"
    with pytest.raises(AirflowFailException, match=rf"the model offline .*; {deployed.other} serves again"):
        go_on(verify, given, deferred.value)
    assert deployed.serving() == deployed.other


def test_a_transform_job_over_lines_of_many_images_answers_as_the_report(deployed: Deployed) -> None:
    sagemaker = deployed.cloud.client("sagemaker")
    models = sagemaker.list_models(
        NameContains=f"{deployed.name}-", SortBy="CreationTime", SortOrder="Ascending"
    )
    plan = plan_of("digits", batch_predict=True, transform={"split_type": "Line", "max_payload_in_mb": 1})
    batch = BatchPredictOperator(
        task_id="batch_predict", inputs={"dataset": "dataset", "model_name": "model", "assessment": "assess"}
    )
    returned = batch.execute(
        context(
            plan=plan,
            dataset={"uri": f"s3://{BUCKET}/evergreen/digits/dataset"},
            model=models["Models"][0]["ModelName"],
            assess={"uri": f"{deployed.runs[0]}/assess"},
        )
    )
    assert returned["batch"]["images"] == 360
    assert returned["batch"]["largest_difference"] <= 0.001


def shapes(folder: Path) -> None:
    """Three classes of JPEG and PNG files of different sizes, modes and colours."""
    for split, count in (("train", 24), ("val", 40), ("test", 8)):
        for kind in ("disc", "square", "stripes"):
            (folder / split / kind).mkdir(parents=True)
            for n in range(count):
                width, height = 40 + 13 * n % 60, 48 + 7 * n % 50
                mode = ("RGB", "L", "RGBA")[n % 3]
                image = Image.new("RGB", (width, height), (20 + n * 3, 30, 60))
                draw = ImageDraw.Draw(image)
                box = (width // 4, height // 4, 3 * width // 4, 3 * height // 4)
                if kind == "disc":
                    draw.ellipse(box, fill=(250, 200, 20))
                elif kind == "square":
                    draw.rectangle(box, fill=(240, 240, 250))
                else:
                    for x in range(0, width, 8):
                        draw.line((x, 0, x, height), fill=(200, 30, 30), width=3)
                suffix = "jpg" if n % 2 and mode != "RGBA" else "png"
                image.convert(mode).save(folder / split / kind / f"picture {n:02d}.{suffix}")


def test_a_folder_and_ten_lines_of_yaml_are_a_new_pipeline(stack: Stack, demo: Demo, tmp_path: Path) -> None:
    shapes(tmp_path / "shapes")
    (tmp_path / "shapes/train/disc/cut short.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (tmp_path / "shapes/train/disc/Thumbs.db").write_bytes(b"x")
    text = f"""\
dataset:
  source: {tmp_path / "shapes"}
  splits: {{validation: val}}
  max_unreadable: 0.02
model: {{weights: none, image_size: 64}}
tuning: {{max_jobs: 2, batch_size: [16, 32], epochs: {{min: 5, max: 10}}}}
assess: {{int8_max_accuracy_loss: 0.05}}
"""
    assert len(text.splitlines()) <= 10
    (stack.dags / "pipelines" / "shapes.yaml").write_text(text)
    done = demo("shapes")
    assert done.returncode == 0
    told = summary(stack)
    (command,) = (line for line in done.stdout.splitlines() if line.lstrip().startswith("curl "))
    _, _, file, _, header, url = shlex.split(command)
    body, (name, kind) = (REPOSITORY / file.removeprefix("@")).read_bytes(), header.split(": ")
    assert kind == ("image/png" if file.endswith(".png") else "image/jpeg")
    with urllib.request.urlopen(urllib.request.Request(url, body, {name: kind})) as answer:
        assert json.load(answer)["label"] == told["prediction"]["label"]
    assert told["metrics"]["accuracy"] > 0.8
    assert {entry["class"] for entry in told["metrics"]["per_class"]} == {"disc", "square", "stripes"}
    assert told["prediction"]["truth"] in {"disc", "square", "stripes"}
    report = json.loads(Path(told["report"]).with_name("report.json").read_text())
    (unreadable,) = report["unreadable"]
    assert (unreadable["split"], unreadable["file"]) == ("train", "disc/cut short.png")
    assert report["features"]["unreadable"]["count"] == 1
    assert report["dataset"]["ignored"]["examples"][0]["file"] == "train/disc/Thumbs.db"
    # The pictures of a number are drawn alike in every split.
    assert report["dataset"]["duplicates"]["count"] > 10

    # The quantised network was within its bound, so it is what was tested, deployed, and verified by what it answers.
    assert report["int8"]["accepted"], report["int8"]
    cloud = stack.cloud()
    sagemaker = cloud.client("sagemaker")
    (model,) = sagemaker.list_models(NameContains="shapes")["Models"]
    container = sagemaker.describe_model(ModelName=model["ModelName"])["PrimaryContainer"]
    assert container["ModelDataUrl"].endswith("/assess/" + report["int8"]["archive"])
    group = f"/aws/sagemaker/Endpoints/{told['endpoint']['name']}"
    logged = cloud.client("logs").filter_log_events(logGroupName=group)["events"]
    assert any(event["message"].endswith("by int8") for event in logged), logged


@pytest.mark.parametrize(
    ("conf", "sentence"),
    [
        ({"lr_min": 0.5, "lr_max": 0.1}, "tuning.lr: min (0.5) is above max (0.1)"),
        ({"source": "missing_test"}, "dataset.splits.test: there is no folder 'test'"),
    ],
)
def test_bad_input_stops_before_anything_is_created(
    stack: Stack, demo: Demo, tmp_path: Path, conf: dict[str, Any], sentence: str
) -> None:
    if "source" in conf:
        for split in ("train", "valid"):
            (tmp_path / split / "a").mkdir(parents=True)
        conf = {"source": str(tmp_path)}
    # A pipeline of its own, so that whatever is there was made by this run.
    name = f"bad{abs(hash(sentence)) % 10_000}"
    (stack.dags / "pipelines" / f"{name}.yaml").write_text("dataset: {source: var/data/digits}\n")
    done = demo(name, **conf)
    assert done.returncode == 1
    assert sentence in done.stdout
    cloud = stack.cloud()
    assert not cloud.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=f"evergreen/{name}/").get("Contents")
    sagemaker = cloud.client("sagemaker")
    assert not sagemaker.list_processing_jobs(NameContains=name)["ProcessingJobSummaries"]
    assert not sagemaker.list_training_jobs(NameContains=name)["TrainingJobSummaries"]
