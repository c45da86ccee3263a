"""What a DAG file needs to know of a pipeline file, whatever state that file is in.

A mistake in one pipeline file must not take the other DAGs away, and must be told to the person who runs this
one: its DAG is there, shows the mistake as its documentation, and fails in `plan` with the same sentence.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import Param
from airflow.sdk.definitions.deadline import DeadlineAlert

from evergreen import deadlines, notifications, params
from evergreen.schedule_settings import Monitor
from evergreen.settings import Notify, Pipeline, SettingsError, read, validate

# What Airflow allows in a DAG's id, and what S3 keys and SageMaker names can carry.
NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")


@dataclass(frozen=True)
class DagSettings:
    dag_id: str
    description: str
    # Airflow's argument: a cron expression, assets, or a timetable of both.
    schedule: Any
    tags: tuple[str, ...]
    params: dict[str, Param]
    doc_md: str
    # What the DAG's tasks call when it has happened, to tell people of it.
    tell: dict[notifications.Event, notifications.Callback | None]
    # Airflow's, of a run that overstays.
    deadline: DeadlineAlert | None
    # Of the tasks that change the endpoint.
    pool: str = "default_pool"
    # What the pipeline file says of its monitor; None where there is none, or the file is broken.
    monitor: Monitor | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """What every DAG of the pipeline has alike: one endpoint, one run at a time."""
        return {
            # Airflow schedules nothing without one; with catchup off, runs begin now.
            "start_date": datetime(2026, 1, 1, tzinfo=UTC),
            "catchup": False,
            "max_active_runs": 1,
            "tags": self.tags,
            "default_args": {
                "retries": 2,
                "retry_delay": timedelta(seconds=15),
                "on_failure_callback": self.tell["failed"],
            },
        }


def assets(name: str) -> dict[str, str]:
    """What a pipeline's own runs update: what → the asset's name."""
    return {"dataset": f"{name}_dataset", "report": f"{name}_report"}


def dag_id(name: str, what: str = "retrain") -> str:
    """Of the pipeline file `name`; `what` is retrain or monitor."""
    return f"{what}_{re.sub(r'[^A-Za-z0-9_-]', '_', name)[:100]}"


def check_name(file: Path) -> None:
    """:raises SettingsError: when no DAG can be called after the file."""
    if not NAME.fullmatch(file.stem):
        raise SettingsError(f"{file.name}: the name may have letters, digits, _ and - only: rename the file")


def check_schedule(pipeline: Pipeline, file: Path) -> None:
    """:raises SettingsError: when each run would start the next."""
    asset = pipeline.schedule and pipeline.schedule.asset
    if asset in assets(file.stem).values():
        raise SettingsError(
            f"{file.name}: schedule.asset: {asset} is what the pipeline's own runs update, so each would start the next"
        )


def load(file: Path) -> DagSettings:
    try:
        check_name(file)
        pipeline = validate(read(file), file.name)
        check_schedule(pipeline, file)
        tell = notifications.callbacks(pipeline.notify, file.stem)
    except SettingsError as error:
        return DagSettings(
            dag_id(file.stem),
            description=f"Broken: {error}"[:200],
            schedule=None,
            tags=("evergreen", "broken"),
            params={},
            doc_md=f"**This pipeline file cannot be used.** {error}",
            tell=notifications.callbacks(Notify(), file.stem),
            deadline=None,
        )
    return DagSettings(
        dag_id(file.stem),
        description=pipeline.description,
        schedule=pipeline.schedule and pipeline.schedule.for_airflow(),
        tags=("evergreen", *pipeline.tags),
        params=params.build(pipeline),
        doc_md=f"{pipeline.description}\n\n```yaml\n{file.read_text()}\n```",
        tell=tell,
        deadline=deadlines.alert(pipeline.notify, file.stem),
        pool=pipeline.pool,
        monitor=pipeline.monitor,
    )
