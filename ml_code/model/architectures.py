"""torchvision's networks, and the named layers at which they can be split into trunk and tail."""

from collections import OrderedDict

from torch import nn
from torchvision import models

# The last Linear of each architecture: `tail: fc` cuts in front of it.
HEADS = {
    "resnet18": "fc",
    "resnet34": "fc",
    "resnet50": "fc",
    "resnet101": "fc",
    "densenet121": "classifier",
    "mobilenet_v3_large": "classifier.3",
    "efficientnet_b0": "classifier.1",
}
TAILS = ("fc", "layer4", "all")


def check(arch: str, tail: str) -> None:
    """:raises ValueError: naming the setting, when the architecture is unknown or cannot be split there."""
    if arch not in HEADS:
        raise ValueError(f"arch must be one of {', '.join(HEADS)}: got {arch!r}")
    if tail not in TAILS:
        raise ValueError(f"tail must be one of {', '.join(TAILS)}: got {tail!r}")
    if tail == "layer4" and not arch.startswith("resnet"):
        raise ValueError(f"tail 'layer4' needs a resnet: {arch} has no such layer; use tail 'fc' or 'all'")


def build(arch: str) -> nn.Module:
    """The network as torchvision builds it, its weights initialised from torch's current seed."""
    check(arch, "all")
    network: nn.Module = models.get_model(arch, weights=None)
    return network


def feature_count(network: nn.Module, arch: str) -> int:
    """Width of the vectors that enter the last layer."""
    head = network.get_submodule(HEADS[arch])
    assert isinstance(head, nn.Linear)
    return head.in_features


def split(network: nn.Module, arch: str, tail: str) -> tuple[nn.Module, nn.Module]:
    """(trunk, the layers of the tail in front of its last one); takes `network` apart.

    With tail `all` the second is the whole network, its last layer still in place.

    :raises ValueError: see `check`.
    """
    check(arch, tail)
    if tail == "all":
        return nn.Identity(), network
    if not arch.startswith("resnet"):
        # Without its last layer the network is its own trunk; its dropout does nothing in eval mode.
        network.set_submodule(HEADS[arch], nn.Identity())
        return network, nn.Sequential()
    # ResNet.forward is its children in order, with a flatten before the last.
    layers = OrderedDict(network.named_children())
    del layers["fc"]
    layers["flatten"] = nn.Flatten()
    names = list(layers)
    cut = names.index("layer4") if tail == "layer4" else len(names)
    return (
        nn.Sequential(OrderedDict((name, layers[name]) for name in names[:cut])),
        nn.Sequential(OrderedDict((name, layers[name]) for name in names[cut:])),
    )
