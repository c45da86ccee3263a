"""The images that stand in for the official ones where an engine reaches no registry of images.

Debian comes from its own archive by debootstrap, Airflow from PyPI. `STAND_INS=1` in the environment asks for them.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from scripts.local_stack import REPOSITORY

HERE = Path(__file__).parent
DEBIAN = "evergreen-stand-in-debian"
SUITE, MIRROR = "trixie", "http://deb.debian.org/debian"
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"


def override() -> list[Path]:
    """The compose file that has them built and used, or nothing."""
    return [HERE / "docker-compose.yaml"] if os.environ.get("STAND_INS") else []


def build() -> None:
    """:raises subprocess.CalledProcessError: when debootstrap or the engine fails; what they say is in the terminal."""
    if not override():
        return
    if not _succeeds("docker", "image", "inspect", DEBIAN):
        _debian()
    found = re.search(r"^apache-airflow==(\S+)", (REPOSITORY / "requirements.lock").read_text(), re.M)
    assert found
    subprocess.run(
        ["docker", "build", "--quiet", "--network", "host", "--build-arg", f"VERSION={found[1]}",
         "--tag", "evergreen-stand-in-airflow", "--file", HERE / "airflow.Dockerfile", HERE],
        check=True, stdout=sys.stderr,
    )  # fmt: skip


def _debian() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        subprocess.run(
            ["debootstrap", "--variant=minbase", "--include=python3,python3-venv,ca-certificates", SUITE, root, MIRROR],
            check=True, stdout=sys.stderr,
        )  # fmt: skip
        # This machine's network may have an authority of its own.
        shutil.copyfile(f"/{CERTIFICATES}", root / CERTIFICATES)
        tar = subprocess.Popen(["tar", "--create", "--directory", root, "."], stdout=subprocess.PIPE)
        subprocess.run(
            ["docker", "import", "--change", f"ENV SSL_CERT_FILE=/{CERTIFICATES}", "-", DEBIAN],
            stdin=tar.stdout, check=True, stdout=sys.stderr,
        )  # fmt: skip
        if tar.wait():
            raise subprocess.CalledProcessError(tar.returncode, tar.args)


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
