"""A PostgreSQL server of a benchmark's own, from the binaries that this machine has."""

import os
import pwd
import secrets
import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.bench import uv
from scripts.local_stack import REPOSITORY, free_port

# The database drivers that docker/requirements.txt adds to Airflow's environment, beside it.
DRIVERS = REPOSITORY / "var/venv/postgres-drivers"
PACKAGES = ("asyncpg", "psycopg2-binary")
USER = "airflow"


@dataclass(frozen=True)
class Database:
    url: str
    drivers: Path
    """A folder for PYTHONPATH."""

    @property
    def settings(self) -> dict[str, str]:
        """What an Airflow on this database has in its environment."""
        return {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self.url, "PYTHONPATH": str(self.drivers)}


def binaries() -> Path | None:
    """Where `initdb` and `pg_ctl` are; None when PostgreSQL is not installed."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    found = shutil.which("pg_ctl") or (debian[-1] if debian else None)
    return Path(found).parent if found else None


@contextmanager
def serve(folder: Path) -> Generator[Database]:
    """A server on loopback whose data are below `folder`, until the end of the block.

    :raises FileNotFoundError: when PostgreSQL is not installed.
    """
    programs = binaries()
    if programs is None:
        raise FileNotFoundError("PostgreSQL is not installed: there is no pg_ctl")
    _install()
    folder.mkdir()
    password, port = secrets.token_urlsafe(16), free_port(5432)
    secret = folder / "password"
    secret.write_text(password)
    identity: dict[str, Any] = {}
    if os.geteuid() == 0:
        # As which PostgreSQL does not run: somebody else's, in a folder that is theirs.
        nobody = pwd.getpwnam("nobody")
        identity = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        for place in (folder, secret):
            os.chown(place, nobody.pw_uid, nobody.pw_gid)
        folder.parent.chmod(0o711)

    def run(*command: str | Path) -> None:
        subprocess.run(command, check=True, **identity, cwd=folder, stdout=subprocess.DEVNULL)

    data = folder / "data"
    run(
        programs / "initdb",
        "-D",
        data,
        "-U",
        USER,
        "--auth=scram-sha-256",
        f"--pwfile={secret}",
        "-E",
        "UTF8",
    )
    options = (
        f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c max_connections=300"
    )
    run(programs / "pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start")
    try:
        yield Database(f"postgresql+psycopg2://{USER}:{password}@127.0.0.1:{port}/postgres", DRIVERS)
    finally:
        run(programs / "pg_ctl", "-D", data, "-m", "fast", "-w", "stop")


def _install() -> None:
    if not (DRIVERS / ".installed").exists():
        command = [uv(), "pip", "install", "-q", "--python", sys.executable, "--no-deps"]
        lock = REPOSITORY / "docker/requirements.lock"
        subprocess.run([*command, "--target", str(DRIVERS), "-c", str(lock), *PACKAGES], check=True)
        (DRIVERS / ".installed").touch()
    sys.path.append(str(DRIVERS))
