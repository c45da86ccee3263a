"""What is packed for MWAA is all of it, is read there, and asks for no version that MWAA's image lacks."""

import re
import zipfile
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import conf
from packaging.requirements import Requirement

from evergreen import source_code
from scripts import mwaa
from scripts.local_stack import REPOSITORY


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("mwaa") / "packed"
    mwaa.pack(target)
    return target


def test_the_archive_has_the_contents_of_plugins_and_nothing_else(packed: Path) -> None:
    plugins = REPOSITORY / "plugins"
    expected = {
        str(path.relative_to(plugins))
        for path in plugins.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(packed / "plugins.zip") as archive:
        assert set(archive.namelist()) == expected
    # Without it Airflow would import every module of the package as a plugin.
    assert ".airflowignore" in expected


def test_the_jobs_code_lies_among_the_dags_and_is_found_there(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, revision = source_code.read(), source_code.git_revision()
    # As on MWAA: plugins/ has nothing beside it, and there is no git.
    monkeypatch.setattr(source_code, "REPOSITORY", packed.parent)
    monkeypatch.setenv("AIRFLOW__CORE__DAGS_FOLDER", str(packed / "dags"))
    monkeypatch.setenv("PATH", "")
    assert conf.get("core", "dags_folder") == str(packed / "dags")
    assert source_code.read().hash == here.hash
    assert source_code.git_revision() == revision
    (packed / "dags/ml_code/revision").unlink(missing_ok=True)
    assert source_code.git_revision() is None
    # The DAG processor does not look for DAGs in it.
    assert "ml_code/" in (packed / "dags/.airflowignore").read_text().splitlines()


def test_every_requirement_is_met_by_the_images_constraints() -> None:
    pinned = {}
    for line in mwaa.CONSTRAINTS.read_text().splitlines():
        if "==" in line and not line.startswith("#"):
            name, _, version = line.partition("==")
            pinned[re.sub(r"[-_.]+", "-", name).lower()] = version
    lines = [
        line.partition("#")[0].strip() for line in (REPOSITORY / "requirements.txt").read_text().splitlines()
    ]
    for requirement in (Requirement(line) for line in lines if line):
        version = pinned.get(re.sub(r"[-_.]+", "-", requirement.name).lower())
        assert version is None or requirement.specifier.contains(version), (
            f"{requirement}: MWAA has {version}"
        )
    # With such a line, in a comment too, MWAA would not use its own.
    assert not re.search(r"-c |--constraint ", (REPOSITORY / "requirements.txt").read_text())


def test_a_dataset_on_this_machine_is_told(packed: Path) -> None:
    assert "digits.yaml: dataset.source var/data/digits is not there on MWAA" in " ".join(
        mwaa.local_sources(packed / "dags")
    )
    assert "s3 sync --delete" in mwaa.commands(packed, "b")
