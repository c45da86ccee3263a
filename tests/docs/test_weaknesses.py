"""docs/weaknesses.md: every mistake of the projects before has a test, and the test is there."""

import ast
import re
from pathlib import Path

import pytest

from evergreen.compute_settings import Compute

REPOSITORY = Path(__file__).parents[2]
ROWS = re.findall(
    r"^\| (\d+) \| .*\| (.*) \|$", (REPOSITORY / "docs/weaknesses.md").read_text(), re.MULTILINE
)


def test_no_row_is_missing() -> None:
    assert [int(number) for number, _ in ROWS] == list(range(1, 24))


@pytest.mark.parametrize(("number", "tests"), ROWS)
def test_every_row_has_tests_that_exist(number: str, tests: str) -> None:
    named = re.findall(r"`([^`]+)::(\w+)`", tests)
    assert named
    for file, test in named:
        functions = {
            node.name
            for node in ast.parse((REPOSITORY / file).read_text()).body
            if isinstance(node, ast.FunctionDef)
        }
        assert test in functions, f"{file} has no {test}"


@pytest.mark.parametrize("scope", ["training", "inference"])
def test_the_containers_are_of_this_decade(scope: str) -> None:
    """What the default versions mean in the SDK's own table of images."""
    from sagemaker.core import image_uris

    version = getattr(Compute(), f"pytorch_{scope}_version")
    uri = image_uris.retrieve(
        "pytorch", region="us-east-1", version=version, image_scope=scope, instance_type="ml.m5.large"
    )
    major, minor = re.search(r"-py(\d)(\d+)", uri).groups()  # type: ignore[union-attr]
    assert (int(major), int(minor)) >= (3, 11)
    assert int(version.partition(".")[0]) >= 2
