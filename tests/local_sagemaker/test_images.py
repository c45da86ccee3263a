"""Images files: what a row means, and one sentence for what it must not be."""

import sys
from pathlib import Path

import pytest

from local_sagemaker.api.protocol import ApiError
from local_sagemaker.images import DEFAULTS, Images

PYTORCH = (
    "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-training:2.10.0-cpu-py313-ubuntu22.04-sagemaker"
)


def images(folder: Path, text: str) -> Images:
    file = folder / "images.yaml"
    file.write_text(text)
    return Images(file)


def test_a_row_says_everything(tmp_path: Path) -> None:
    row = images(
        tmp_path,
        """
- pattern: 'me/mine:.*'
  python: self
  warm: [json]
  environment: {THREADS: 2, DATA: '{here}/data'}
  train: ['{python}', '{here}/train.py']
  process: ['/bin/sh', -c, 'exec {here}/process']
  serve: ['{python}', -m, serving]
  metric_definitions: [{Name: 'test:loss', Regex: 'loss=(\\S+)'}]
""",
    ).find("me/mine:1")
    assert row.environment == (("THREADS", "2"), ("DATA", f"{tmp_path}/data"))
    assert row.train == (sys.executable, f"{tmp_path}/train.py")
    assert row.process == ("/bin/sh", "-c", f"exec {tmp_path}/process")
    assert row.serve == (sys.executable, "-m", "serving")
    assert row.metric_definitions == ({"Name": "test:loss", "Regex": r"loss=(\S+)"},)
    assert (row.warm, row.docker) == (("json",), False)
    assert hash(row)


def test_the_users_rows_come_first_and_the_projects_after_them(tmp_path: Path) -> None:
    found = images(tmp_path, "- {pattern: '.*:mine', python: self}")
    assert str(found.find("x/pytorch-training:mine").python) == sys.executable
    assert found.find(PYTORCH).warm == ("torch", "torchvision")


def test_an_interpreter_is_named_relative_to_its_file_and_links_are_kept(tmp_path: Path) -> None:
    (tmp_path / "environment").mkdir()
    (tmp_path / "environment/python").symlink_to(sys.executable)
    (tmp_path / "rows").mkdir()
    row = images(tmp_path / "rows", "- {pattern: x, python: ../environment/python}").find("x")
    assert row.python == tmp_path / "environment/python"


def test_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As where an engine answers.
    (tmp_path / "docker").write_text("#!/bin/sh\necho 28.0\n")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    found = images(tmp_path, "[{pattern: 'a:.*', docker: true}, {pattern: 'b:.*', docker: 'base:1'}]")
    assert (found.find("a:1").docker, found.find("b:7").docker) == ("a:1", "base:1")


def test_what_is_not_known_or_not_there(tmp_path: Path) -> None:
    found = images(tmp_path, "- {pattern: x, python: nowhere/python}")
    with pytest.raises(ApiError, match=f"The image y is not known here. Add a row to {tmp_path}/images.yaml"):
        found.find("y")
    with pytest.raises(ApiError, match=f"The image x runs {tmp_path}/nowhere/python, which does not exist"):
        found.find("x")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not YAML: .*line 1"),
        ("pattern: x", "is not a list of images"),
        ("- x", "row 1: an image has a pattern, and either python or docker"),
        ("- {python: self}", "row 1: an image has a pattern"),
        ("- {pattern: x}", "row 1: .*either python or docker"),
        ("- {pattern: x, python: self, docker: true}", "row 1: .*either python or docker"),
        ("[{pattern: x, python: self}, {pattern: '(', python: self}]", "row 2: pattern is not a regular"),
        (
            "- {pattern: x, python: self, serv: [a]}",
            "row 1: an image with python has .*'serve'.*not {'serv'}",
        ),
        ("- {pattern: x, docker: true, train: [a]}", "row 1: an image with docker has .*not {'train'}"),
        ("- {pattern: x, docker: false}", "row 1: docker is true or the name of a Docker image, not False"),
        ("- {pattern: x, python: self, train: a b}", "row 1: train is a list of texts, not 'a b'"),
        ("- {pattern: x, python: self, warm: torch}", "row 1: warm is a list of modules"),
        ("- {pattern: x, python: self, environment: [A=1]}", "row 1: environment is a mapping"),
        ("- {pattern: x, python: self, environment: {A: [1]}}", "row 1: environment is a mapping"),
        (
            "- {pattern: x, python: self, metric_definitions: [{Name: a, Regex: b}]}",
            "row 1: The regular expression of metric a has no group",
        ),
        (
            "- {pattern: x, python: self, metric_definitions: {a: b}}",
            "row 1: metric_definitions is a list of",
        ),
    ],
)
def test_a_wrong_file_is_named_with_its_row(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{tmp_path}/images.yaml(, | ){sentence}"):
        images(tmp_path, text)


def test_the_projects_own_file_is_right() -> None:
    assert Images().find(PYTORCH).pattern in DEFAULTS.read_text()
