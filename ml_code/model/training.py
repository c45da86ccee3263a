"""The training loop of the tail."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from model.hyperparameters import Hyperparameters
from model.split import Split

# One pass of the validation split in few steps: metrics do not depend on it, the debugger's EVAL steps do, and
# a step over every image is a validation loss, not a sample of one.
EVALUATION_BATCH = 1024


class Clock(Protocol):
    def phase(self, name: str) -> AbstractContextManager[None]: ...


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why, where and what to change."""


@dataclass
class _Sums:
    """Sums over images, so that means are the same whatever the batch size."""

    device: torch.device
    loss: Tensor = field(init=False)
    correct: Tensor = field(init=False)
    images: int = 0

    def __post_init__(self) -> None:
        self.loss = torch.zeros((), dtype=torch.float64, device=self.device)
        self.correct = torch.zeros((), dtype=torch.int64, device=self.device)

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """`loss` is the batch's mean. Stays on the device: reading it would make each step wait."""
        self.loss += loss.detach().double() * len(labels)
        self.correct += (logits.detach().argmax(dim=1) == labels).sum()
        self.images += len(labels)

    def metrics(self, name: str) -> dict[str, float]:
        return {
            f"{name}_loss": self.loss.item() / self.images,
            f"{name}_accuracy": self.correct.item() / self.images,
        }


def step_sizes(count: int, batch_size: int) -> list[int]:
    """Images per step. A last step of one joins the step before it: batch norm cannot train on one image."""
    sizes = [batch_size] * (count // batch_size)
    rest = count % batch_size
    if rest == 1 and sizes:
        sizes[-1] += 1
    elif rest:
        sizes.append(rest)
    return sizes


class Trainer:
    """Trains `tail` on a split, and keeps the epoch with the lowest validation loss.

    Decoding and the trunk are behind it: a step's data is a row of a tensor, so one loop serves cached features
    and whole networks. The criterion is a module of its own because the debugger hook watches its output.
    """

    def __init__(
        self, tail: nn.Module, settings: Hyperparameters, device: torch.device, clock: Clock
    ) -> None:
        self.tail = tail
        self.criterion = nn.CrossEntropyLoss()
        self.prepare: Callable[[Tensor], Tensor] = lambda inputs: inputs
        """From a batch of `Split.inputs`, on the device, to the tail's input."""
        self.on_phase: Callable[[str], None] = lambda name: None
        """Called with `TRAIN` and `EVAL` before the steps of either begin."""
        self._settings, self._device, self._clock = settings, device, clock

    def fit(
        self, train: Split, validation: Split, report: Callable[[dict[str, Any]], None]
    ) -> dict[str, Any]:
        """Calls `report` with each epoch's numbers; returns those of the best, whose weights the tail then has.

        :raises TrainingError: when a loss is not finite.
        """
        settings = self._settings
        optimizer = build_optimizer(self.tail, settings)
        steps = settings.epochs * len(step_sizes(len(train.labels), settings.batch_size))
        # To zero along half a cosine (SGDR without restarts, https://arxiv.org/abs/1608.03983): the last epochs
        # average out the noise that a large learning rate leaves.
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
        generator = torch.Generator().manual_seed(settings.seed)
        best: dict[str, Any] = {"validation_loss": math.inf}
        weights: dict[str, Tensor] = {}
        for epoch in range(1, settings.epochs + 1):
            start = time.perf_counter()
            numbers: dict[str, Any] = {"epoch": epoch}
            numbers |= self._train_epoch(train, optimizer, schedule, generator)
            numbers |= self.evaluate(validation)
            numbers["seconds"] = time.perf_counter() - start
            self._check_finite(numbers)
            if numbers["validation_loss"] < best["validation_loss"]:
                best = numbers
                with self._clock.phase("checkpoint"):
                    weights = {name: tensor.clone() for name, tensor in self.tail.state_dict().items()}
            report(numbers)
        self.tail.load_state_dict(weights)
        return best

    def evaluate(self, split: Split) -> dict[str, float]:
        """`validation_loss` and `validation_accuracy`, means over the split's images."""
        self.on_phase("EVAL")
        self.tail.eval()
        sums = _Sums(self._device)
        size = EVALUATION_BATCH if split.inputs.ndim == 3 else self._settings.batch_size
        with self._clock.phase("evaluation"), torch.no_grad():
            for start in range(0, len(split.labels), size):
                inputs = split.inputs[start : start + size, 0].to(self._device)
                labels = split.labels[start : start + size].to(self._device)
                logits = self.tail(self.prepare(inputs))
                sums.add(self.criterion(logits, labels), logits, labels)
            return sums.metrics("validation")

    def _train_epoch(
        self, split: Split, optimizer: torch.optim.Optimizer, schedule: Any, generator: torch.Generator
    ) -> dict[str, float]:
        self.on_phase("TRAIN")
        self.tail.train()
        sums, clock = _Sums(self._device), self._clock
        batches = self._batches(split, generator)
        while True:
            with clock.phase("data"):
                batch = next(batches, None)
            if batch is None:
                return sums.metrics("train")
            with clock.phase("transfer"):
                inputs, labels = (tensor.to(self._device, non_blocking=True) for tensor in batch)
            with clock.phase("forward"):
                logits = self.tail(self.prepare(inputs))
                loss = self.criterion(logits, labels)
            with clock.phase("backward"):
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
            with clock.phase("optimizer"):
                optimizer.step()
                schedule.step()
                sums.add(loss, logits, labels)

    def _batches(self, split: Split, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(split.labels), generator=generator)
        for index in torch.split(order, step_sizes(len(order), self._settings.batch_size)):
            yield split.inputs[index, 0], split.labels[index]

    def _check_finite(self, numbers: dict[str, Any]) -> None:
        for name in ("train_loss", "validation_loss"):
            if not math.isfinite(numbers[name]):
                raise TrainingError(
                    f"{name} became {numbers[name]} in epoch {numbers['epoch']}: the training diverged; "
                    f"lower lr, which is {self._settings.lr}"
                )


def build_optimizer(tail: nn.Module, settings: Hyperparameters) -> torch.optim.Optimizer:
    """Over the trainable parameters alone."""
    parameters = [parameter for parameter in tail.parameters() if parameter.requires_grad]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, settings.lr, weight_decay=settings.weight_decay)
    return torch.optim.SGD(
        parameters, settings.lr, momentum=0.9, nesterov=True, weight_decay=settings.weight_decay
    )
