"""What a DAG file needs to know of a pipeline file, whatever state that file is in.

A mistake in one pipeline file must not take the other DAGs away, and must be told to the person who runs this
one: its DAG is there, shows the mistake as its documentation, and fails in `plan` with the same sentence.
"""

from dataclasses import dataclass
from pathlib import Path

from airflow.sdk import Param

from evergreen import params
from evergreen.settings import SettingsError, read, validate


@dataclass(frozen=True)
class DagSettings:
    description: str
    schedule: str | None
    tags: tuple[str, ...]
    params: dict[str, Param]
    doc_md: str


def load(file: Path) -> DagSettings:
    try:
        document = read(file)
        pipeline = validate(document, file.name)
    except SettingsError as error:
        return DagSettings(
            description=f"Broken: {error}"[:200],
            schedule=None,
            tags=("evergreen", "broken"),
            params={},
            doc_md=f"**This pipeline file cannot be used.** {error}",
        )
    return DagSettings(
        description=pipeline.description,
        schedule=pipeline.schedule,
        tags=("evergreen", *pipeline.tags),
        params=params.build(pipeline),
        doc_md=f"{pipeline.description}\n\n```yaml\n{file.read_text()}\n```",
    )
