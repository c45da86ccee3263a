"""What jobs hand on: weights as safetensors beside a JSON manifest that holds their sha256."""

import hashlib
import importlib.metadata
import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from data.preprocessing import Preprocessing
from model import architectures
from model.network import Network, assemble

WEIGHTS, MANIFEST = "model.safetensors", "model.json"
TRUNK_WEIGHTS, TRUNK_MANIFEST = "trunk.safetensors", "trunk.json"


Module = TypeVar("Module", bound=nn.Module)


class ArtifactError(ValueError):
    """An artefact is incomplete, or its weights are not those that its manifest was written for."""


@dataclass(frozen=True)
class LoadedModel:
    network: Network
    """In eval mode, on `device`."""
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    manifest: dict[str, Any]
    device: torch.device

    def predict_proba(self, batch: Tensor) -> Tensor:
        """float32 [N, C], rows that sum to 1, on the CPU; from preprocessed float32 [N, 3, S, S]."""
        with torch.inference_mode():
            images = batch.to(self.device, memory_format=torch.channels_last)
            logits: Tensor = self.network(images)
            return logits.softmax(dim=1).cpu()


def save_model(folder: Path, network: Network, manifest: dict[str, Any]) -> dict[str, Any]:
    """Writes `model.safetensors` and `model.json`; returns the manifest with version, sha256 and libraries."""
    return _save(folder, WEIGHTS, MANIFEST, network, manifest)


def save_backbone(folder: Path, network: Network, manifest: dict[str, Any]) -> dict[str, Any]:
    """Writes `trunk.safetensors` and `trunk.json`; returns the manifest with `sha256` and `libraries`.

    The tail's first weights are in the file too: with tail `layer4` they are pretrained, and no later job may
    have to download them.
    """
    return _save(folder, TRUNK_WEIGHTS, TRUNK_MANIFEST, network, manifest)


def load_model(model_dir: Path) -> LoadedModel:
    """The served network, from its folder alone: nothing is downloaded and no weights are drawn.

    :raises ArtifactError: when a file is missing, the weights' sha256 is not the manifest's, or they do not fit it.
    """
    manifest = read_manifest(model_dir, MANIFEST)
    network = empty_network(manifest["arch"], manifest["tail"], len(manifest["classes"]))
    _load(model_dir, WEIGHTS, network, manifest)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return LoadedModel(
        network=channels_last(network.eval().to(device)),
        classes=tuple(manifest["classes"]),
        preprocessing=Preprocessing.from_dict(manifest["preprocessing"]),
        manifest=manifest,
        device=device,
    )


def load_backbone(folder: Path, seed: int) -> tuple[Network, dict[str, Any]]:
    """The network that feature extraction split, with a new last layer from `seed`, and its `trunk.json`.

    :raises ArtifactError: see `load_model`.
    """
    manifest = read_manifest(folder, TRUNK_MANIFEST)
    network = empty_network(manifest["arch"], manifest["tail"], len(manifest["classes"]))
    _load(folder, TRUNK_WEIGHTS, network, manifest)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network.fc.reset_parameters()
    return network, manifest


def empty_network(arch: str, tail: str, classes: int) -> Network:
    """The architecture without weights: tensors with shapes, and no memory until a state dict is loaded."""
    with torch.device("meta"):
        return assemble(architectures.build(arch), arch, tail, classes)


def channels_last(module: Module) -> Module:
    """The layout in which convolutions run fastest, on CPUs and on tensor cores."""
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    return module


def read_manifest(folder: Path, name: str) -> dict[str, Any]:
    """:raises ArtifactError: when the file is missing or no JSON object."""
    try:
        manifest = json.loads((folder / name).read_text())
    except FileNotFoundError as error:
        raise ArtifactError(f"{folder} holds no {name}: it is no artefact of this code") from error
    except ValueError as error:
        raise ArtifactError(f"{folder / name} is not JSON: {error}") from error
    if not isinstance(manifest, dict):
        raise ArtifactError(f"{folder / name} holds no JSON object")
    return manifest


def write_json(file: Path, document: Any) -> None:
    """Complete or not at all: a killed job leaves no half of a file behind under its name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    partial.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n")
    partial.replace(file)


def sha256_of(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def libraries() -> dict[str, str]:
    """Versions of what computed the weights; training and serving images differ, and a report shows it."""
    names = ("torch", "torchvision", "pillow", "numpy", "safetensors")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}


def _save(
    folder: Path, weights: str, name: str, module: nn.Module, manifest: dict[str, Any]
) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in module.state_dict().items()}
    partial = folder / f"{weights}.partial"
    save_file(state, partial)
    # safetensors creates its file for the owner alone; a training job may run as root, what reads it may not.
    partial.chmod(0o666 & ~_umask())
    partial.replace(folder / weights)
    sha256 = sha256_of(folder / weights)
    manifest = manifest | {"sha256": sha256, "libraries": libraries()}
    if "job" in manifest:
        manifest = {"version": f"{manifest['job']}-{sha256[:12]}"} | manifest
    write_json(folder / name, manifest)
    return manifest


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _load(folder: Path, weights: str, module: nn.Module, manifest: dict[str, Any]) -> None:
    file = folder / weights
    if not file.is_file():
        raise ArtifactError(f"{folder} holds no {weights}: the artefact is incomplete")
    if (found := sha256_of(file)) != manifest.get("sha256"):
        raise ArtifactError(
            f"{file} has sha256 {found}, its manifest says {manifest.get('sha256')}: "
            "the weights were changed or belong to another model"
        )
    try:
        module.load_state_dict(load_file(file), assign=True)
    except RuntimeError as error:
        raise ArtifactError(f"{file} does not fit its manifest: {' '.join(str(error).split())}") from error
