"""Sync and code upload, against the S3 of a real local cloud."""

import io
import json
import shutil
import tarfile
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException
from airflow.sdk import Asset

from evergreen import source_code, sync
from evergreen.plan import Plan
from evergreen.settings import Tuning, validate
from scripts.local_stack import BUCKET, Cloud

# An operator run without Airflow's task runner says so.
pytestmark = pytest.mark.filterwarnings("ignore:.*outside of the Task Runner")


def plan(name: str, source: str, **changes: Any) -> Plan:
    dataset = {"source": source, "delete_removed": changes.pop("delete_removed", False)}
    return Plan(
        dag_id=f"retrain_{name}", run_id="r", run_type="manual", started_at="", pipeline_name=name,
        pipeline=validate({"dataset": dataset}, "x.yaml"), bucket=BUCKET, role="r",
        training_image="i", inference_image="i",
    ).model_copy(update=changes)  # fmt: skip


def run(planned: Plan, pushed: dict[str, Any] | None = None, **operator: Any) -> dict[str, Any]:
    """What the operator returns; `pushed` gets its other XComs and its Asset events."""
    pushed = {} if pushed is None else pushed
    instance = SimpleNamespace(
        xcom_pull=lambda task_ids: planned.to_xcom(),
        xcom_push=lambda key, value: pushed.update({key: value}),
    )
    events: Any = defaultdict(SimpleNamespace)
    context = {"ti": instance, "outlet_events": events}
    result: dict[str, Any] = sync.SyncDatasetOperator(task_id="sync_dataset", **operator).execute(context)
    pushed |= {asset.name: event.extra for asset, event in events.items()}
    return result


def stored(cloud: Cloud, prefix: str) -> dict[str, bytes]:
    s3 = cloud.client("s3")
    listed = s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    return {
        item["Key"].removeprefix(prefix): s3.get_object(Bucket=BUCKET, Key=item["Key"])["Body"].read()
        for item in listed
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in ("train", "valid", "test"):
        for name in ("ein Hund", "katze"):
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "é 1+1.jpg").write_bytes(f"{split} {name}".encode())
    return tmp_path


def test_what_others_read_of_the_result(cloud: Cloud, folder: Path) -> None:
    (folder / "train/katze/notes.txt").touch()
    (folder / "test/katze/copy.jpg").write_bytes(b"train katze")
    pushed: dict[str, Any] = {}
    result = run(plan("result", str(folder)), pushed, outlets=[Asset(name="pets")])
    version, root = result["version"], f"s3://{BUCKET}/evergreen/result"
    counts = {split: {"ein Hund": 1, "katze": 1} for split in ("test", "train", "validation")}
    counts["test"]["katze"] = 2
    doubt = "does not begin like an image"
    assert result == {
        "version": version,
        "uri": f"{root}/dataset",
        "counts": counts,
        "ignored": {
            "count": 1,
            "examples": [{"file": "train/katze/notes.txt", "reason": "is no image by its name"}],
        },
        "doubtful": {
            "count": 7,
            "examples": [
                {"file": f"{split}/{name}.jpg", "reason": doubt}
                for split, name in (
                    ("test", "ein Hund/é 1+1"), ("test", "katze/copy"), ("test", "katze/é 1+1"),
                    ("train", "ein Hund/é 1+1"), ("train", "katze/é 1+1"), ("validation", "ein Hund/é 1+1"),
                    ("validation", "katze/é 1+1"),
                )
            ],
        },
        "duplicates": {"count": 1, "examples": [["test/katze/copy.jpg", "train/katze/é 1+1.jpg"]]},
        "sent": 7,
        "deleted": 0,
        "dataset_uri": f"{root}/dataset-versions/{version}/dataset.json",
        "manifests": {
            split: f"{root}/dataset-versions/{version}/{split}.manifest"
            for split in ("train", "validation", "test")
        },
    }  # fmt: skip
    assert pushed == {"pets": {"version": version, "counts": counts, "uri": f"{root}/dataset"}}
    assert json.loads(json.dumps(result)) == result


def test_only_what_changed_is_sent(cloud: Cloud, folder: Path) -> None:
    first = run(plan("changes", str(folder)))
    assert first["sent"] == 6
    assert stored(cloud, "evergreen/changes/dataset/validation/")["katze/é 1+1.jpg"] == b"valid katze"
    assert run(plan("changes", str(folder))) == {**first, "sent": 0}
    # The same size: only the checksum tells.
    (folder / "train/katze/é 1+1.jpg").write_bytes(b"train KATZE")
    second = run(plan("changes", str(folder)))
    assert second["sent"] == 1
    assert second["version"] != first["version"]
    cloud.client("s3").delete_object(Bucket=BUCKET, Key="evergreen/changes/dataset/test/katze/é 1+1.jpg")
    assert run(plan("changes", str(folder)))["sent"] == 1


def test_a_dry_run_says_what_it_would_do_and_is_skipped(cloud: Cloud, folder: Path) -> None:
    pushed: dict[str, Any] = {}
    with pytest.raises(AirflowSkipException, match="dry run: 6 files to send, 0 to delete"):
        run(plan("dry", str(folder), dry_run=True), pushed)
    assert pushed["dry_run"]["send"]["count"] == 6
    assert not stored(cloud, "evergreen/dry/")
    run(plan("dry", str(folder)))
    for split in ("train", "valid", "test"):
        shutil.rmtree(folder / split / "katze")
        shutil.copytree(folder / split / "ein Hund", folder / split / "vogel")
    with pytest.raises(AirflowSkipException, match="dry run: 3 files to send, 0 to delete"):
        run(plan("dry", str(folder), dry_run=True))
    with pytest.raises(AirflowSkipException, match="dry run: 3 files to send, 3 to delete"):
        run(plan("dry", str(folder), dry_run=True, delete_removed=True), pushed)
    assert pushed["dry_run"]["delete"]["examples"][0] == "test/katze/é 1+1.jpg"
    assert run(plan("dry", str(folder), delete_removed=True))["deleted"] == 3


