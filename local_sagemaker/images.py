"""Image URI → what to start. The only place where "container" means "process".

    - pattern: '.*/my-image:.*'          # regular expression on the whole URI; the first row that matches wins
      python: ../var/venv/ml/bin/python  # relative to the yaml file; self: the service's own
      warm: [torch]                      # modules of the interpreter that are imported once, before jobs are forked
      environment: {OMP_NUM_THREADS: "2"}
      train: ["{python}", "{here}/train.py"]       # what `docker run IMAGE train` would start
      process: ["{python}", "{here}/process.py"]   # the entry point of processing jobs that name none
      serve: ["{python}", "-m", "serving.server"]  # what `docker run IMAGE serve` would start
      metric_definitions:                          # of training jobs that define no metrics
        - {Name: "test:loss", Regex: "loss=([0-9.]+)"}

    - pattern: '.*/my-container:.*'
      docker: true                       # run this URI with Docker; a name in place of true: that image instead

`{python}` stands for the row's interpreter and `{here}` for the yaml file's folder, in commands and in `environment`.
A training job starts the request's ContainerEntrypoint, else its script (hyperparameter sagemaker_program), else
`train`. A row with `docker` may have `environment` and `metric_definitions`; the container has the rest.
"""

import dataclasses
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from local_sagemaker.api.protocol import ApiError, Document, invalid
from local_sagemaker.jobs.metrics import metric_pattern
from local_sagemaker.processes import docker

PYTHON, HERE = "{python}", "{here}"
DEFAULTS = Path(__file__).with_name("images.yaml")


@dataclass(frozen=True)
class Image:
    """One row of an images file, its placeholders filled in."""

    pattern: str
    python: Path = Path(sys.executable)
    warm: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    train: tuple[str, ...] = ()
    process: tuple[str, ...] = ()
    serve: tuple[str, ...] = ()
    metric_definitions: tuple[Document, ...] = field(default=(), hash=False)
    docker: str | bool = False
    """The Docker image that is run in place of a process of this machine. True only before a URI is known."""


class Images:
    """The rows of the images files; rows of the user's file come before the project's."""

    def __init__(self, extra: Path | None = None) -> None:
        """Raises ValueError, naming file and row, when a file is not as the module's docstring says."""
        self._files = [path for path in (extra, DEFAULTS) if path]
        self._rows = [row for path in self._files for row in _read(path)]

    @property
    def in_docker(self) -> bool:
        """Whether any row needs an engine."""
        return any(row.docker for row in self._rows)

    def find(self, uri: str) -> Image:
        """The row for an image URI. Raises ApiError when no row matches, or when it cannot run here."""
        for row in self._rows:
            if re.fullmatch(row.pattern, uri):
                if row.docker and (reason := docker.unavailable()):
                    raise invalid(f"The image {uri} runs in Docker, and {reason}")
                if not row.docker and not row.python.exists():
                    raise invalid(
                        f"The image {uri} runs {row.python}, which does not exist; install it or change images.yaml"
                    )
                return dataclasses.replace(row, docker=uri) if row.docker is True else row
        raise invalid(
            f"The image {uri} is not known here. Add a row to {self._files[0]} "
            "(- pattern: '.*/my-image:.*'; python: /path/to/bin/python), or start the service with --images FILE"
        )


def _read(path: Path) -> list[Image]:
    try:
        rows = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(rows, list):
        raise ValueError(f"{path} is not a list of images")
    images = []
    for number, row in enumerate(rows, 1):
        try:
            images.append(_image(path, row))
        except ValueError as error:
            raise ValueError(f"{path}, row {number}: {error}") from error
    return images


def _image(path: Path, row: Any) -> Image:
    """Raises ValueError."""
    if not isinstance(row, dict) or "pattern" not in row or ("python" in row) == ("docker" in row):
        raise ValueError("an image has a pattern, and either python or docker")
    known = KEYS.keys() - ({"python", *COMMANDS, "warm"} if "docker" in row else {"docker"})
    if unknown := row.keys() - known:
        raise ValueError(
            f"an image with {'docker' if 'docker' in row else 'python'} has {sorted(known)}, not {unknown}"
        )
    for key, value in row.items():
        holds, form = KEYS[key]
        if not holds(value):
            raise ValueError(f"{key} is {form}, not {value!r}")
    try:
        re.compile(row["pattern"])
        for definition in row.get("metric_definitions", []):
            metric_pattern(definition)
    except re.error as error:
        raise ValueError(f"pattern is not a regular expression: {error}") from error
    except ApiError as error:
        raise ValueError(str(error)) from error
    # Not resolved: a virtual environment's python is a link, and following it leaves the environment.
    here = path.absolute().parent
    named = row.get("python", "self")
    python = Path(sys.executable) if named == "self" else Path(os.path.normpath(here / named))

    def filled(text: object) -> str:
        return str(text).replace(PYTHON, str(python)).replace(HERE, str(here))

    return Image(
        pattern=row["pattern"],
        python=python,
        warm=tuple(row.get("warm", [])),
        environment=tuple((key, filled(value)) for key, value in row.get("environment", {}).items()),
        **{command: tuple(map(filled, row.get(command, []))) for command in COMMANDS},
        metric_definitions=tuple(row.get("metric_definitions", [])),
        docker=row.get("docker", False),
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _are_variables(value: object) -> bool:
    return isinstance(value, dict) and all(
        _is_text(key) and isinstance(value[key], str | int | float) for key in value
    )


def _are_definitions(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, dict) and item.keys() == {"Name", "Regex"} and all(map(_is_text, item.values()))
        for item in value
    )


COMMANDS = ("train", "process", "serve")
# What each member of a row is: the check and the words for it.
KEYS: dict[str, tuple[Callable[[object], bool], str]] = {
    "pattern": (_is_text, "a regular expression"),
    "python": (_is_text, "the path of an interpreter, or self"),
    "docker": (lambda value: value is True or _is_text(value), "true or the name of a Docker image"),
    "warm": (_are_texts, "a list of modules"),
    "environment": (_are_variables, "a mapping of names to texts or numbers"),
    **dict.fromkeys(COMMANDS, (_are_texts, "a list of texts")),
    "metric_definitions": (_are_definitions, "a list of {Name: text, Regex: text}"),
}
