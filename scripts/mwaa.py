"""What Amazon MWAA takes, in var/mwaa/, and whether it would take it.

    make mwaa BUCKET=your-mwaa-bucket

packs `plugins.zip`, `dags/` with the jobs' code in it, and `requirements.txt`, as they are in this checkout; then
installs the packages of MWAA's image (Airflow 3.3.1) and requirements.txt by its constraints into var/venv/mwaa, runs
`pip check`, and reads the DAGs there. About 60 s, 20 s when the environment is there. It ends with the commands to
upload with. MWAA's Python is 3.12; `PYTHON=/path/to/python3.12` where uv does not find one by itself.
"""

import argparse
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from scripts.local_stack import REPOSITORY

VERSION, PYTHON = "3.3.1", "3.12"
FOLDER = REPOSITORY / "aws/mwaa"
CONSTRAINTS, IMAGE = FOLDER / f"constraints-{VERSION}.txt", FOLDER / f"image-{VERSION}.txt"
IGNORED = ("__pycache__", "*.pyc", ".*_cache")
# Reads the DAGs and imports every module of the plugins; the image's Airflow runs it.
READS = """
import importlib, pkgutil, sys
import evergreen, evergreen_ui
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
for module in pkgutil.walk_packages(evergreen.__path__, "evergreen."):
    importlib.import_module(module.name)
for file, error in bag.import_errors.items():
    print(f"{file}: {error}", file=sys.stderr)
print("DAGs:", *sorted(bag.dags))
sys.exit(bool(bag.import_errors) or not bag.dags)
"""

Command = list[str | Path]


class MwaaError(RuntimeError):
    """MWAA would not take it; the message says what."""


def pack(target: Path) -> None:
    """`target` with what goes into the environment's bucket."""
    shutil.rmtree(target, ignore_errors=True)
    ignore = shutil.ignore_patterns(*IGNORED)
    shutil.copytree(REPOSITORY / "dags", target / "dags", ignore=ignore)
    code = shutil.copytree(REPOSITORY / "ml_code", target / "dags/ml_code", ignore=ignore)
    sys.path.insert(0, str(REPOSITORY / "plugins"))
    from evergreen import source_code

    if revision := source_code.git_revision():
        (code / source_code.REVISION).write_text(f"{revision}\n")
    shutil.copy(REPOSITORY / "requirements.txt", target)
    plugins = REPOSITORY / "plugins"
    with zipfile.ZipFile(target / "plugins.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(plugins.rglob("*")):
            if path.is_file() and not any(path.match(f"**/{name}") for name in IGNORED) and not _cached(path):
                archive.write(path, path.relative_to(plugins))


def _cached(path: Path) -> bool:
    return "__pycache__" in path.parts


def local_sources(dags: Path) -> list[str]:
    """A sentence for each pipeline whose dataset is a folder of this machine."""
    from evergreen import settings

    sentences = []
    for file in sorted((dags / "pipelines").glob("*.yaml")):
        source = settings.validate(settings.read(file), file.name).dataset.source
        if not source.startswith("s3://"):
            sentences.append(
                f"{file.name}: dataset.source {source} is not there on MWAA: give it an s3:// address"
            )
    return sentences


def check(target: Path, environment: Path, uv: str, interpreter: str) -> None:
    """Install as MWAA does, `pip check`, and read what was packed.

    :raises MwaaError: when MWAA's image would not install it, or could not read it.
    """
    python = environment / "bin/python"
    if not python.exists():
        wanted: Command = [uv, "venv", "--quiet", "--no-python-downloads", "--python"]
        if subprocess.run([*wanted, interpreter, environment], check=False, capture_output=True).returncode:
            print(f"uv finds no Python {interpreter}, which MWAA has: the check takes another one")
            _run([*wanted, ">=3.11,<3.14", environment], "no Python")
    install: Command = [uv, "pip", "install", "--quiet", "--python", python, "--constraints", CONSTRAINTS]
    _run([*install, "-r", IMAGE], "the packages of MWAA's image cannot be installed")
    _run([*install, "-r", target / "requirements.txt"], "MWAA would not install requirements.txt")
    _run([uv, "pip", "check", "--python", python], "pip check")
    _read(target, environment)


def _read(target: Path, environment: Path) -> None:
    """With dags/ and plugins/ where MWAA has them, and nothing of this checkout."""
    home = environment / "airflow"
    for name in ("dags", "plugins"):
        shutil.rmtree(home / name, ignore_errors=True)
    shutil.copytree(target / "dags", home / "dags")
    with zipfile.ZipFile(target / "plugins.zip") as archive:
        archive.extractall(home / "plugins")
    variables = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(home / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PYTHONPATH": str(home / "plugins"),
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON"))}
    command: Command = [environment / "bin/python", "-c", READS, home / "dags"]
    _run(command, "MWAA's Airflow cannot read the DAGs or plugins", cwd=home, env=kept | variables)


def _run(command: Command, what: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MwaaError(f"{what}: {(done.stderr or done.stdout).strip()[-2000:]}")
    if said := [
        line for line in (done.stdout + done.stderr).splitlines() if "DAGs:" in line or "compatible" in line
    ]:
        print(*said, sep="\n", flush=True)


def commands(target: Path, bucket: str) -> str:
    where = os.path.relpath(target, REPOSITORY)
    return "\n".join(
        (
            f"aws s3 sync --delete {where}/dags s3://{bucket}/dags",
            f"aws s3 cp {where}/plugins.zip s3://{bucket}/plugins.zip",
            f"aws s3 cp {where}/requirements.txt s3://{bucket}/requirements.txt",
            "aws mwaa update-environment --name YOUR-ENVIRONMENT --plugins-s3-path plugins.zip "
            "--requirements-s3-path requirements.txt",
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bucket", default="YOUR-MWAA-BUCKET")
    parser.add_argument("--target", default=REPOSITORY / "var/mwaa", type=Path)
    parser.add_argument("--environment", default=REPOSITORY / "var/venv/mwaa", type=Path)
    parser.add_argument("--uv", default="uv")
    parser.add_argument("--python", default=PYTHON, help="version or path of the interpreter")
    arguments = parser.parse_args()
    target = arguments.target.resolve()
    pack(target)
    print(f"packed {os.path.relpath(target)}: plugins.zip, dags/, requirements.txt", flush=True)
    try:
        check(target, arguments.environment.resolve(), arguments.uv, arguments.python)
    except MwaaError as error:
        sys.exit(f"error: {error}")
    for sentence in local_sources(target / "dags"):
        print(f"note: {sentence}")
    print(f"\nUpload it, and have the environment take it:\n\n{commands(target, arguments.bucket)}")


if __name__ == "__main__":
    main()
