"""What all pipelines are doing: what serves, the last runs, their verdicts."""

from typing import Any

from airflow.models.dagrun import DagRun
from airflow.models.xcom import XComModel
from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from botocore.exceptions import BotoCoreError, ClientError
from sqlalchemy import select
from sqlalchemy.orm import Session

from evergreen import names, settings
from evergreen.web import jobs, reports

RUNS = 10


def facts(session: Session, sagemaker: SageMakerHook, readable: set[str]) -> list[dict[str, Any]]:
    """What `overview.html.j2` shows: one entry for each pipeline whose DAG the reader may see."""
    return [
        _pipeline(session, sagemaker, name)
        for name in reports.pipelines()
        if reports.DAG_PREFIX + name in readable
    ]


def _pipeline(session: Session, sagemaker: SageMakerHook, name: str) -> dict[str, Any]:
    dag_id = reports.DAG_PREFIX + name
    runs = _runs(session, dag_id)
    entry: dict[str, Any] = {"name": name, "dag_id": dag_id, "runs": runs, "serving": None, "problem": None}
    try:
        entry["description"] = reports.pipeline(name).description
        entry["serving"] = jobs.endpoint(sagemaker, names.endpoint(name))
    except settings.SettingsError as error:
        entry |= {"description": "", "problem": f"This pipeline file cannot be used. {error}"}
    except (BotoCoreError, ClientError) as error:
        entry["problem"] = f"What serves cannot be told: {error}"
    model_data = (entry["serving"] or {}).get("model_data") or ""
    for run in runs:
        # The archive that serves lies in the folder of the run which made it.
        run["serves"] = f"/runs/{names.run_folder(dag_id, run['run_id'])}/" in model_data
    return entry


def _runs(session: Session, dag_id: str) -> list[dict[str, Any]]:
    """The newest first; verdict and accuracy are what the task `assess` returned."""
    found = session.scalars(
        select(DagRun).where(DagRun.dag_id == dag_id).order_by(DagRun.run_after.desc()).limit(RUNS)
    ).all()
    assessed = select(XComModel).where(
        XComModel.dag_id == dag_id,
        XComModel.task_id == "assess",
        XComModel.key.in_(("verdict", "accuracy")),
        XComModel.run_id.in_([run.run_id for run in found]),
    )
    values = {
        (entry.run_id, entry.key): XComModel.deserialize_value(entry) for entry in session.scalars(assessed)
    }
    return [
        {
            "run_id": run.run_id,
            "why": _why(values.get((run.run_id, "verdict")), run.end_date is not None),
            "state": str(getattr(run.state, "value", run.state)),
            "started": run.start_date,
            "seconds": (run.end_date - run.start_date).total_seconds()
            if run.start_date and run.end_date
            else None,
            "verdict": values.get((run.run_id, "verdict")),
            "accuracy": values.get((run.run_id, "accuracy")),
        }
        for run in found
    ]


def _why(verdict: dict[str, Any] | None, ended: bool) -> str:
    """The one reason that says most: what failed, what is asked, how it compares with the champion."""
    if verdict is None:
        return "It ended before it was assessed." if ended else "It is under way."
    most = {"hold": 0, "ask": -1, "promote": 1}[verdict["decision"]]
    return str(verdict["reasons"][most])
