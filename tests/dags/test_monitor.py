"""The monitor's DAG: there for the pipelines that ask for it, and what their schedules are."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import Asset, AssetOrTimeSchedule
from airflow.serialization.serialized_objects import DagSerialization

from evergreen import pipeline
from tests.dags.test_retrain import DAGS, bag

CAPTURE = "deployment: {data_capture: {initial_sampling_percentage: 50}}"


def mine(tmp_path: Path, *lines: str) -> dict[str, Any]:
    """The DAGs of `dags/` with one more pipeline file, by id."""
    folder = shutil.copytree(DAGS, tmp_path / "dags")
    (folder / "pipelines" / "mine.yaml").write_text("\n".join(["dataset: {source: x}", *lines]))
    found = bag(folder)
    assert not found.import_errors
    for dag in found.dags.values():
        DagSerialization.to_dict(dag)
    return dict(found.dags)


def test_a_monitor_is_a_dag_that_triggers_the_retraining_which_has_schedules_of_its_own(
    tmp_path: Path,
) -> None:
    times = "schedule: {asset: new_pets, cron: '@quarterly'}"
    dags = mine(tmp_path, CAPTURE, "monitor: {}", times, "notify: {deadline_minutes: 90}")
    monitor, retrain = dags["monitor_mine"], dags["retrain_mine"]
    assert monitor.schedule == "@daily"
    assert [task.task_id for task in monitor.topological_sort()] == [
        "plan", "upload_code", "compare", "drifted", "retrain",
    ]  # fmt: skip
    assert monitor.get_task("retrain").trigger_dag_id == "retrain_mine"
    assert "retraining is triggered" in monitor.doc_md
    assert isinstance(retrain.schedule, AssetOrTimeSchedule)
    assert retrain.timetable.timetable.expression == "0 0 1 */3 *"
    assert list(retrain.timetable.asset_condition.objects) == [Asset("new_pets")]
    (alert,) = retrain.deadline
    assert alert.interval.total_seconds() == 90 * 60
    assert alert.callback.path == "evergreen.deadlines.tell"
    assert dags["retrain_digits"].deadline is None


def test_a_monitor_may_only_tell(tmp_path: Path) -> None:
    topic = "notify: {sns: 'arn:aws:sns:us-east-1:123456789012:models'}"
    dag = mine(tmp_path, CAPTURE, topic, "monitor: {schedule: null, retrain: false}")["monitor_mine"]
    assert dag.schedule is None
    assert set(dag.task_ids) == {"plan", "upload_code", "compare"}
    assert dag.get_task("compare").on_success_callback
    assert "nothing is triggered" in dag.doc_md


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["monitor: {}"], "set deployment.data_capture.initial_sampling_percentage above 0"),
        (
            [
                "deployment: {data_capture: {initial_sampling_percentage: 1, capture_modes: [Output]}}",
                "monitor: {}",
            ],
            "with Input among capture_modes",
        ),
        (
            ["schedule: {asset: mine_dataset}"],
            "schedule.asset: mine_dataset is what the pipeline's own runs update",
        ),
        (["schedule: {asset: mine_report}"], "so each would start the next"),
        (["schedule: {}"], "schedule: needs cron, asset or both"),
        (["schedule: {asset: x, cron: '@continuous'}"], "@continuous and an asset do not go together"),
        (["schedule: {cron: now and then}"], "schedule.cron: 'now and then' is neither a cron expression"),
    ],
)
def test_what_cannot_be_is_one_sentence(tmp_path: Path, lines: list[str], sentence: str) -> None:
    (tmp_path / "mine.yaml").write_text("\n".join(["dataset: {source: x}", *lines]))
    loaded = pipeline.load(tmp_path / "mine.yaml")
    assert sentence in loaded.doc_md
    assert loaded.monitor is None


def test_an_asset_alone_is_a_schedule_too(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("dataset: {source: x}\nschedule: {asset: 's3://bucket/new'}")
    assert pipeline.load(tmp_path / "mine.yaml").schedule == [Asset("s3://bucket/new")]
