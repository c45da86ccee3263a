"""What computes a network: every backend the same, the fastest chosen, and int8 only where it is good enough."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from model.artifact import LoadedModel, load_model
from serving import backends
from serving.backends import BackendError, choose
from serving.quantization import quantize
from tests.ml_code.conftest import TrainedModel


@pytest.fixture(scope="module")
def model(trained: TrainedModel) -> LoadedModel:
    return load_model(trained.model)


@pytest.fixture(scope="module")
def images(digits: Path, model: LoadedModel) -> list[tuple[Path, int]]:
    return [
        (file, model.classes.index(file.parent.name))
        for split in ("validation", "test")
        for file in (digits / split).rglob("*.jpg")
    ]


@pytest.fixture(scope="module")
def crops(model: LoadedModel, images: list[tuple[Path, int]]) -> torch.Tensor:
    return torch.stack([model.preprocessing(file.read_bytes()) for file, _ in images])


@pytest.mark.parametrize("name", ["eager", "onnxruntime", "openvino"])
def test_probabilities_are_torchs(name: str, model: LoadedModel, crops: torch.Tensor, tmp_path: Path) -> None:
    try:
        choice = choose(model.network, crops[:2], [name], tmp_path, (1, 2))
    except BackendError as error:
        pytest.skip(str(error))
    served = dataclasses.replace(model, network=choice.backend)
    before = torch.get_num_threads()
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        difference = (served.predict_proba(crops) - model.predict_proba(crops)).abs().max()
        assert difference <= 1e-4
    torch.set_num_threads(before)
    assert choice.name == name


def test_the_fastest_is_chosen_and_the_others_named(
    model: LoadedModel, crops: torch.Tensor, tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    choice = choose(model.network, crops[:2], ["int8", "onnxruntime", "eager"], tmp_path, (1, 2))
    assert set(choice.ms) == {"onnxruntime", "eager"}
    assert choice.ms[choice.name] == min(choice.ms.values())
    assert choice.rejected == {"int8": "the model archive has no int8 network"}
    assert torch.get_num_threads() == before


def test_a_backend_that_computes_something_else_is_not_used(
    model: LoadedModel, crops: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = backends.export
    monkeypatch.setattr(
        backends, "export", lambda network, example: export(nn.Sequential(network, nn.Softmax(1)), example)
    )
    choice = choose(model.network, crops[:2], ["onnxruntime", "eager"], tmp_path, (1,))
    assert choice.name == "eager"
    assert choice.rejected["onnxruntime"].startswith("a probability differs from torch's by")
    with pytest.raises(BackendError, match=r"^onnxruntime: a probability differs"):
        choose(model.network, crops[:2], ["onnxruntime"], tmp_path, (1,))


def test_what_is_not_installed_is_named(
    model: LoadedModel, crops: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    choice = choose(model.network, crops[:2], ["onnxruntime", "openvino", "eager"], tmp_path, (1,))
    assert choice.rejected == {
        "onnxruntime": "onnx is not installed",
        "openvino": "onnx is not installed",
    }


def test_onnxruntime_reports_nothing_to_anybody(model: LoadedModel, tmp_path: Path) -> None:
    backends.installed("onnxruntime")
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


def test_int8_is_served_where_it_is_accepted(
    trained: TrainedModel,
    model: LoadedModel,
    images: list[tuple[Path, int]],
    crops: torch.Tensor,
    tmp_path: Path,
) -> None:
    said = quantize(model, images, tmp_path / "int8", 0.1)
    assert said == json.loads((tmp_path / "int8/int8.json").read_text())
    assert (said["images"], said["calibration_images"]) == (50, 50)
    assert said["accuracy_loss"] == said["accuracy"]["float32"] - said["accuracy"]["int8"] <= 0.1
    assert said["disagreements"] <= 5
    assert said["bytes"] < (trained.model / "model.safetensors").stat().st_size / 3
    (tmp_path / "model.json").write_bytes((trained.model / "model.json").read_bytes())
    choice = choose(model.network, crops[:2], ["int8"], tmp_path, (1, 2))
    served = dataclasses.replace(model, network=choice.backend)
    agreed = served.predict_proba(crops).argmax(1) == model.predict_proba(crops).argmax(1)
    assert agreed.float().mean() >= 0.9

    def refused(**changes: object) -> str:
        (tmp_path / "int8/int8.json").write_text(json.dumps(said | changes))
        return choose(model.network, crops[:2], ["int8", "eager"], tmp_path, (1,)).rejected["int8"]

    assert refused(accepted=False, reason="it is worse") == "not accepted: it is worse"
    assert refused(model_sha256="another") == "the int8 network was made from other weights"
    assert refused(sha256="another") == "the int8 network's sha256 is not its manifest's"


def test_int8_that_loses_too_much_is_not_written(
    model: LoadedModel, images: list[tuple[Path, int]], tmp_path: Path
) -> None:
    said = quantize(model, images, tmp_path / "int8", -1.0)
    assert not said["accepted"]
    assert "above the bound of -1" in said["reason"]
    assert said["accuracy"]["int8"] > 0.5
    assert not (tmp_path / "int8").exists()


def test_too_few_images_judge_nothing(
    model: LoadedModel, images: list[tuple[Path, int]], tmp_path: Path
) -> None:
    said = quantize(model, images[:60], tmp_path / "int8", 0.1)
    assert said["reason"].startswith(
        "not evaluated: 30 validation images are left to judge by, 50 are the least"
    )
    assert said["accuracy"] is None
    assert not (tmp_path / "int8").exists()
