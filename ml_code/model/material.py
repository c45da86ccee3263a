"""What a training job trains: a network and two splits, from cached features or from images."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from data.images import ImageDataset, check_classes, list_images
from data.preprocessing import Preprocessing
from data.views import ONE_VIEW, Views
from model import architectures, artifact, weights
from model.extraction import Forward, extract
from model.hyperparameters import HyperparameterError, Hyperparameters
from model.network import Network, assemble
from model.parts import assemble_parts
from model.split import Split


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
    classes = manifest["classes"]
    for name in ("arch", "tail", "image_size"):
        wanted = getattr(settings, name)
        if wanted is not None and wanted != manifest[name]:
            raise HyperparameterError(
                f"hyperparameter {name.replace('_', '-')} is {wanted} and the features were computed with "
                f"{manifest[name]}: compute them again or use the same"
            )
    splits, unreadable = [], []
    for name, folder in (("train", train), ("validation", validation)):
        split, files = assemble_parts(folder, len(classes))
        splits.append(split)
        unreadable += [{"split": name} | file for file in files]
    check_classes(classes, splits[0].labels)
    kept = ("arch", "tail", "weights", "image_size", "classes", "preprocessing")
    described = {name: manifest[name] for name in kept} | {"trunk_sha256": manifest["sha256"]}
    return Material(network, splits[0], splits[1], described, unreadable)


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
    file = _channel_file(source, weights_channel)
    preprocessing = weights.preprocessing(arch, source, image_size)
    listing = list_images(train)
    torch.manual_seed(settings.seed)
    backbone = weights.backbone(arch, source, settings.seed, file)
    network = assemble(backbone, arch, tail, len(listing.classes))
    forward = Forward(network.trunk, preprocessing)
    splits, unreadable = [], []
    for name, root in (("train", train), ("validation", validation)):
        views = Views(settings.views, settings.flip, settings.seed) if name == "train" else ONE_VIEW
        dataset = ImageDataset(root, list_images(root, listing.classes), preprocessing, views)
        split, files = extract(forward, dataset, name, settings.max_unreadable, cpus)
        splits.append(split)
        unreadable += [{"split": name} | asdict(file) for file in files]
    check_classes(listing.classes, splits[0].labels)
    manifest = {
        "arch": arch,
        "tail": tail,
        "weights": settings.weights,
        "image_size": image_size,
        "classes": list(listing.classes),
        "preprocessing": preprocessing.to_dict(),
    }
    return Material(network, splits[0], splits[1], manifest, unreadable)


def _needed(settings: Hyperparameters, name: str) -> Any:
    value = getattr(settings, name)
    if value is None:
        raise HyperparameterError(
            f"hyperparameter {name.replace('_', '-')} is needed without a trunk channel"
        )
    return value


def _channel_file(source: str, channel: Path | None) -> Path | None:
    """The weights that an earlier job or the user has put into S3; None where none are needed."""
    if channel is None:
        if source.startswith("s3://"):
            raise HyperparameterError(f"hyperparameter weights is {source}: the weights channel must hold it")
        return None
    files = [file for file in sorted(channel.iterdir()) if file.suffix in weights.SUFFIXES]
    if len(files) != 1:
        raise HyperparameterError(
            f"the weights channel must hold one file ending in {' or '.join(weights.SUFFIXES)}: it holds "
            f"{[file.name for file in files]}"
        )
    return files[0]
