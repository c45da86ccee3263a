"""Trunk and tail as one module."""

from collections import OrderedDict

from torch import Tensor, nn

from model import architectures


class Tail(nn.Sequential):
    """Named for what it is: smdebug puts a module's class in front of its tensors' names (`Tail_fc.weight`)."""


class Network(nn.Module):
    """`tail(trunk(images))`: float32 [N, 3, S, S] to logits [N, C].

    The trunk has no gradients and stays in eval mode whatever `train()` says: its batch norms would otherwise
    drift, and cached features would no longer be what the served network computes.
    """

    def __init__(self, trunk: nn.Module, tail: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk.requires_grad_(False)
        self.tail = tail
        self.train(self.training)

    @property
    def fc(self) -> nn.Linear:
        """The new last layer of a network with tail `fc` or `layer4`."""
        layer = self.get_submodule("tail.fc")
        assert isinstance(layer, nn.Linear)
        return layer

    def train(self, mode: bool = True) -> "Network":
        super().train(mode)
        self.trunk.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.tail(self.trunk(images))
        return logits


def assemble(backbone: nn.Module, arch: str, tail: str, classes: int) -> Network:
    """A torchvision network split into trunk and tail, with a new last layer for `classes` classes.

    :raises ValueError: see `architectures.check`.
    """
    fc = nn.Linear(architectures.feature_count(backbone, arch), classes)
    trunk, layers = architectures.split(backbone, arch, tail)
    if tail == "all":
        layers.set_submodule(architectures.HEADS[arch], fc)
        return Network(trunk, layers)
    return Network(trunk, Tail(OrderedDict([*layers.named_children(), ("fc", fc)])))
