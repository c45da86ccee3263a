"""Where a backbone's weights come from: a seed, torchvision, or a file."""

import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision import models

from data.preprocessing import Preprocessing
from model import architectures

SUFFIXES = (".safetensors", ".pth", ".pt")
_OLD_NAME = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\b")


def backbone(arch: str, weights: str, seed: int, file: Path | None = None) -> nn.Module:
    """A torchvision network with `weights`: `none`, `DEFAULT` or another torchvision name, or a file's path.

    `none` is the same network for the same seed, everywhere. A file is a state dict of the torchvision architecture,
    `.safetensors` or what `torch.save` writes; its last layer is not used and may be missing.

    :param file: where the weights of a torchvision name, or of an s3:// address, are already. Without it a
        torchvision name downloads; nothing else here does.
    :raises ValueError: naming the setting, when arch or weights are unknown or the file does not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = architectures.build(arch)
    if weights == "none":
        return network
    if file is None and (enum := _torchvision(arch, weights)):
        network.load_state_dict(_renamed(download(enum)))
        return network
    _load(network, arch, file or Path(weights))
    return network


def preprocessing(arch: str, weights: str, image_size: int) -> Preprocessing:
    """What the weights were trained with, scaled to `image_size`; for random weights, the whole image.

    For weights of a file, what torchvision's own default weights were trained with.

    :raises ValueError: see `backbone`.
    """
    architectures.check(arch, "all")
    if weights == "none":
        return Preprocessing(image_size, image_size)
    known = None if weights.startswith("s3://") else _torchvision(arch, weights)
    transform = (known or models.get_model_weights(arch).DEFAULT).transforms()
    return Preprocessing(
        image_size=image_size,
        resize_size=round(image_size * transform.resize_size[0] / transform.crop_size[0]),
        mean=tuple(transform.mean),
        std=tuple(transform.std),
        interpolation=transform.interpolation.value,
    )


def named(arch: str, name: str) -> models.WeightsEnum:
    """torchvision's weights of that name.

    :raises ValueError: with the names there are.
    """
    architectures.check(arch, "all")
    known = models.get_model_weights(arch)
    if name not in known.__members__:
        raise ValueError(
            f"weights must be none, {', '.join(known.__members__)}, a file or an s3:// address: got {name!r}"
        )
    return known[name]


def download(enum: models.WeightsEnum) -> dict[str, Tensor]:
    """The state dict, fetched from torchvision's address and checked against the hash in its name.

    :raises ValueError: with what to do where there is no network, or the hash is wrong.
    """
    try:
        state: dict[str, Tensor] = enum.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except Exception as error:  # unpickling has no error type of its own
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"weights {enum} could not be fetched ({reason}): fetch {enum.url} where there is a network, and set "
            "model.weights to the file or to its s3:// address"
        ) from error
    return state


def _torchvision(arch: str, weights: str) -> models.WeightsEnum | None:
    """The named weights; None when the name is that of an existing file."""
    return None if Path(weights).is_file() else named(arch, weights)


def _load(network: nn.Module, arch: str, file: Path) -> None:
    state: dict[str, Tensor]
    try:
        if file.suffix == ".safetensors":
            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling has no error type of its own
        raise ValueError(f"weights file {file} cannot be read as a state dict: {error}") from error
    if not isinstance(state, dict):
        raise ValueError(f"weights file {file} holds a {type(state).__name__}, not a state dict")
    head = f"{architectures.HEADS[arch]}."
    own = {name: tensor for name, tensor in network.state_dict().items() if name.startswith(head)}
    state = {name: tensor for name, tensor in _renamed(state).items() if not name.startswith(head)} | own
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"weights file {file} does not fit arch {arch}: {error}") from error


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """DenseNet's published weights have names from when modules could be called `norm.1`.

    https://github.com/pytorch/vision/blob/main/torchvision/models/densenet.py, `_load_state_dict`
    """
    return {_OLD_NAME.sub(r"\1\2", name): tensor for name, tensor in state.items()}
