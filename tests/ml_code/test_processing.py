"""The processing jobs' entry point."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import packages
import processing
import pytest
from packaging.requirements import Requirement

CODE = Path(processing.__file__).parent


@pytest.fixture
def code(tmp_path: Path) -> Path:
    for name in ("processing.py", "packages.py"):
        shutil.copy(CODE / name, tmp_path)
    (tmp_path / "helper.py").write_text("NAME = 'beside'\n")
    (tmp_path / "script.py").write_text(
        "import json, os, sys, helper\n"
        "if __name__ == '__main__':\n"
        "    print(json.dumps([sys.argv[1:], helper.NAME, os.environ['OMP_WAIT_POLICY']]))\n"
        "    sys.exit(3)\n"
    )
    return tmp_path


def run(code: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    return subprocess.run(
        [sys.executable, str(code / "processing.py"), *arguments],
        capture_output=True, text=True, check=False, cwd="/", env=environment,
    )  # fmt: skip


def test_script_runs_as_main_with_its_arguments(code: Path) -> None:
    (code / "requirements.txt").write_text(
        "# comment\ntorch\nnumpy>=1  # met\npywin32; sys_platform=='win32'\n"
    )
    result = run(code, "script.py", "--test", "a b")
    assert result.returncode == 3, result.stderr
    assert json.loads(result.stdout) == [["--test", "a b"], "beside", "PASSIVE"]


def test_unknown_script_is_one_sentence(code: Path) -> None:
    for arguments in (["nothing.py"], []):
        result = run(code, *arguments)
        assert result.returncode != 0
        assert len(result.stderr.splitlines()) == 1


def test_versions_are_checked() -> None:
    wanted = [Requirement(text) for text in ("numpy>=1", "numpy<1", "no-such-distribution", "torch")]
    assert [str(item) for item in packages.missing(wanted)] == ["numpy<1", "no-such-distribution"]


def test_smdebug_does_not_bring_its_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(packages.subprocess, "run", lambda command, check: commands.append(command))
    monkeypatch.setattr(packages, "missing", lambda wanted: wanted)
    packages.install_missing(CODE)
    bare, full = (command[6:] for command in commands)
    assert bare == ["--no-deps", "smdebug==1.0.34"]
    assert "protobuf" in full
    assert not any("smdebug" in name for name in full)


def test_own_requirements_are_met_here() -> None:
    for file in (packages.FULL, packages.WITHOUT_DEPENDENCIES):
        assert packages.missing(packages.requirements(CODE / file)) == []
