"""Explanations of networks that are known to look at one place, and of a trained one."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data.preprocessing import Preprocessing
from model import architectures
from model.artifact import LoadedModel, load_model
from model.network import Network, assemble
from report import clarify
from report.attribution import importance
from report.deletion import areas, deletion_score
from report.explanations import Explained, Sample, choose, explanations
from report.predictions import Predictions, predict
from tests.ml_code.conftest import TrainedModel

SIZE = 32


class Corner(nn.Module):
    """Two logits that depend on the upper left quarter of the picture and on nothing else."""

    def forward(self, images: Tensor) -> Tensor:
        brightness = images[:, :, : SIZE // 2, : SIZE // 2].mean(dim=(1, 2, 3))
        return torch.stack([4 * brightness, -4 * brightness], dim=1)


@pytest.fixture
def corner() -> LoadedModel:
    network = Network(nn.Identity(), Corner()).eval()
    return LoadedModel(network, ("bright", "dark"), Preprocessing(SIZE, SIZE), {}, torch.device("cpu"))


@pytest.fixture
def pictures() -> Tensor:
    """Bright everywhere, unevenly."""
    return 0.5 + torch.rand((6, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(0))


BRIGHT = torch.zeros(6, dtype=torch.int64)


def test_importance_lies_where_the_network_looks(corner: LoadedModel, pictures: Tensor) -> None:
    cells, method = importance(corner, pictures, BRIGHT)
    assert cells.shape == (6, 8, 8)
    assert cells.sum(dim=(1, 2)).tolist() == pytest.approx([1] * 6)
    assert cells[:, :4, :4].sum(dim=(1, 2)).tolist() == pytest.approx([1] * 6)
    assert "integrated gradients" in method


def test_the_deletion_score_tells_a_true_explanation_from_a_false_one(
    corner: LoadedModel, pictures: Tensor
) -> None:
    cells, _ = importance(corner, pictures, BRIGHT)
    true = deletion_score(*areas(corner, pictures, BRIGHT, cells), 0.95)
    assert true["believable"] is True
    assert true["area"] < true["random_area"]
    assert "can be believed" in true["sentence"]
    false = deletion_score(*areas(corner, pictures, BRIGHT, cells.flip(1, 2)), 0.95)
    assert false["believable"] is False
    assert "Do not believe" in false["sentence"]
    one = deletion_score(*areas(corner, pictures[:1], BRIGHT[:1], cells[:1]), 0.95)
    assert one["believable"] is None


def test_the_deletion_curve_is_the_probability_with_that_much_hidden(
    corner: LoadedModel, pictures: Tensor
) -> None:
    """By hand: after a quarter of the cells, the looked-at ones, the answer is a coin's."""
    cells, _ = importance(corner, pictures, BRIGHT)
    whole = corner.predict_proba(pictures)[:, 0].double().numpy()
    half = pictures.clone()
    order = cells.flatten(1).argsort(dim=1, descending=True)[:, :8]
    for row, hidden in enumerate(order.tolist()):
        for cell in hidden:
            top, left = cell // 8 * 4, cell % 8 * 4
            half[row, :, top : top + 4, left : left + 4] = 0
    first = corner.predict_proba(half)[:, 0].double().numpy()
    expected = (whole / 2 + first + 6 * 0.5 + 0.5 / 2) / 8
    assert areas(corner, pictures, BRIGHT, cells)[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("arch", "layer"), [("resnet18", "trunk.layer4"), ("mobilenet_v3_large", "trunk.features")]
)
def test_large_pictures_are_explained_by_the_last_layer_that_keeps_the_plane(arch: str, layer: str) -> None:
    torch.manual_seed(0)
    network = assemble(architectures.build(arch), arch, "fc", 3).eval()
    model = LoadedModel(network, ("a", "b", "c"), Preprocessing(224, 256), {}, torch.device("cpu"))
    cells, method = importance(model, torch.rand((1, 3, 224, 224)), torch.tensor([1]))
    assert f"Grad-CAM on layer {layer}" in method
    assert cells.shape == (1, 8, 8)
    assert float(cells.sum()) == pytest.approx(1)


def test_clarify_gets_shap_values(corner: LoadedModel, pictures: Tensor, tmp_path: Path) -> None:
    explained = Explained([Sample("right", 0)], pictures[:1], BRIGHT[:1])
    clarify.write_analysis(tmp_path / "explanations" / "analysis.json", corner, explained)
    document = json.loads((tmp_path / "explanations" / "analysis.json").read_text())
    assert document["version"] == "1.0"
    found = document["explanations"]["kernel_shap"]
    assert set(found) == {"bright"}
    assert found["bright"]["expected_value"] == pytest.approx(0.5)
    values = found["bright"]["global_shap_values"]
    assert len(values) == 16
    # They add up to what the picture has over a blank one; all of it comes from the four parts looked at.
    gained = float(corner.predict_proba(pictures[:1])[0, 0]) - 0.5
    seen = [values.pop(f"row {row} column {column}") for row in (0, 1) for column in (0, 1)]
    assert sum(seen) == pytest.approx(gained, rel=0.15)
    assert 2 * max(values.values()) < min(seen)


@pytest.fixture(scope="module")
def answered(
    trained: TrainedModel, digits: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[LoadedModel, Predictions]:
    model = load_model(trained.model)
    return model, predict(model, digits / "test", tmp_path_factory.mktemp("answers") / "predictions.jsonl")


def test_right_wrong_and_borderline_answers_are_explained(
    answered: tuple[LoadedModel, Predictions], digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, predictions = answered
    monkeypatch.setattr(clarify, "SAMPLES", 32)
    document, pictures = explanations("clarify", model, predictions, digits / "test", 0.95, tmp_path)
    assert document["reason"] is None
    assert len(pictures) == len(document["images"]) == document["deletion"]["images"]
    assert len({picture.file for picture in pictures}) == len(pictures)
    for picture, image in zip(pictures, document["images"], strict=True):
        assert (picture.file, picture.prediction) == (image["file"], image["prediction"])
        if image["kind"] != "borderline":
            assert (image["label"] == image["prediction"]) is (image["kind"] == "right")
    margins = {one.kind: [] for one in choose(predictions)}  # type: dict[str, list[float]]
    for one in choose(predictions):
        margins[one.kind].append(float(predictions.answers.margin[one.row]))
    assert max(margins["borderline"]) < min(margins["right"])
    labels = json.loads((tmp_path / "analysis.json").read_text())["explanations"]["kernel_shap"]
    assert set(labels) == {image["prediction"] for image in document["images"]}


def test_what_keeps_captum_from_it_is_the_reason(
    answered: tuple[LoadedModel, Predictions], digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, predictions = answered
    without, _ = explanations("none", model, predictions, digits / "test", 0.95, tmp_path)
    assert without["reason"] == "Not asked for: assess.explanations is none."
    with pytest.raises(ValueError, match="'some', not none, summary or clarify"):
        explanations("some", model, predictions, digits / "test", 0.95, tmp_path)
    broken: Any = SimpleNamespace(
        network=nn.Identity(), classes=model.classes, preprocessing=model.preprocessing, device=model.device
    )
    failed, pictures = explanations("summary", broken, predictions, digits / "test", 0.95, tmp_path)
    assert "Captum could not explain the model" in failed["reason"]
    assert (failed["images"], pictures) == ([], [])
    for name in ("report.attribution", "report.clarify"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    missing, _ = explanations("summary", model, predictions, digits / "test", 0.95, tmp_path)
    assert "Captum is not installed" in missing["reason"]
