"""Weights and features, staged and computed by real jobs on a real local cloud."""

import hashlib
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException
from PIL import Image

from evergreen import features, source_code, sync
from evergreen.operators import ExtractFeaturesOperator, StageWeightsOperator
from evergreen.plan import Plan
from evergreen.settings import validate
from scripts.local_stack import BUCKET, ROLE, Cloud

pytestmark = pytest.mark.filterwarnings("ignore:.*outside of the Task Runner")

IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-training:2.10.0-cpu-py313"
CLASSES = ("ant", "bee")
IMAGES = {"train": 12, "validation": 6, "test": 1}
"""Of each class."""


def plan(name: str, run_id: str = "r", **pipeline: Any) -> Plan:
    settings = {"dataset": {"source": "x"}, **pipeline}
    settings["model"] = {"weights": "none", "image_size": 32} | settings.get("model", {})
    return Plan(
        dag_id=f"retrain_{name}", run_id=run_id, run_type="manual", started_at="", pipeline_name=name,
        pipeline=validate(settings, "x.yaml"), bucket=BUCKET, role=f"arn:aws:iam::000000000000:role/{ROLE}",
        training_image=IMAGE, inference_image="i",
    )  # fmt: skip


def context(planned: Plan, task: str, **returned: Any) -> Any:
    values = {"plan": planned.to_xcom(), **returned}
    instance = SimpleNamespace(
        dag_id=planned.dag_id, run_id=planned.run_id, task_id=task, map_index=-1,
        xcom_pull=lambda task_ids: values[task_ids],
    )  # fmt: skip
    return {"ti": instance}


def picture(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 40), (shade, 255 - shade, 128)).save(file, "PNG")
    return file.getvalue()


def dataset(cloud: Cloud, planned: Plan, broken: tuple[str, ...] = ()) -> dict[str, Any]:
    """What sync_dataset returns, for pictures that are put there directly."""
    s3, manifests = cloud.client("s3"), {}
    for split, count in IMAGES.items():
        files = [f"{name}/{number}.png" for name in CLASSES for number in range(count)]
        for number, file in enumerate(files):
            body = b"no image" if f"{split}/{file}" in broken else picture(number)
            s3.put_object(Bucket=BUCKET, Key=f"{planned.root}/dataset/{split}/{file}", Body=body)
        manifests[split] = put(cloud, f"{planned.root}/{split}.manifest", [
            {"prefix": planned.uri("dataset", split, "")}, *files
        ])  # fmt: skip
    counts = {split: dict.fromkeys(CLASSES, count) for split, count in IMAGES.items()}
    document = {"version": "v", "classes": list(CLASSES), "counts": counts}
    uri = put(cloud, f"{planned.root}/dataset.json", document)
    return {"version": "v", "counts": counts, "manifests": manifests, "dataset_uri": uri}


def put(cloud: Cloud, key: str, document: Any) -> str:
    cloud.client("s3").put_object(Bucket=BUCKET, Key=key, Body=json.dumps(document).encode())
    return f"s3://{BUCKET}/{key}"


@pytest.fixture(scope="module")
def code(cloud: Cloud) -> dict[str, str]:
    return sync.upload_source(plan("shared"))


def extract(planned: Plan, data: dict[str, Any], code: dict[str, str], weights: Any = None) -> dict[str, Any]:
    operator = ExtractFeaturesOperator(
        task_id="extract_features",
        inputs={"dataset": "sync_dataset", "code": "upload_code", "weights": "stage_weights"},
    )
    returned = {"sync_dataset": data, "upload_code": code, "stage_weights": weights}
    result: dict[str, Any] = operator.execute(context(planned, "extract_features", **returned))
    return result


def files(cloud: Cloud, uri: str, suffix: str) -> list[str]:
    _, _, key = uri.removeprefix("s3://").partition("/")
    listed = cloud.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=key)["Contents"]
    return [item["Key"] for item in listed if item["Key"].endswith(suffix)]


