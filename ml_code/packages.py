"""Python packages that the code needs and the image lacks.

requirements.txt holds them; SageMaker installs it for training jobs, and not for processing jobs. What serves a model,
which an assessment measures, is in requirements-serving.txt: a training starts without it. smdebug, which a
training needs for its debugger hook alone, is in requirements-no-deps.txt: its metadata pins protobuf to 3.20, under
everything else that uses it, and pyinstrument to a version that newer Pythons cannot build or load. debugger/compat.py
makes it run with what is there.
"""

import importlib
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from packaging.requirements import Requirement

FULL, SERVING, WITHOUT_DEPENDENCIES = (
    "requirements.txt",
    "requirements-serving.txt",
    "requirements-no-deps.txt",
)


def install_missing(folder: Path) -> None:
    """Install what the three files in `folder` name; milliseconds where every requirement is met.

    :raises subprocess.CalledProcessError: when pip fails; its output says why.
    """
    install_bare(folder)
    install(missing([*requirements(folder / FULL), *requirements(folder / SERVING)]), [])


def install_bare(folder: Path) -> None:
    """Install what requirements-no-deps.txt names, for this process too."""
    install(missing(requirements(folder / WITHOUT_DEPENDENCIES)), ["--no-deps"])
    importlib.invalidate_caches()


def requirements(file: Path) -> list[Requirement]:
    """The file's requirements, markers of other platforms left out; none when there is no file."""
    if not file.is_file():
        return []
    lines = (line.partition("#")[0].strip() for line in file.read_text().splitlines())
    named = [Requirement(line) for line in lines if line]
    return [item for item in named if item.marker is None or item.marker.evaluate()]


def missing(wanted: Iterable[Requirement]) -> list[Requirement]:
    """Those of which no version, or a version outside the specifier, is installed."""
    return [requirement for requirement in wanted if not _met(requirement)]


def install(wanted: Sequence[Requirement], options: Sequence[str]) -> None:
    """:raises subprocess.CalledProcessError: when pip fails; its output says why."""
    if wanted:
        names = [str(item) for item in wanted]
        print(f"installing {', '.join(names)}", flush=True)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *options, *names], check=True)


def _met(requirement: Requirement) -> bool:
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return requirement.specifier.contains(version, prereleases=True)
