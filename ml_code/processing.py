"""The entry point of every processing job: installs what the image lacks, then runs a script.

    python processing.py SCRIPT.py --argument value …

SCRIPT.py and requirements.txt lie beside this file. SageMaker installs requirements.txt for training jobs and
not for processing jobs. Nothing is installed where every requirement is met, which takes milliseconds.
"""

import importlib.metadata
import os
import runpy
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from packaging.requirements import Requirement

# smdebug's metadata pins protobuf to 3.20, and pyinstrument to a version that newer Pythons cannot load. pip would
# downgrade the image's protobuf under everything else that uses it; debugger/compat.py makes smdebug run with
# what is there. Both are imported by name, so protobuf has to be there.
WITHOUT_DEPENDENCIES = frozenset({"smdebug"})
IMPLIED = {"smdebug": ("protobuf", "boto3", "packaging")}


def main(argv: Sequence[str]) -> None:
    """Ends with the script's own exit status; 2 when there is no such script."""
    folder = Path(__file__).resolve().parent
    if not argv or not (folder / argv[0]).is_file():
        name = argv[0] if argv else "no script"
        sys.exit(f"processing.py: {name} was named, and {folder} holds no such file")
    install(missing(requirements(folder / "requirements.txt")))
    # Threads that wait for one another sleep instead of spinning, which costs dearly on cores shared with another
    # job. Read when the script imports torch.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    script = str(folder / argv[0])
    sys.argv = [script, *argv[1:]]
    sys.path.insert(0, str(folder))
    runpy.run_path(script, run_name="__main__")


def requirements(file: Path) -> list[Requirement]:
    """The file's requirements, markers of other platforms left out; none when there is no file."""
    if not file.is_file():
        return []
    lines = (line.partition("#")[0].strip() for line in file.read_text().splitlines())
    named = [Requirement(line) for line in lines if line]
    implied = [Requirement(name) for requirement in named for name in IMPLIED.get(requirement.name, ())]
    return [item for item in [*named, *implied] if item.marker is None or item.marker.evaluate()]


def missing(wanted: Iterable[Requirement]) -> list[Requirement]:
    """Those of which no version, or a version outside the specifier, is installed."""
    return [requirement for requirement in wanted if not _met(requirement)]


def install(wanted: Sequence[Requirement]) -> None:
    """:raises subprocess.CalledProcessError: when pip fails; its output says why."""
    bare = [str(item) for item in wanted if item.name in WITHOUT_DEPENDENCIES]
    full = [str(item) for item in wanted if item.name not in WITHOUT_DEPENDENCIES]
    for options, names in ((["--no-deps"], bare), ([], full)):
        if names:
            print(f"installing {', '.join(names)}", flush=True)
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, *options, *names], check=True)


def _met(requirement: Requirement) -> bool:
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return requirement.specifier.contains(version, prereleases=True)


if __name__ == "__main__":
    main(sys.argv[1:])