def test_instances_share_the_images_and_only_what_is_missing_is_computed(
    cloud: Cloud, code: dict[str, str]
) -> None:
    planned = plan("parts", compute={"feature_instance_count": 2})
    data = dataset(cloud, planned, broken=("train/bee/11.png",))
    planned = plan(
        "parts", compute={"feature_instance_count": 2}, dataset={"source": "x", "max_unreadable": 0.1}
    )
    first = extract(planned, data, code)
    assert first["computed"]
    assert first["unreadable"]["count"] == 1
    assert first["unreadable"]["examples"][0]["file"] == "bee/11.png"
    parts = files(cloud, f"{first['uri']}/train/", ".json")
    assert len(parts) == 2

    found = extract(plan("parts", "r2", compute={"feature_instance_count": 2},
                         dataset={"source": "x", "max_unreadable": 0.1}), data, code)  # fmt: skip
    assert first["job"]["instances"] == 2
    assert first["job"]["seconds"] > 0
    assert found == {**first, "computed": False, "job": None}

    # As a job that failed half-way leaves it.
    s3 = cloud.client("s3")
    key = parts[0].removesuffix(".json")
    kept = s3.head_object(Bucket=BUCKET, Key=parts[1])["LastModified"]
    lost = json.loads(s3.get_object(Bucket=BUCKET, Key=parts[0])["Body"].read())["files"]
    before = s3.get_object(Bucket=BUCKET, Key=f"{key}.safetensors")["Body"].read()
    s3.delete_object(Bucket=BUCKET, Key=f"{key}.safetensors")
    s3.delete_object(Bucket=BUCKET, Key=f"{first['uri'].partition(f'{BUCKET}/')[2]}/complete.json")
    again = plan("parts", "r3", dataset={"source": "x", "max_unreadable": 0.1})
    mended = extract(again, data, code)
    assert mended["job"]["name"] != first["job"]["name"]
    assert {**mended, "job": None} == {**first, "job": None}
    sagemaker = cloud.client("sagemaker")
    jobs = sagemaker.list_processing_jobs(NameContains="parts-extract", SortOrder="Descending")
    name = jobs["ProcessingJobSummaries"][0]["ProcessingJobName"]
    request = sagemaker.describe_processing_job(ProcessingJobName=name)
    inputs = {item["InputName"]: item["S3Input"]["S3Uri"] for item in request["ProcessingInputs"]}
    assert "validation" not in inputs
    missing = json.loads(
        s3.get_object(Bucket=BUCKET, Key=inputs["train"].partition(f"{BUCKET}/")[2])["Body"].read()
    )
    assert sorted(missing[1:]) == sorted(lost)
    assert s3.head_object(Bucket=BUCKET, Key=parts[1])["LastModified"] == kept
    assert s3.get_object(Bucket=BUCKET, Key=f"{key}.safetensors")["Body"].read() == before


def test_too_many_unreadable_images_stop_the_run(cloud: Cloud, code: dict[str, str]) -> None:
    planned = plan("unreadable")
    data = dataset(cloud, planned, broken=("train/ant/0.png", "train/ant/1.png"))
    with pytest.raises(
        AirflowException, match=r"of 24 images .* are unreadable, more than the 1\.0% allowed"
    ):
        extract(planned, data, code)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"train": {"classes": {"ant": 12, "bee": 11}, "unreadable": []}}, "cover 23 of 24 images of the train"),
        ({"train": {"classes": {"ant": 24, "bee": 0}, "unreadable": []}}, "class bee has no readable image"),
        ({"train": {"classes": {"ant": 12, "bee": 11}, "unreadable": [{"file": "a", "reason": "it is empty"}]}},
         "1 of 24 images of the train split are unreadable, more than the 1.0%"),
        ({"train": {"classes": {"ant": 12, "bee": 12}, "unreadable": []}}, "cover 0 of 12 images of the validation"),
    ],
)  # fmt: skip
def test_incomplete_features_are_not_used(cloud: Cloud, parts: dict[str, Any], message: str) -> None:
    uri = f"s3://{BUCKET}/incomplete/{hashlib.sha256(message.encode()).hexdigest()[:8]}"
    for split, part in parts.items():
        put(cloud, f"{uri.partition(f'{BUCKET}/')[2]}/{split}/part-1.json", part)
        put(cloud, f"{uri.partition(f'{BUCKET}/')[2]}/{split}/part-1.safetensors", "")
    counts = {split: dict.fromkeys(CLASSES, count) for split, count in IMAGES.items()}
    s3 = S3Hook(aws_conn_id="aws_default")
    with pytest.raises(features.FeaturesError, match=message):
        features.finish(s3, uri, {"counts": counts}, 0.01, "job")
    assert features.find(s3, uri) is None


