"""Where a backbone's weights come from: a seed, torchvision, or a file."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision import models

from data.preprocessing import Preprocessing
from model import architectures


def backbone(arch: str, weights: str, seed: int) -> nn.Module:
    """A torchvision network with `weights`: `none`, `DEFAULT` or another torchvision name, or a file's path.

    `none` is the same network for the same seed, everywhere. A torchvision name downloads, once; nothing
    else here does. A file is a state dict of the torchvision architecture, `.safetensors` or what
    `torch.save` writes; its last layer is not used and may be missing.

    :raises ValueError: naming the setting, when arch or weights are unknown or the file does not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = architectures.build(arch)
    if weights == "none":
        return network
    if enum := _torchvision(arch, weights):
        network.load_state_dict(enum.get_state_dict(progress=False, check_hash=True))
        return network
    _load(network, arch, Path(weights))
    return network


def preprocessing(arch: str, weights: str, image_size: int) -> Preprocessing:
    """What the weights were trained with, scaled to `image_size`; for random weights, the whole image.

    :raises ValueError: see `backbone`.
    """
    architectures.check(arch, "all")
    if weights == "none":
        return Preprocessing(image_size, image_size)
    enum = _torchvision(arch, weights) or models.get_model_weights(arch).DEFAULT
    transform = enum.transforms()
    return Preprocessing(
        image_size=image_size,
        resize_size=round(image_size * transform.resize_size[0] / transform.crop_size[0]),
        mean=tuple(transform.mean),
        std=tuple(transform.std),
        interpolation=transform.interpolation.value,
    )


def _torchvision(arch: str, weights: str) -> models.WeightsEnum | None:
    """The named weights; None when the name is that of an existing file."""
    names = models.get_model_weights(arch).__members__
    if weights in names:
        return models.get_model_weights(arch)[weights]
    if Path(weights).is_file():
        return None
    raise ValueError(f"weights must be none, {', '.join(names)} or a file that exists: got {weights!r}")


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
    state = {name: tensor for name, tensor in state.items() if not name.startswith(head)} | own
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"weights file {file} does not fit arch {arch}: {error}") from error
