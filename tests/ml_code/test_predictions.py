"""Predictions of a folder, as a large one is read: by processes of their own."""

import json
import resource
from collections.abc import Generator
from pathlib import Path

import pytest

from model.artifact import load_model
from report import predictions as module
from tests.ml_code.conftest import TrainedModel


@pytest.fixture
def few_files() -> Generator[None]:
    """As if the limit of open files were near."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 40, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_batch_of_a_loader_is_not_kept_open(
    trained: TrainedModel, digits: Path, tmp_path: Path, few_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a loader sends lies in shared memory, a file for each tensor, until nothing looks at it."""
    monkeypatch.setattr(module, "BATCH", 1)
    monkeypatch.setattr(module, "loader_workers", lambda images: 1)
    model = load_model(trained.model)
    found = module.predict(model, digits / "test", tmp_path / "predictions.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert len(found.answers) == len(rows) == 50
    assert [row["file"] for row in rows] == [found.file(i) for i in range(50)]
    assert [row["label"] == row["prediction"] for row in rows] == found.answers.correct.tolist()
