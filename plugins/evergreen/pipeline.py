"""What a DAG file needs to know of a pipeline file, whatever state that file is in.

A mistake in one pipeline file must not take the other DAGs away, and must be told to the person who runs this
one: its DAG is there, shows the mistake as its documentation, and fails in `plan` with the same sentence.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from airflow.sdk import Param

from evergreen import notifications, params
from evergreen.settings import Notify, SettingsError, read, validate

# What Airflow allows in a DAG's id, and what S3 keys and SageMaker names can carry.
NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")


@dataclass(frozen=True)
class DagSettings:
    dag_id: str
    description: str
    schedule: str | None
    tags: tuple[str, ...]
    params: dict[str, Param]
    doc_md: str
    # What the DAG's tasks call when it has happened, to tell people of it.
    tell: dict[notifications.Event, notifications.Callback | None]


def check_name(file: Path) -> None:
    """:raises SettingsError: when no DAG can be called after the file."""
    if not NAME.fullmatch(file.stem):
        raise SettingsError(f"{file.name}: the name may have letters, digits, _ and - only: rename the file")


def load(file: Path) -> DagSettings:
    dag_id = f"retrain_{re.sub(r'[^A-Za-z0-9_-]', '_', file.stem)[:100]}"
    try:
        check_name(file)
        document = read(file)
        pipeline = validate(document, file.name)
        tell = notifications.callbacks(pipeline.notify, file.stem)
    except SettingsError as error:
        return DagSettings(
            dag_id,
            description=f"Broken: {error}"[:200],
            schedule=None,
            tags=("evergreen", "broken"),
            params={},
            doc_md=f"**This pipeline file cannot be used.** {error}",
            tell=notifications.callbacks(Notify(), file.stem),
        )
    return DagSettings(
        dag_id,
        description=pipeline.description,
        schedule=pipeline.schedule,
        tags=("evergreen", *pipeline.tags),
        params=params.build(pipeline),
        doc_md=f"{pipeline.description}\n\n```yaml\n{file.read_text()}\n```",
        tell=tell,
    )
