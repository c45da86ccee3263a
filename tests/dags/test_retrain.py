"""The DAG file: it imports without a fuss, shows one DAG for each pipeline file, and survives a broken one."""

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization

DAGS = Path(__file__).resolve().parents[2] / "dags"


def bag(folder: Path) -> DagBag:
    return DagBag(dag_folder=folder, bundle_name="test")


def test_one_dag_for_each_pipeline_file() -> None:
    found = bag(DAGS)
    assert not found.import_errors
    files = (DAGS / "pipelines").glob("*.yaml")
    assert set(found.dags) == {"rollback", *(f"retrain_{path.stem}" for path in files)}
    assert {"retrain_digits", "retrain_dog_breeds"} <= set(found.dags)


def test_a_tasks_process_reads_its_own_pipeline_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # As Airflow's task runner sets it: with a hundred pipelines the others would cost each task seconds.
    monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", "retrain_digits")
    found = bag(DAGS / "retrain.py")
    assert not found.import_errors
    assert set(found.dags) == {"retrain_digits"}


def test_the_graph_is_the_designs() -> None:
    dag = bag(DAGS).dags["retrain_digits"]
    expected = {
        "plan": {"sync_dataset"},
        "sync_dataset": {"upload_code"},
        "upload_code": {"stage_weights"},
        "stage_weights": {"extract_features"},
        "extract_features": {"tune"},
        "tune": {"retrain"},
        "retrain": {"assess"},
        "assess": {"export_report"},
        "export_report": {"gate"},
        "gate": {"hold", "register"},
        "register": {"approve", "deploy.model"},
        "approve": {"deploy.model"},
        "deploy.model": {"deploy.endpoint_config"},
        "deploy.endpoint_config": {"deploy.endpoint"},
        "deploy.endpoint": {"verify"},
        "verify": {"batch_predict", "retire"},
        "batch_predict": {"retire"},
    }
    assert set(dag.task_ids) == {*expected, "hold", "retire"}
    for task, downstream in expected.items():
        # Exactly these: an arrow more, and a person no longer sees the order of the steps.
        assert downstream == dag.get_task(task).downstream_task_ids, task
    assert dag.max_active_runs == 1


def test_what_changes_the_endpoint_is_in_the_pipelines_pool(tmp_path: Path) -> None:
    dags = Path(shutil.copytree(DAGS, tmp_path / "dags"))
    with (dags / "pipelines/digits.yaml").open("a") as file:
        file.write("pool: endpoints\n")
    dag = bag(dags / "retrain.py").dags["retrain_digits"]
    pools = {task_id: dag.get_task(task_id).pool for task_id in dag.task_ids}
    changing = {"deploy.model", "deploy.endpoint_config", "deploy.endpoint", "verify"}
    assert {task_id for task_id, pool in pools.items() if pool == "endpoints"} == changing
    assert {pools[task_id] for task_id in pools.keys() - changing} == {"default_pool"}


def test_the_dags_serialize() -> None:
    for dag in bag(DAGS).dags.values():
        DagSerialization.to_dict(dag)


def test_nothing_heavy_is_imported() -> None:
    """In a process of its own: other tests import what tasks do."""
    program = """\
import sys
from airflow.dag_processing.dagbag import DagBag
found = DagBag(dag_folder=sys.argv[1], bundle_name="test")
assert found.dags and not found.import_errors
print(sorted({"torch", "sagemaker", "smdebug", "aiobotocore"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(DAGS)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "text",
    [
        "tuning: {lr: {min: 1, max: 0.1}}\ndataset: {source: x}",
        "schedule: now and then\ndataset: {source: x}",
        pytest.param(
            "notify: {slack: {channel: '#models'}}\ndataset: {source: x}",
            marks=pytest.mark.skipif(
                find_spec("airflow.providers.slack") is not None, reason="it is installed"
            ),
        ),
        "a: [",
        "",
    ],
)
def test_a_broken_pipeline_file_leaves_the_other_dags_alone(tmp_path: Path, text: str) -> None:
    folder = shutil.copytree(DAGS, tmp_path / "dags")
    (folder / "pipelines" / "mine.yaml").write_text(text)
    found = bag(folder)
    assert not found.import_errors
    assert "retrain_digits" in found.dags
    assert "broken" in found.dags["retrain_mine"].tags
    assert "mine.yaml" in found.dags["retrain_mine"].doc_md


def test_a_file_that_no_dag_can_be_called_after_says_so(tmp_path: Path) -> None:
    folder = shutil.copytree(DAGS, tmp_path / "dags")
    (folder / "pipelines" / "my dogs & cats.yaml").write_text("dataset: {source: x}")
    found = bag(folder)
    assert not found.import_errors
    assert "rename the file" in found.dags["retrain_my_dogs___cats"].doc_md


def test_those_whom_a_pipeline_names_are_told(tmp_path: Path) -> None:
    folder = shutil.copytree(DAGS, tmp_path / "dags")
    topic = "arn:aws:sns:us-east-1:123456789012:models"
    (folder / "pipelines" / "mine.yaml").write_text(f"notify: {{sns: '{topic}'}}\ndataset: {{source: x}}")
    found = bag(folder)
    mine, silent = found.dags["retrain_mine"], found.dags["retrain_digits"]
    assert all(task.on_failure_callback for task in mine.tasks)
    told = {task.task_id for task in mine.tasks if task.on_success_callback}
    assert told == {"gate", "hold", "verify"}
    assert not any(task.on_failure_callback or task.on_success_callback for task in silent.tasks)


@pytest.mark.parametrize("schedule", ["@daily", "@quarterly", "0 3 * * 1"])
def test_a_schedule_is_the_dags(tmp_path: Path, schedule: str) -> None:
    folder = shutil.copytree(DAGS, tmp_path / "dags")
    (folder / "pipelines" / "mine.yaml").write_text(f"schedule: '{schedule}'\ndataset: {{source: x}}")
    found = bag(folder)
    assert not found.import_errors
    assert found.dags["retrain_mine"].schedule == schedule


def test_dog_breeds_are_as_the_source_documents_have_them() -> None:
    params = bag(DAGS).dags["retrain_dog_breeds"].params
    assert params["batch_size"] == [32, 64, 128, 256, 512]
    assert (params["lr_min"], params["lr_max"]) == (0.001, 0.1)
    assert params["arch"] == "resnet18"
