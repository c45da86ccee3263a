"""What a training step minimises and how far it goes: criterion, optimizer, learning rate."""

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from model.hyperparameters import Hyperparameters


def build_criterion(settings: Hyperparameters, labels: Tensor, classes: int) -> nn.CrossEntropyLoss:
    """Of the training alone: validation is judged by plain cross entropy, whatever the settings."""
    weight = class_weights(labels, classes) if settings.class_weights == "balanced" else None
    return nn.CrossEntropyLoss(weight, label_smoothing=settings.label_smoothing)


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """float32 [classes], N / (present classes * images of the class); 0 for a class without images.

    scikit-learn's `balanced` (https://scikit-learn.org/stable/modules/generated/sklearn.utils.class_weight.compute_class_weight.html),
    after King and Zeng 2001, https://doi.org/10.1093/oxfordjournals.pan.a004868. Over the split's images they
    have a mean of 1, so that dividing a batch's weighted sum by its number of images, not by its sum of weights,
    keeps the loss's scale and lets no image count less for the company it is in.
    """
    counts = torch.bincount(labels, minlength=classes).double()
    present = counts > 0
    return torch.where(present, len(labels) / (present.sum() * counts), 0.0).float()


def build_optimizer(tail: nn.Module, settings: Hyperparameters) -> torch.optim.Optimizer:
    """Over the trainable parameters alone."""
    parameters = [parameter for parameter in tail.parameters() if parameter.requires_grad]
    lr, weight_decay = settings.lr, settings.weight_decay
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr, weight_decay=weight_decay, fused=True)
    return torch.optim.SGD(parameters, lr, momentum=0.9, nesterov=True, weight_decay=weight_decay, fused=True)


def build_schedule(
    optimizer: torch.optim.Optimizer, settings: Hyperparameters, steps_per_epoch: int
) -> LambdaLR:
    """To be moved on after each step."""
    warmup = round(settings.warmup_epochs * steps_per_epoch)
    return LambdaLR(optimizer, partial(rate, warmup=warmup, steps=settings.epochs * steps_per_epoch))


def rate(step: int, warmup: int, steps: int) -> float:
    """The share of `lr` at a step (the first is 0): up along a line, then to zero along half a cosine.

    Warm-up as in https://arxiv.org/abs/1706.02677, 2.2; the cosine is SGDR's without restarts
    (https://arxiv.org/abs/1608.03983): the last epochs average out the noise that a large rate leaves.
    """
    if step < warmup:
        return (step + 1) / warmup
    return (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1))) / 2
