import re
import stat
import subprocess
import sys
from pathlib import Path

from cryptography.fernet import Fernet

from scripts import env_file
from scripts.local_stack import REPOSITORY


def written(file: Path) -> dict[str, str]:
    """As compose reads it."""
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_the_file_is_its_owners_alone_and_no_two_have_the_same_secrets(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    env_file.write(first)
    env_file.write(second)
    assert stat.S_IMODE(first.stat().st_mode) == 0o600
    one, other = written(first), written(second)
    for name in env_file.SECRETS:
        # They go into addresses as they are.
        assert re.fullmatch(r"[A-Za-z0-9_=-]{44,}", one[name])
    secrets = [values[name] for values in (one, other) for name in env_file.SECRETS]
    assert len(set(secrets)) == len(secrets)
    Fernet(one["FERNET_KEY"])


def test_a_file_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    command = [sys.executable, "-m", "scripts.env_file", str(file)]
    said = [
        subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert "docker compose up" in said[0]
    assert "stays as it is" in said[1]
    secret = written(file)["POSTGRES_PASSWORD"]
    # No secret reaches a terminal or a log.
    assert secret not in said[0] + said[1]


def test_compose_asks_for_what_is_written(tmp_path: Path) -> None:
    env_file.write(tmp_path / ".env")
    required = re.findall(r"\$\{(\w+):\?", (REPOSITORY / "docker-compose.yaml").read_text())
    assert set(required) == {*env_file.SECRETS, "CLOUD"} <= written(tmp_path / ".env").keys()
