"""A script's requirements.txt: what the image lacks is installed for the job, into a folder of its own.

The toolkit in AWS's images installs the file with pip into the container, which ends with the job. Here an image is
an environment that jobs share, so it is never touched, and what it has is not installed again. uv reads the service's
own UV_* variables and the user's uv.toml (indexes, UV_FIND_LINKS, UV_OFFLINE …).
"""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import uv

from local_sagemaker.images import Image

# Options that are requirements; every other option says where and how to find them.
REQUIRING = ("-r", "--requirement", "-e", "--editable")


class RequirementsError(Exception):
    """Requirements that cannot be installed; the sentence is fit for FailureReason."""


class _UvError(Exception):
    pass


def install(requirements: Path, image: Image, target: Path) -> bool:
    """Install into the folder `target` what the image does not meet; whether there was anything.

    Only the requirements that the file names are held against the image, not theirs in turn: an image's packages may
    have been brought to agree by other means than their metadata. Takes 0.1 s where all are met, and no network.
    Raises RequirementsError.
    """
    lines = _lines(requirements.read_text())
    options = [line for line in lines if line.startswith("-") and not line.startswith(REQUIRING)]
    wanted = [line for line in lines if line not in options]
    folder = requirements.parent
    if _met(image, lines, folder):
        return False
    lacking = [line for line in wanted if not _met(image, [*options, line], folder)] or wanted
    try:
        # Their own dependencies may be in the image, so what is to come is worked out against it.
        added = _changes(image, [*options, *lacking], folder, "--dry-run")
        _changes(image, [*options, *lacking, *added], folder, "--no-deps", f"--target={target}")
    except _UvError as error:
        raise RequirementsError(
            f"requirements.txt asks for {', '.join(lacking)}, which the image ({image.python}) does not have and which "
            f"cannot be installed: {error}"
        ) from error
    return True


def _lines(text: str) -> list[str]:
    """The file's logical lines, without comments."""
    lines = (f" {line}".partition(" #")[0].strip() for line in text.replace("\\\n", " ").splitlines())
    return [line for line in lines if line]


def _met(image: Image, lines: Sequence[str], folder: Path) -> bool:
    try:
        return not _changes(image, lines, folder, "--dry-run", "--offline", "--no-deps")
    except _UvError:
        # Without the network and not in the cache either, so not in the image.
        return False


def _changes(image: Image, lines: Sequence[str], folder: Path, *options: str) -> list[str]:
    """NAME==VERSION of all that uv installs, or would. Raises _UvError."""
    # Debian's own Python lets nobody ask, even though nothing is installed there.
    where = ["--python", str(image.python), "--break-system-packages"]
    command = [uv.find_uv_bin(), "pip", "install", *where, "--output-format=json", *options]
    done = subprocess.run(
        [*command, "-r", "-"], input="\n".join(lines), cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise _UvError(" ".join(done.stderr.partition("error: ")[2].split()) or done.stderr.strip())
    changes = json.loads(done.stdout)["changes"]
    return [f"{change['name']}=={change['version']}" for change in changes if change["action"] == "installed"]
