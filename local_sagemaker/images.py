"""Image URI → what to start. The only place where "container" means "process".

    - pattern: '.*/my-image:.*'          # regular expression on the whole URI; the first row that matches wins
      python: ../var/venv/ml/bin/python  # relative to the yaml file
      warm: [torch]                      # modules that a warm process imports before it forks jobs
      environment: {OMP_NUM_THREADS: "2"}
      serve: ["{python}", "-m", "serving.server"]

`environment` values may name `{here}`, the yaml file's folder.
"""

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from local_sagemaker.protocol import invalid

HERE = "{here}"
DEFAULTS = Path(__file__).with_name("images.yaml")


@dataclass(frozen=True)
class Image:
    """One row of an images file."""

    pattern: str
    python: Path
    warm: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    serve: tuple[str, ...]


class Images:
    """The rows of the images files; rows of the user's file come before the project's."""

    def __init__(self, extra: Path | None = None) -> None:
        """Raises ValueError, naming file and row, when a file is not as the module's docstring says."""
        self._files = [path for path in (extra, DEFAULTS) if path]
        self._rows = [row for path in self._files for row in _read(path)]

    def find(self, uri: str) -> Image:
        """The row for an image URI. Raises ApiError when no row matches or its interpreter is missing."""
        for row in self._rows:
            if re.fullmatch(row.pattern, uri):
                if not row.python.exists():
                    raise invalid(
                        f"The image {uri} runs {row.python}, which does not exist; install it or change images.yaml"
                    )
                return row
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
    return [_image(path, number, row) for number, row in enumerate(rows, 1)]


def _image(path: Path, number: int, row: object) -> Image:
    known = {"pattern", "python", "warm", "environment", "serve"}
    if not isinstance(row, dict) or not {"pattern", "python"} <= row.keys() <= known:
        raise ValueError(
            f"{path}, row {number}: an image has pattern and python, and may have {sorted(known)}"
        )
    # Not resolved: a virtual environment's python is a link, and following it leaves the environment.
    here = path.absolute().parent
    python = Path(sys.executable) if row["python"] == "self" else Path(os.path.normpath(here / row["python"]))
    return Image(
        pattern=row["pattern"],
        python=python,
        warm=tuple(row.get("warm", [])),
        environment=tuple(
            (key, str(value).replace(HERE, str(here))) for key, value in row.get("environment", {}).items()
        ),
        serve=tuple(row.get("serve", [])),
    )
