"""Robustness and latency of networks whose weak spot is known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from data.preprocessing import Preprocessing
from model.artifact import LoadedModel
from model.network import Network
from report import robustness as module
from report.latency import latency
from report.predictions import Predictions, predict
from report.robustness import robustness

SIZE = 32


class Brightness(nn.Module):
    """Tells bright pictures from dark ones, at grey 100 of 255, and sees nothing else."""

    def forward(self, images: Tensor) -> Tensor:
        bright = images.mean(dim=(1, 2, 3)) - 100 / 255
        return torch.stack([50 * bright, -50 * bright], dim=1)


@pytest.fixture
def model() -> LoadedModel:
    network = Network(nn.Identity(), Brightness()).eval()
    preprocessing = Preprocessing(SIZE, SIZE, mean=(0, 0, 0), std=(1, 1, 1))
    return LoadedModel(network, ("bright", "dark"), preprocessing, {}, torch.device("cpu"))


@pytest.fixture
def test_split(tmp_path: Path) -> Path:
    """Grey 150 and grey 50, each picture a little noisy."""
    drawn = np.random.default_rng(0)
    for label, grey in (("bright", 150), ("dark", 50)):
        (tmp_path / label).mkdir()
        for number in range(20):
            pixels = drawn.integers(grey - 10, grey + 10, (SIZE, SIZE + 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{number}.png")
    return tmp_path


@pytest.fixture
def predictions(model: LoadedModel, test_split: Path, tmp_path: Path) -> Predictions:
    return predict(model, test_split, tmp_path / "predictions.jsonl")


def test_only_what_the_network_looks_at_costs_accuracy(
    model: LoadedModel, predictions: Predictions, test_split: Path
) -> None:
    found = robustness(model, predictions, test_split, 0.95)
    assert (found["images"], found["of"], found["accuracy"]) == (40, 40, 1.0)
    drops = {(change["name"], change["strength"]): change["drop"] for change in found["changes"]}
    # Grey 150 at half its brightness is 75: dark. Grey 50 at half more is 75 too, and still dark.
    assert drops.pop(("darker", "0.5 times as bright")) == pytest.approx(0.5)
    assert len(drops) == len(module.CHANGES) - 1
    assert set(drops.values()) == {0.0}
    darker = next(change for change in found["changes"] if change["name"] == "darker")
    assert darker["accuracy"] == pytest.approx(0.5)
    low, high = darker["drop_interval"]
    assert 0.3 < low < 0.5 < high < 0.7


def test_a_large_split_is_sampled_the_same_way_every_time(
    model: LoadedModel, predictions: Predictions, test_split: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IMAGES", 15)
    found = robustness(model, predictions, test_split, 0.95)
    assert (found["images"], found["of"]) == (15, 40)
    assert robustness(model, predictions, test_split, 0.95) == found


def test_a_champion_that_names_its_classes_in_another_order_is_understood(
    model: LoadedModel, test_split: Path, tmp_path: Path
) -> None:
    turned = predict(model, test_split, tmp_path / "turned.jsonl", classes=("dark", "bright"))
    assert turned.classes == ("dark", "bright")
    assert turned.answers.correct.all()
    assert turned.row(0)["label"] == "dark"
    assert robustness(model, turned, test_split, 0.95)["accuracy"] == pytest.approx(1)


def test_latency_counts_what_it_says(model: LoadedModel, test_split: Path) -> None:
    found = latency(model, sorted((test_split / "dark").iterdir()))
    assert 0 < found["p50_ms"] <= found["p95_ms"] <= found["p99_ms"]
    assert found["images_per_second"] > 0
    assert found["threads"] == torch.get_num_threads()
