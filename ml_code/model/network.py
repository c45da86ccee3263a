"""Trunk and tail as one module."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from model import architectures


class Standardize(nn.Module):
    """(x - mean) * scale for features [N, F]: a fixed affine, fitted once to the training features.

    A frozen network's features differ in scale by orders of magnitude, and a learning rate that suits the
    large ones leaves the small ones where they are.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.mean: Tensor
        self.scale: Tensor

    def fit(self, features: Tensor) -> None:
        """Mean 0 and variance 1 over float32 [N, F]; a constant feature becomes 0, not infinite."""
        deviation, mean = torch.std_mean(features.double(), dim=0, correction=0)
        constant = deviation < 1e-6 * mean.abs().clamp(min=1e-12)
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(constant, 0.0, 1 / deviation))

    def forward(self, features: Tensor) -> Tensor:
        return (features - self.mean) * self.scale


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
    features = architectures.feature_count(backbone, arch)
    fc = nn.Linear(features, classes)
    head: nn.Module = fc
    if tail == "fc":
        head = nn.Sequential(OrderedDict(standardize=Standardize(features), fc=fc))
    trunk, trainable = architectures.split(backbone, arch, tail, head)
    return Network(trunk, trainable)
