"""Mistakes of the projects before that no other test would notice: docs/weaknesses.md."""

import ast
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import inference
import pytest
import torch

from data.images import loader_workers
from tests.ml_code.conftest import Job, TrainedModel

REPOSITORY = Path(__file__).parents[2]


def test_the_objective_is_measured_on_the_validation_split(run_job: Job, copy_of_digits: Path) -> None:
    """Validation images under their neighbours' labels spoil its numbers, and those alone."""
    arguments = [
        "--arch",
        "resnet18",
        "--tail",
        "fc",
        "--weights",
        "none",
        "--image-size",
        "32",
        "--epochs",
        "2",
    ]
    _, right = run_job(*arguments, data=copy_of_digits, name="right")
    validation = copy_of_digits / "validation"
    validation.rename(copy_of_digits / "labels")
    validation.mkdir()
    for digit in range(10):
        (copy_of_digits / "labels" / str(digit)).rename(validation / str((digit + 1) % 10))
    _, wrong = run_job(*arguments, data=copy_of_digits, name="wrong")
    before, after = (
        json.loads((job.output / "history.json").read_text())["epochs"][-1] for job in (right, wrong)
    )
    assert before["train_loss"] == after["train_loss"]
    assert after["validation_accuracy"] < 0.2 < before["validation_accuracy"]


def test_a_model_is_loaded_without_a_network(trained: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    assert inference.model_fn(str(trained.model)).classes == tuple("0123456789")


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((REPOSITORY / folder).rglob("*.py"))


def test_truncated_files_are_filled_up_nowhere() -> None:
    switch = "_".join(("LOAD", "TRUNCATED", "IMAGES"))
    files = list(sources("ml_code", "plugins", "dags", "local_sagemaker", "scripts", "benchmarks"))
    assert len(files) > 100
    assert not [file for file in files if switch in file.read_text()]


def test_many_images_are_decoded_by_every_processor() -> None:
    assert loader_workers(100_000, 16) == 16
    assert loader_workers(100_000) == os.cpu_count()
    assert loader_workers(100) == 0  # starting them would take longer


def test_the_network_ends_in_logits(trained: TrainedModel) -> None:
    model = inference.model_fn(str(trained.model))
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = model.network(images)
    assert not torch.allclose(logits.logsumexp(dim=1), torch.zeros(4), atol=1e-2)
    torch.testing.assert_close(model.predict_proba(images), logits.softmax(dim=1))


def test_nothing_is_unpickled() -> None:
    loads = 0
    for file in sources("ml_code", "plugins", "dags", "local_sagemaker"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                assert not names & {"pickle", "cPickle", "dill", "joblib", "cloudpickle"}, file
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                loads += 1
                assert "weights_only=True" in ast.unparse(node), file
    assert loads
