"""What a training job trains: a network and two splits, from cached features or from images."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from data.images import ImageDataset, list_images
from data.preprocessing import Preprocessing
from model import architectures, artifact, weights
from model.extraction import Split, extract
from model.hyperparameters import HyperparameterError, Hyperparameters
from model.network import Network, assemble

FEATURES = "features.safetensors"


@dataclass(frozen=True)
class Material:
    network: Network
    train: Split
    validation: Split
    manifest: dict[str, Any]
    """arch, tail, weights, image_size, classes and preprocessing, as `model.json` will have them."""
    unreadable: list[dict[str, str]]

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing.from_dict(self.manifest["preprocessing"])


def from_features(settings: Hyperparameters, trunk: Path, train: Path, validation: Path) -> Material:
    """The folders that features.py wrote.

    :raises ValueError: when a hyperparameter contradicts trunk.json or a file is not what it says.
    """
    network, manifest = artifact.load_backbone(trunk, settings.seed)
    for name in ("arch", "tail", "image_size"):
        wanted = getattr(settings, name)
        if wanted is not None and wanted != manifest[name]:
            raise HyperparameterError(
                f"hyperparameter {name.replace('_', '-')} is {wanted} and the features were computed with "
                f"{manifest[name]}: compute them again or use the same"
            )
    kept = ("arch", "tail", "weights", "image_size", "classes", "preprocessing")
    return Material(
        network,
        _read(train, len(manifest["classes"])),
        _read(validation, len(manifest["classes"])),
        {name: manifest[name] for name in kept} | {"trunk_sha256": manifest["sha256"]},
        [],
    )


def from_images(
    settings: Hyperparameters, train: Path, validation: Path, weights_channel: Path | None, cpus: int
) -> Material:
    """Two ImageFolders, decoded once; where the trunk is not empty it runs once over them too.

    :raises ValueError: when a hyperparameter is missing or wrong, or too many images are unreadable.
    """
    arch, tail, source, image_size = (
        _needed(settings, name) for name in ("arch", "tail", "weights", "image_size")
    )
    architectures.check(arch, tail)
    if source.startswith("s3://"):
        source = str(_channel_file(source, weights_channel))
    preprocessing = weights.preprocessing(arch, source, image_size)
    listing = list_images(train)
    torch.manual_seed(settings.seed)
    network = assemble(weights.backbone(arch, source, settings.seed), arch, tail, len(listing.classes))
    splits, unreadable = [], []
    for name, root in (("train", train), ("validation", validation)):
        dataset = ImageDataset(root, list_images(root, listing.classes), preprocessing)
        split, files = extract(network.trunk, dataset, name, settings.max_unreadable, cpus)
        splits.append(split)
        unreadable += [{"split": name} | asdict(file) for file in files]
    manifest = {
        "arch": arch,
        "tail": tail,
        "weights": settings.weights,
        "image_size": image_size,
        "classes": list(listing.classes),
        "preprocessing": preprocessing.to_dict(),
    }
    return Material(network, splits[0], splits[1], manifest, unreadable)


def _read(folder: Path, classes: int) -> Split:
    try:
        tensors = load_file(folder / FEATURES)
        split = Split(tensors["features"].unsqueeze(1), tensors["labels"])
    except (OSError, SafetensorError, KeyError) as error:
        raise ValueError(
            f"{folder} holds no readable {FEATURES} as features.py writes it: {error}"
        ) from error
    if not len(split.labels) == len(split.inputs) > 0:
        raise ValueError(
            f"{folder}/{FEATURES} holds {len(split.inputs)} features and {len(split.labels)} labels"
        )
    if int(split.labels.max()) >= classes:
        raise ValueError(f"{folder}/{FEATURES} has labels that trunk.json's {classes} classes lack")
    return split


def _needed(settings: Hyperparameters, name: str) -> Any:
    value = getattr(settings, name)
    if value is None:
        raise HyperparameterError(
            f"hyperparameter {name.replace('_', '-')} is needed without a trunk channel"
        )
    return value


def _channel_file(source: str, channel: Path | None) -> Path:
    name = source.rpartition("/")[2]
    if channel is None or not (channel / name).is_file():
        raise HyperparameterError(f"hyperparameter weights is {source}: the weights channel must hold {name}")
    return channel / name
