"""A training whose loop notes down what smdebug saves, so that each rule can be held against numpy."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from smdebug import ReductionConfig, SaveConfig, SaveConfigMode, modes
from smdebug.pytorch import Hook
from smdebug.pytorch.singleton_utils import del_hook
from torch import nn

from rules import Outputs, Verdict, evaluate

FEATURES, CLASSES, WIDTH = 12, 3, 24
LOSS, LOGITS, LABELS = "CrossEntropyLoss_output_0", "CrossEntropyLoss_input_0", "CrossEntropyLoss_input_1"

EVERYTHING: Mapping[str, str | None] = {
    "weights": None,
    "gradients": None,
    "biases": None,
    "losses": None,
    "activations": ".*relu_(in|out)put|.*tanh_input",
    "input_image": "Net_input_0",
    "labels_and_predictions": "CrossEntropyLoss_input",
}
"""smdebug's collections, with a pattern where it has none of its own."""


class Net(nn.Module):
    """Two blocks with named ReLUs and one with a tanh, as AWS's patterns expect, and a last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self._block(FEATURES, relu=nn.ReLU())
        self.second = self._block(WIDTH, relu=nn.ReLU())
        self.third = self._block(WIDTH, tanh=nn.Tanh())
        self.fc = nn.Linear(WIDTH, CLASSES)

    @staticmethod
    def _block(width: int, **activation: nn.Module) -> nn.Sequential:
        linear = nn.Linear(width, WIDTH)
        nn.init.kaiming_normal_(linear.weight)
        return nn.Sequential(OrderedDict(linear=linear, **activation))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(self.third(self.second(self.first(x))))
        return logits


@dataclass
class Recorded:
    """What the loop itself saw, step by step; the rules only see what smdebug wrote."""

    folder: Path
    train: list[float] = field(default_factory=list)
    evaluation: list[list[float]] = field(default_factory=list)
    tensors: dict[str, list[np.ndarray]] = field(default_factory=dict)
    """Of TRAIN, by smdebug's names: parameters (before the step), gradients, activations, logits and labels."""
    last_pass: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    """Logits and labels of the last evaluation pass."""

    def verdict(self, name: str, **parameters: str) -> Verdict:
        return evaluate(Outputs(self.folder), {name: {"policy": "fail", "parameters": parameters}})[0]

    def add(self, name: str, value: torch.Tensor) -> None:
        self.tensors.setdefault(name, []).append(value.detach().double().numpy().copy())


def run(
    folder: Path,
    *,
    epochs: int,
    lr: float,
    batches: int = 1,
    images: int = 512,
    shuffled: bool = False,
    prepare: Callable[[Net], None] = lambda net: None,
    each_step: Callable[[Net, int], None] = lambda net, step: None,
    frozen: Sequence[str] = (),
    collections: Mapping[str, str | None] = EVERYTHING,
    interval: int = 1,
    reductions: Any = None,
    shift: float = 0.0,
) -> Recorded:
    """Train on a linearly separable task, two EVAL batches of unlike size after each epoch.

    `frozen` are parameters that the optimizer is not given; `shift` is added to every input.
    """
    torch.set_num_threads(1)  # more help nothing at this size
    torch.manual_seed(0)
    direction = torch.randn(FEATURES, CLASSES)
    x, held_out = torch.randn(images, FEATURES), torch.randn(512, FEATURES)
    y, held_out_y = (x @ direction).argmax(1), (held_out @ direction).argmax(1)
    x, held_out = x + shift, held_out + shift
    if shuffled:
        y = y[torch.randperm(images)]
    net, loss_function = Net(), nn.CrossEntropyLoss()
    prepare(net)
    recorded = Recorded(folder)
    hook = make_hook(folder, collections, interval, reductions)
    hook.register_module(net)
    hook.register_loss(loss_function)
    _note_activations(net, loss_function, recorded)
    optimizer = torch.optim.SGD(
        (p for name, p in net.named_parameters() if p.requires_grad and name not in frozen), lr=lr
    )
    for _ in range(epochs):
        hook.set_mode(modes.TRAIN)
        net.train()
        for batch in torch.arange(images).chunk(batches):
            each_step(net, len(recorded.train))
            for name, parameter in net.named_parameters():
                recorded.add(f"Net_{name}", parameter)
            optimizer.zero_grad()
            loss = loss_function(net(x[batch]), y[batch])
            loss.backward()
            recorded.train.append(loss.item())
            for name, parameter in net.named_parameters():
                if parameter.grad is not None:
                    recorded.add(f"gradient/Net_{name}", parameter.grad)
            optimizer.step()
        hook.set_mode(modes.EVAL)
        net.eval()
        recorded.evaluation.append([])
        recorded.last_pass = []
        with torch.no_grad():
            for part in (slice(384), slice(384, 512)):
                logits = net(held_out[part])
                recorded.evaluation[-1].append(loss_function(logits, held_out_y[part]).item())
                recorded.last_pass.append((logits.numpy(), held_out_y[part].numpy()))
    hook.close()
    del_hook()
    return recorded


def make_hook(
    folder: Path, collections: Mapping[str, str | None], interval: int = 1, reductions: Any = None
) -> Any:
    """smdebug's hook; losses of EVAL are saved at every step, whatever the interval."""
    hook = Hook(
        out_dir=str(folder),
        include_collections=list(collections),
        save_config=SaveConfig({
            modes.TRAIN: SaveConfigMode(save_interval=interval),
            modes.EVAL: SaveConfigMode(save_interval=1),
        }),
        reduction_config=None if reductions is None else ReductionConfig.from_dict({"reductions": reductions}),
    )  # fmt: skip
    for name, pattern in collections.items():
        if pattern is not None:
            hook.get_collection(name).include(pattern)
    return hook


def _note_activations(net: Net, loss_function: nn.Module, recorded: Recorded) -> None:
    def note(name: str) -> Callable[..., None]:
        def look(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if net.training:
                for number, value in enumerate(inputs):
                    recorded.add(f"{name}_input_{number}", value)
                recorded.add(f"{name}_output_0", output)

        return look

    for name in ("first.relu", "second.relu", "third.tanh"):
        net.get_submodule(name).register_forward_hook(note(name))
    net.register_forward_hook(note("Net"))
    loss_function.register_forward_hook(note("CrossEntropyLoss"))
