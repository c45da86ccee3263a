"""Pretrained weights: fetched once, checked by their hash, and used by later jobs from a file."""

import hashlib
import json
import shutil
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

import fetch_weights
import pytest
import torch
from safetensors.torch import load_file
from torchvision import models

from model import weights
from model.artifact import load_backbone
from tests.ml_code.conftest import extract


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights as torchvision publishes them, with their hash in the name, at an address of this machine."""
    file = tmp_path / "resnet18.pth"
    torch.save(weights.backbone("resnet18", "none", 5).state_dict(), file)
    named = file.with_name(f"resnet18-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth")
    file.rename(named)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    publish(named, monkeypatch)
    return named


def publish(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = models.ResNet18_Weights.DEFAULT
    # torchvision's own class of weights, whose download is what is tested.
    moved: Any = Enum(
        "Moved",
        {"DEFAULT": replace(real.value, url=file.as_uri())},
        type=type(real).__mro__[1],
        module=__name__,
    )
    monkeypatch.setattr(weights.models, "get_model_weights", lambda arch: moved)


def fetch(output: Path, *options: str) -> int:
    return fetch_weights.main(
        ["--arch", "resnet18", "--weights", "DEFAULT", "--output", str(output), *options]
    )


def test_they_are_fetched_checked_and_written_down(published: Path, tmp_path: Path) -> None:
    assert fetch(tmp_path / "out") == 0
    state = load_file(tmp_path / "out/weights.safetensors")
    assert torch.equal(state["conv1.weight"], weights.backbone("resnet18", "none", 5).conv1.weight)
    said = json.loads((tmp_path / "out/weights.json").read_text())
    assert said["url"] == published.as_uri()
    assert said["sha256"] == hashlib.sha256((tmp_path / "out/weights.safetensors").read_bytes()).hexdigest()


def test_other_weights_than_the_name_says_are_refused(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(published.rename(published.with_name("resnet18-00000000.pth")), monkeypatch)
    assert fetch(tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert "could not be fetched (invalid hash value" in said
    assert not (tmp_path / "out").exists()


def test_code_in_published_weights_is_not_run(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(torch.nn.Linear(2, 2), published)
    named = f"resnet18-{hashlib.sha256(published.read_bytes()).hexdigest()[:8]}.pth"
    publish(published.rename(published.with_name(named)), monkeypatch)
    assert fetch(tmp_path / "out") == 1
    assert "could not be fetched" in capsys.readouterr().err


def test_without_a_network_one_sentence_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    publish(tmp_path / "resnet18-f37072fd.pth", monkeypatch)  # where nothing is
    assert fetch(tmp_path / "out") == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "where there is a network, and set model.weights to the file or to its s3:// address" in sentence


def test_unknown_names_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--arch", "resnet18", "--weights", "V9", "--output", str(tmp_path)]
    assert fetch_weights.main(arguments) == 1
    assert (
        "weights must be none, IMAGENET1K_V1, DEFAULT, a file or an s3:// address" in capsys.readouterr().err
    )


def test_no_later_job_downloads(
    published: Path, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The features' job takes the file; from then on the trunk has them."""
    assert fetch(tmp_path / "out") == 0
    published.unlink()
    shutil.rmtree(tmp_path / "hub")
    monkeypatch.undo()
    file = str(tmp_path / "out/weights.safetensors")
    named = ["--weights", "DEFAULT", "--weights-file", file]
    assert extract(digits, tmp_path / "features", *named) == 0
    network, manifest = load_backbone(tmp_path / "features/trunk", 0)
    assert manifest["weights"] == "DEFAULT"
    assert manifest["preprocessing"]["resize_size"] == round(32 * 256 / 224)
    assert torch.equal(network.trunk.conv1.weight, load_file(file)["conv1.weight"])
    own = ["--weights", "s3://bucket/mine.safetensors", "--weights-file", file]
    assert extract(digits, tmp_path / "own", *own) == 0