def test_a_version_lists_its_own_files_and_no_older_ones(cloud: Cloud, folder: Path) -> None:
    extra = folder / "train/katze/2.png"
    extra.write_bytes(b"two")
    older = run(plan("versions", str(folder)))
    extra.unlink()
    newer = run(plan("versions", str(folder)))
    manifests = {}
    for result in (older, newer):
        key = result["manifests"]["train"].removeprefix(f"s3://{BUCKET}/")
        manifests[result["version"]] = json.loads(stored(cloud, key)[""])
    assert manifests[older["version"]][0] == {"prefix": f"s3://{BUCKET}/evergreen/versions/dataset/train/"}
    assert "katze/2.png" in manifests[older["version"]]
    assert "katze/2.png" not in manifests[newer["version"]]
    # Nothing is deleted.
    assert "katze/2.png" in stored(cloud, "evergreen/versions/dataset/train/")


def test_an_s3_prefix_is_a_source_too(cloud: Cloud, folder: Path) -> None:
    s3 = cloud.client("s3")
    for path in folder.rglob("*.jpg"):
        s3.upload_file(str(path), BUCKET, f"elsewhere/pets/{path.relative_to(folder).as_posix()}")
    planned = plan("from-s3", f"s3://{BUCKET}/elsewhere/pets")
    assert run(planned)["sent"] == 6
    assert stored(cloud, "evergreen/from-s3/dataset/test/")["ein Hund/é 1+1.jpg"] == b"test ein Hund"
    assert run(planned)["sent"] == 0


def judged(cloud: Cloud, planned: Plan, result: dict[str, Any], folder: str, decision: str) -> None:
    """What a run of this plan leaves when its model has been judged."""
    s3, root = cloud.client("s3"), f"evergreen/{planned.pipeline_name}"
    images = {"training": planned.training_image, "inference": planned.inference_image}
    context = {
        "run": {"run_id": folder, "settings": planned.pipeline.model_dump(mode="json")},
        "dataset": {"version": result["version"]},
        "code": {"hash": source_code.read().hash, "git_revision": "of another day"},
        "lineage": {"images": images},
    }
    s3.put_object(Bucket=BUCKET, Key=f"{root}/runs/{folder}/context.json", Body=json.dumps(context))
    latest = {"run_folder": folder, "verdict": {"decision": decision}}
    s3.put_object(Bucket=BUCKET, Key=f"{root}/reports/latest.json", Body=json.dumps(latest))


def test_a_run_that_would_learn_nothing_new_is_skipped_unless_a_person_asks(
    cloud: Cloud, folder: Path
) -> None:
    planned = plan("scheduled", str(folder), run_type="scheduled")
    judged(cloud, planned, run(planned), "first", "hold")
    with pytest.raises(
        AirflowSkipException, match=r"nothing new .*those of run first, which was judged last: hold"
    ):
        run(planned)
    assert run(plan("scheduled", str(folder)))["sent"] == 0
    assert run(planned.model_copy(update={"force": True}))["sent"] == 0
    for changed in (
        {"training_image": "j"},
        {"pipeline": planned.pipeline.model_copy(update={"tuning": Tuning(max_jobs=9)})},
    ):
        assert run(planned.model_copy(update=changed))["sent"] == 0
    # Who is told, and when, makes no other model.
    told = planned.pipeline.model_copy(update={"schedule": None, "description": "other words"})
    with pytest.raises(AirflowSkipException):
        run(planned.model_copy(update={"pipeline": told}))
    (folder / "test/katze/new.jpg").write_bytes(b"new")
    assert run(planned)["sent"] == 1


def test_drift_without_new_data_says_both(cloud: Cloud, folder: Path) -> None:
    # The run type of a person's own, as older versions of Airflow have it for a triggered run.
    planned = plan("drift", str(folder), drift="brightness has gone")
    judged(cloud, planned, run(planned), "first", "promote")
    with pytest.raises(
        AirflowSkipException, match=r"drift \(brightness has gone\), and nothing new .* with force"
    ):
        run(planned)


def test_nothing_is_sent_from_a_broken_folder(cloud: Cloud, folder: Path) -> None:
    (folder / "valid/katze/é 1+1.jpg").unlink()
    with pytest.raises(AirflowFailException, match=r"the validation split of .* lacks 'katze'"):
        run(plan("broken", str(folder)))
    assert not stored(cloud, "evergreen/broken/")


def test_the_code_is_uploaded_once(cloud: Cloud) -> None:
    planned = plan("code", "x")
    first = sync.upload_source(planned)
    assert sync.upload_source(planned) == first
    files = stored(cloud, f"evergreen/code/code/{first['hash']}/")
    with tarfile.open(fileobj=io.BytesIO(files["sourcedir.tar.gz"])) as tar:
        assert {f"src/{name}" for name in tar.getnames()} == set(files) - {"sourcedir.tar.gz"}
        assert {"train.py", "requirements.txt", "debugger/compat.py"} <= set(tar.getnames())
