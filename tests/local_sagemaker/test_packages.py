"""requirements.txt in script mode: against real environments, with wheels made here and no network."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from local_sagemaker.images import Image, Images
from local_sagemaker.jobs.packages import RequirementsError, install
from tests.local_sagemaker.cloud_client import REPOSITORY

PYTHON = Path(sys.executable)
PLAIN = Image("plain", PYTHON)


def wheel(folder: Path, name: str, version: str, *requires: str) -> None:
    """A wheel of one module that tells its version."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    metadata = [
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}",
        *(f"Requires-Dist: {r}" for r in requires),
    ]
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        file.writestr(f"{info}/METADATA", "\n".join(metadata) + "\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels, the only place where uv may look."""
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "wheels").mkdir()
    return tmp_path / "wheels"


def requirements(folder: Path, text: str) -> Path:
    (folder / "requirements.txt").write_text(text)
    return folder / "requirements.txt"


def sees(target: Path, expression: str) -> object:
    """The expression's value in the environment with the folder on its path."""
    program = f"import json, importlib.metadata; print(json.dumps({expression}))"
    done = subprocess.run(
        [PYTHON, "-c", program], env={"PYTHONPATH": str(target)}, check=True, capture_output=True
    )
    return json.loads(done.stdout)


@pytest.mark.usefixtures("wheels")
def test_what_our_own_jobs_carry_is_met(tmp_path: Path) -> None:
    image = Images().find("x/pytorch-training:1")
    assert not install(REPOSITORY / "ml_code/requirements.txt", image, tmp_path / "packages")
    assert not (tmp_path / "packages").exists()


def test_what_the_image_lacks_is_installed_for_the_job_alone(tmp_path: Path, wheels: Path) -> None:
    wheel(wheels, "evergreen_a", "1.0", "evergreen-b>=2", "pyyaml")
    wheel(wheels, "evergreen_b", "2.5")
    wheel(wheels, "evergreen_c", "1.0")
    before = sees(tmp_path, "sorted(d.name for d in importlib.metadata.distributions())")
    text = "# comment\npyyaml>=5  # met\n\nEvergreen-A[none] \\\n ==1.0\n./wheels/evergreen_c-1.0-py3-none-any.whl\n"
    file = requirements(tmp_path, text)
    target = tmp_path / "packages"
    assert install(file, PLAIN, target)
    found = "[__import__(name).VERSION for name in ('evergreen_a', 'evergreen_b', 'evergreen_c')]"
    assert sees(target, found) == ["1.0", "2.5", "1.0"]
    assert not list(target.glob("*[yY]aml*"))
    assert sees(tmp_path, "sorted(d.name for d in importlib.metadata.distributions())") == before


def test_another_version_than_the_images_comes_first(tmp_path: Path, wheels: Path) -> None:
    wheel(wheels, "iniconfig", "0.1")
    assert sees(tmp_path, "importlib.metadata.version('iniconfig')") != "0.1"
    assert install(requirements(tmp_path, "iniconfig<1\n"), PLAIN, tmp_path / "packages")
    assert sees(tmp_path / "packages", "importlib.metadata.version('iniconfig')") == "0.1"


@pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="there is no /usr/bin/python3")
def test_the_machines_own_python_is_asked_and_not_changed(tmp_path: Path, wheels: Path) -> None:
    wheel(wheels, "evergreen_a", "1.0")
    image = Image("system", Path("/usr/bin/python3"))
    file = requirements(tmp_path, "evergreen_a\n")
    assert install(file, image, tmp_path / "packages")
    assert (tmp_path / "packages/evergreen_a.py").exists()
    # It was not installed there, or it would be met now.
    assert install(file, image, tmp_path / "more")


@pytest.mark.usefixtures("wheels")
def test_what_cannot_be_had_is_named(tmp_path: Path) -> None:
    file = requirements(tmp_path, "pyyaml\nevergreen-missing>3\npytest>1000\n")
    with pytest.raises(
        RequirementsError,
        match=r"^requirements.txt asks for evergreen-missing>3, pytest>1000, which .* cannot be installed: .+",
    ) as raised:
        install(file, PLAIN, tmp_path / "packages")
    assert "\n" not in str(raised.value)


def test_an_index_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(RequirementsError, match=r"asks for evergreen-missing, .*127\.0\.0\.1:9"):
        install(requirements(tmp_path, "evergreen-missing\n"), PLAIN, tmp_path / "packages")