CODE = {"hash": "h", "features_hash": "f"}


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": {"version": "w"}},
        {"code": {**CODE, "features_hash": "g"}},
        {"weights": {"name": "DEFAULT", "uri": "s3://b/w"}},
        {"plan": plan("address", model={"image_size": 64})},
        {"plan": plan("address", model={"arch": "resnet34"})},
        {"plan": plan("address", model={"views": 2})},
        {"plan": plan("address", model={"tail": "layer4"})},
        {"plan": plan("address").model_copy(update={"training_image": "other"})},
    ],
    ids=str,
)
def test_the_address_depends_on_what_features_depend_on(change: dict[str, Any]) -> None:
    same = {"plan": plan("address"), "dataset": {"version": "v"}, "code": CODE, "weights": None}
    other_run = {**same, "plan": plan("address", "r2"), "code": {**CODE, "hash": "i"}}
    assert features.address(**same) == features.address(**other_run)
    assert features.address(**same) != features.address(**(same | change))


def stage(planned: Plan, code: dict[str, str]) -> dict[str, Any] | None:
    operator = StageWeightsOperator(task_id="stage_weights", inputs={"code": "upload_code"})
    result: dict[str, Any] | None = operator.execute(context(planned, "stage_weights", upload_code=code))
    return result


def test_random_weights_need_no_staging(code: dict[str, str]) -> None:
    assert stage(plan("none"), code) is None


def test_a_local_file_goes_to_s3_under_its_hash(cloud: Cloud, code: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    file.write_bytes(b"weights")
    staged = stage(plan("file", model={"weights": str(file)}), code)
    assert staged
    assert staged["name"] == staged["uri"]
    assert staged["uri"].endswith(f"/{hashlib.sha256(b'weights').hexdigest()[:16]}/mine.safetensors")
    assert stage(plan("file", model={"weights": staged["uri"]}), code) == staged
    with pytest.raises(AirflowFailException, match=r"model\.weights: there is no object s3://"):
        stage(plan("file", model={"weights": f"s3://{BUCKET}/nothing.pth"}), code)


def test_weights_that_were_fetched_are_not_fetched_again(cloud: Cloud, code: dict[str, str]) -> None:
    """No network is needed for it: there is none in the job that would fetch them."""
    planned = plan("known", model={"weights": "IMAGENET1K_V1", "arch": "resnet34"})
    operator = StageWeightsOperator(task_id="stage_weights", inputs={"code": "upload_code"})
    operator.pull(context(planned, "stage_weights", upload_code=code))
    put(cloud, f"{operator.uri.partition(f'{BUCKET}/')[2]}/weights.json", {})
    assert stage(planned, code) == {"name": "IMAGENET1K_V1", "uri": f"{operator.uri}/weights.safetensors"}


def test_unknown_weights_end_with_the_names_there_are(cloud: Cloud, code: dict[str, str]) -> None:
    with pytest.raises(
        AirflowException, match="weights must be none, IMAGENET1K_V1, DEFAULT, a file or an s3"
    ):
        stage(plan("unknown", model={"weights": "IMAGENET21K"}), code)


def test_another_report_leaves_the_features_as_they_are() -> None:
    code = source_code.read()
    for path, kept in (("report/page.py", True), ("train.py", True), ("data/decoding.py", False)):
        changed = tuple((name, b"#" + content if name == path else content) for name, content in code.files)
        assert changed != code.files
        assert (source_code.SourceCode(changed).features_hash == code.features_hash) is kept
