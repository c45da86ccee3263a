"""Faults planted in the training of digits_training.py, each with the rule that is to find it, and where."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from benchmarks.ml.digits_training import Net, Recipe, Run

LOSS, LOGITS, LABELS = "CrossEntropyLoss_output_0", "CrossEntropyLoss_input_0", "CrossEntropyLoss_input_1"

# What AWS gives no default for, and the names of the labels and predictions; all else is AWS's default.
PARAMETERS: Mapping[str, dict[str, str]] = {
    "AllZero": {"collection_names": "weights,gradients"},
    "UnchangedTensor": {"collection_names": "weights"},
    "TensorVariance": {"collection_names": "weights", "min_threshold": "1e-6", "max_threshold": "10"},
    "ClassImbalance": {"labels_regex": LABELS, "predictions_regex": LOGITS, "argmax": "True"},
    "Confusion": {"labels": LABELS, "predictions": LOGITS},
}


@dataclass(frozen=True)
class Fault:
    """`expected` gives (step, tensor) of a run, from what its loop saw."""

    rule: str
    recipe: Recipe
    expected: Callable[[Run], tuple[int, str | None]]
    more: dict[str, str] = field(default_factory=dict)

    @property
    def parameters(self) -> dict[str, str]:
        return {**PARAMETERS.get(self.rule, {}), **self.more}


def _zero_from(step: int) -> Callable[[Net], None]:
    def prepare(net: Net) -> None:
        calls = iter(range(1_000_000))
        # Before smdebug's own hook on the gradient, so that it sees what the optimizer gets.
        weight = net.get_parameter("second.conv.weight")
        weight.register_hook(  # type: ignore[no-untyped-call]
            lambda gradient: gradient * 0 if next(calls) >= step else gradient
        )

    return prepare


def _set(name: str, change: Callable[[Tensor], object]) -> Callable[[Net], None]:
    def prepare(net: Net) -> None:
        with torch.no_grad():
            change(net.get_parameter(name))

    return prepare


def _unbound(net: Net) -> None:
    net.third.tanh = torch.nn.Identity()


def _stall(net: Net, step: int) -> None:
    if step == 21:
        time.sleep(6)


def _few(count: int) -> Callable[[Tensor], Tensor]:
    return lambda labels: torch.arange(count)


def _rare_zeros(labels: Tensor) -> Tensor:
    """One in twenty of the images of 0."""
    zeros = torch.nonzero(labels == 0).flatten()
    return torch.cat([torch.nonzero(labels != 0).flatten(), zeros[::20]])


def _threes_as_eights(labels: Tensor) -> Tensor:
    return torch.where(labels == 3, 8, labels)


def _first_wide_gap(run: Run) -> tuple[int, str]:
    gaps = np.array(run.evaluation) / np.array(run.train).reshape(-1, run.steps_in_epoch).mean(1) - 1
    return int(np.argmax(gaps > 0.1)), LOSS


def _tenth_pass_without_optimum(run: Run) -> tuple[int, str]:
    best, waited = run.evaluation[0], 0
    for step, loss in enumerate(run.evaluation[1:], start=1):
        best, waited = (loss, 0) if best - loss >= 0.01 else (best, waited + 1)
        if waited == 10:
            return step, LOSS
    return -1, LOSS


def _most_unlike(run: Run) -> tuple[int, str]:
    """Of the saved ones of the first ten steps: 0."""
    return 0, min(run.variances[0], key=lambda name: run.variances[0][name])


def _imbalance(run: Run) -> tuple[int, str]:
    counts = np.zeros(10)
    for step, labels in list(enumerate(run.labels))[:: run.interval]:
        counts += np.bincount(labels.numpy(), minlength=10)
        there = counts[counts > 0]
        if counts.sum() >= max(500, 20 * len(there)) and there.max() > 10 * there.min():
            return step, LABELS
    return -1, LABELS


def _largest_update(run: Run) -> tuple[int, str]:
    before, after = run.weights
    ratios = {
        name: float((after[name] - before[name]).norm() / before[name].norm())
        for name in before
        if name.endswith("weight")
    }
    return 1, max(ratios, key=lambda name: ratios[name])


def _exploded(run: Run) -> tuple[int, str]:
    name, step = run.exploded or ("", -1)
    return step, name


FAULTS: Mapping[str, Fault] = {
    "learning rate 100": Fault(
        "WeightUpdateRatio", Recipe(lr=100, optimizer=torch.optim.SGD, epochs=1, interval=1), _largest_update
    ),
    "learning rate 100, and no tanh that bounds it": Fault(
        "ExplodingTensor",
        Recipe(lr=100, optimizer=torch.optim.SGD, epochs=1, interval=1, prepare=_unbound),
        _exploded,
    ),
    "gradients zeroed from step 30": Fault(
        "VanishingGradient",
        Recipe(epochs=3, prepare=_zero_from(30)),
        lambda run: (30, "gradient/Net_second.conv.weight"),
    ),
    "40 of 64 tanh units saturated": Fault(
        "SaturatedActivation",
        Recipe(epochs=3, prepare=_set("third.fc.bias", lambda bias: bias[:40].fill_(50))),
        # The second step saved: a batch has 64 values of a unit, and 1 % cannot be seen in fewer than 100.
        lambda run: (10, "third.tanh_input_0"),
    ),
    "20 of 32 ReLUs dead": Fault(
        "DeadRelu",
        Recipe(epochs=3, prepare=_set("second.conv.bias", lambda bias: bias[:20].fill_(-100))),
        lambda run: (0, "second.relu_output_0"),
    ),
    "constant loss (learning rate 0)": Fault("LossNotDecreasing", Recipe(lr=0), lambda run: (10, LOSS)),
    "overfit on 20 images": Fault(
        "Overfit", Recipe(choose=_few(20), shifts=False, dropout=0, epochs=40), _first_wide_gap
    ),
    "trained on 20 images for too long": Fault(
        "Overtraining",
        Recipe(choose=_few(20), shifts=False, dropout=0, epochs=120, lr=0.01),
        _tenth_pass_without_optimum,
        {"patience_train": "1000"},
    ),
    "a layer starts 100 times too small": Fault(
        "PoorWeightInitialization",
        Recipe(epochs=2, prepare=_set("second.conv.weight", lambda weight: weight.mul_(0.01))),
        _most_unlike,
    ),
    "one class 20 times rarer": Fault("ClassImbalance", Recipe(choose=_rare_zeros, epochs=10), _imbalance),
    "unchanged weights (not in the optimizer)": Fault(
        "UnchangedTensor", Recipe(frozen="third.fc.weight", epochs=3), lambda run: (20, "Net_third.fc.weight")
    ),
    "weights without updates (not in the optimizer)": Fault(
        "WeightUpdateRatio",
        Recipe(frozen="third.fc.weight", epochs=3),
        lambda run: (10, "Net_third.fc.weight"),
    ),
    "weights start at zero": Fault(
        "AllZero",
        Recipe(epochs=3, prepare=_set("fc.weight", lambda weight: weight.zero_())),
        lambda run: (0, "Net_fc.weight"),
    ),
    "weights start 100 times too large": Fault(
        "TensorVariance",
        Recipe(epochs=3, prepare=_set("second.conv.weight", lambda weight: weight.mul_(100))),
        lambda run: (0, "Net_second.conv.weight"),
    ),
    "threes labelled as eights": Fault(
        "Confusion", Recipe(relabel=_threes_as_eights), lambda run: (11, LOGITS)
    ),
    "6 s without a tensor after step 20": Fault(
        "StalledTrainingRule",
        Recipe(epochs=3, each_step=_stall),
        lambda run: (20, None),
        {"threshold": "4"},
    ),
    "images not normalised": Fault(
        "CheckInputImages", Recipe(normalise=False, epochs=8), lambda run: (70, "Net_input_0")
    ),
}
