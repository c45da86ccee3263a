"""Splits, weights, the artefact and the whitened head."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from model import architectures, weights
from model.artifact import ArtifactError, load_model
from model.network import assemble
from model.split import Split
from model.whitening import Whitening
from tests.ml_code.conftest import TrainedModel

SPLITS = [
    (arch, tail)
    for arch in architectures.HEADS
    for tail in architectures.TAILS
    if tail != "layer4" or arch.startswith("resnet")
]
SMALL = [(arch, tail) for arch, tail in SPLITS if arch not in {"resnet34", "resnet50", "resnet101"}]


@pytest.mark.parametrize(("arch", "tail"), SMALL)
def test_split_network_computes_what_torchvisions_does(arch: str, tail: str) -> None:
    whole = weights.backbone(arch, "none", seed=1).eval()
    head = whole.get_submodule(architectures.HEADS[arch])
    network = assemble(weights.backbone(arch, "none", seed=1), arch, tail, 1000).eval()
    head_of_network = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    head_of_network.load_state_dict(head.state_dict())
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(network(images), whole(images))


@pytest.mark.parametrize(
    ("arch", "tail", "message"),
    [("vgg99", "fc", "arch must be one of"), ("resnet18", "head", "tail must be one of"),
     ("densenet121", "layer4", "needs a resnet")],
)  # fmt: skip
def test_impossible_splits_name_the_setting(arch: str, tail: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        architectures.check(arch, tail)


def test_trunk_is_frozen_and_stays_in_eval_mode() -> None:
    network = assemble(weights.backbone("resnet18", "none", 0), "resnet18", "layer4", 3)
    before = {name: tensor.clone() for name, tensor in network.trunk.state_dict().items()}
    network.train()
    network(torch.randn(4, 3, 32, 32)).sum().backward()
    assert not any(module.training for module in network.trunk.modules())
    assert all(module.training for module in network.tail.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.trunk.state_dict().items())
    assert all(parameter.grad is None for parameter in network.trunk.parameters())
    assert all(parameter.grad is not None for parameter in network.tail.parameters())


def test_random_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    first = weights.backbone("resnet18", "none", 0).state_dict()
    torch.manual_seed(6)
    second = weights.backbone("resnet18", "none", 0).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], weights.backbone("resnet18", "none", 1).conv1.weight)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_come_from_files(tmp_path: Path, suffix: str) -> None:
    state = weights.backbone("resnet18", "none", 3).state_dict()
    del state["fc.weight"], state["fc.bias"]
    file = tmp_path / f"weights{suffix}"
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    assert torch.equal(weights.backbone("resnet18", str(file), 0).conv1.weight, state["conv1.weight"])
    with pytest.raises(ValueError, match="does not fit arch resnet34"):
        weights.backbone("resnet34", str(file), 0)


def test_densenets_published_names_are_understood(tmp_path: Path) -> None:
    state = weights.backbone("densenet121", "none", 3).state_dict()
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name): value
        for name, value in state.items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    save_file(old, tmp_path / "weights.safetensors")
    loaded = weights.backbone("densenet121", str(tmp_path / "weights.safetensors"), 0).state_dict()
    assert all(
        torch.equal(loaded[name], value) for name, value in state.items() if not name.startswith("classifier")
    )


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save(nn.Linear(2, 2), file)
    with pytest.raises(ValueError, match="cannot be read as a state dict"):
        weights.backbone("resnet18", str(file), 0)


def test_unknown_weights_name_the_choices() -> None:
    with pytest.raises(ValueError, match="weights must be none, IMAGENET1K_V1, DEFAULT, a file"):
        weights.backbone("resnet18", "imagenet", 0)


def test_pretrained_weights_bring_their_preprocessing() -> None:
    preprocessing = weights.preprocessing("efficientnet_b0", "DEFAULT", 112)
    assert (preprocessing.resize_size, preprocessing.interpolation) == (128, "bicubic")
    assert weights.preprocessing("resnet50", "IMAGENET1K_V2", 224).resize_size == 232


def test_loaded_model_answers_probabilities(trained: TrainedModel) -> None:
    model = load_model(trained.model)
    probabilities = model.predict_proba(torch.randn(3, 3, 32, 32))
    assert probabilities.shape == (3, 10)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(3))
    assert not any(module.training for module in model.network.modules())


def test_changed_weights_are_refused(trained: TrainedModel, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained.model, tmp_path / "model"))
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ArtifactError, match="sha256"):
        load_model(folder)


def test_incomplete_artefacts_are_refused(trained: TrainedModel, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"holds no model\.json"):
        load_model(tmp_path)
    shutil.copy(trained.model / "model.json", tmp_path)
    with pytest.raises(ArtifactError, match=r"holds no model\.safetensors"):
        load_model(tmp_path)


def test_manifest_says_what_was_trained(trained: TrainedModel) -> None:
    manifest = json.loads((trained.model / "model.json").read_text())
    assert manifest["version"] == f"local-{manifest['sha256'][:12]}"
    assert manifest["classes"] == list("0123456789")
    assert manifest["hyperparameters"]["epochs"] == 8
    assert manifest["validation"]["validation_accuracy"] > 0.7


def test_a_split_without_rows_has_no_chunks() -> None:
    assert list(Split(torch.empty(0, 1, 16), torch.empty(0, dtype=torch.int64)).chunks()) == []


def test_whitened_layer_folds_into_a_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    features = torch.randn(200, 16, generator=torch.Generator().manual_seed(0)) * torch.logspace(-4, 3, 16)
    features[:, 5] = 7.0  # a dead unit
    split = Split(features.view(100, 2, 16), torch.zeros(100, dtype=torch.int64))
    # A few rows at a time.
    monkeypatch.setattr("model.split.CHUNK_BYTES", 1000)
    whitening = Whitening.fit(split, shrinkage=1e-6)
    z = whitening(split).inputs.flatten(0, 1)
    spread = torch.cov(z.T, correction=0)
    expected = torch.eye(16)
    expected[5, 5] = 0
    torch.testing.assert_close(spread, expected, atol=1e-3, rtol=0)
    fc = nn.Linear(16, 3)
    on_z = fc(z)
    whitening.fold(fc)
    torch.testing.assert_close(fc(features), on_z, atol=1e-3, rtol=1e-3)
