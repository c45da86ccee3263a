"""The training loop of the tail."""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from model.batches import batches, seed_of, step_sizes
from model.checkpoint import Checkpoints, State
from model.distributed import Group
from model.hyperparameters import Hyperparameters
from model.optimization import build_optimizer, build_schedule
from model.split import Split

# One pass of the validation split in few steps: metrics do not depend on it, the debugger's EVAL steps do, and
# a step over every image is a validation loss, not a sample of one.
EVALUATION_BATCH = 1024


class Clock(Protocol):
    seconds: dict[str, float]

    def phase(self, name: str) -> AbstractContextManager[None]: ...

    def part(self, name: str) -> AbstractContextManager[None]: ...

    def begin_step(self, mode: Literal["TRAIN", "EVAL"]) -> None: ...

    def end_step(self) -> None: ...

    def end_epoch(self) -> None: ...


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why, where and what to change."""


@dataclass
class _Sums:
    """Sums over images, so that means are the same whatever the batch size and the number of processes."""

    device: torch.device
    loss: Tensor = field(init=False)
    correct: Tensor = field(init=False)
    images: int = 0

    def __post_init__(self) -> None:
        self.loss = torch.zeros((), dtype=torch.float64, device=self.device)
        self.correct = torch.zeros((), dtype=torch.int64, device=self.device)

    def add(self, loss: Tensor, mass: float | Tensor, logits: Tensor, labels: Tensor) -> None:
        """`loss` is a mean over `mass`. Stays on the device: reading it would make each step wait."""
        self.loss += loss.detach().double() * mass
        self.correct += (logits.detach().argmax(dim=1) == labels).sum()
        self.images += len(labels)

    def metrics(self, name: str, group: Group) -> dict[str, float]:
        own = torch.stack([self.loss, self.correct.double(), self.loss.new_tensor(self.images)])
        loss, correct, images = group.add(own).tolist()
        return {f"{name}_loss": loss / images, f"{name}_accuracy": correct / images}


class Trainer:
    """Trains `tail` on a split, and keeps the epoch that is best by the objective.

    Decoding and the trunk are behind it: a step's data is a row of a tensor, so one loop serves cached features
    and whole networks. Order, views and dropout of an epoch follow from seed and epoch alone, so that a training
    that goes on from a checkpoint is the one that was interrupted. Every process of `group` takes its part of each
    batch; their sums over images are those that one process has.
    """

    def __init__(
        self,
        tail: nn.Module,
        criterion: nn.CrossEntropyLoss,
        settings: Hyperparameters,
        device: torch.device,
        clock: Clock,
        group: Group | None = None,
    ) -> None:
        self.tail = tail
        self.criterion, self.validation_criterion = criterion.to(device), nn.CrossEntropyLoss()
        """Modules of their own because the debugger hook watches their output."""
        self.prepare: Callable[[Tensor], Tensor] = lambda inputs: inputs
        """From a batch of `Split.inputs`, on the device, to the tail's input."""
        self.on_phase: Callable[[str], None] = lambda name: None
        """Called with `TRAIN` and `EVAL` before the steps of either begin."""
        self.should_stop: Callable[[], bool] = lambda: False
        """Called before each epoch but the first; every process of the group must say the same."""
        self.epochs: list[dict[str, Any]] = []
        """The numbers of each epoch, those before an interruption too."""
        self._settings, self._device, self._clock, self._group = settings, device, clock, group or Group()
        self._network = self._group.wrap(tail)

    def fit(
        self,
        train: Split,
        validation: Split,
        report: Callable[[dict[str, Any]], None],
        checkpoints: Checkpoints | None = None,
        state: State | None = None,
    ) -> dict[str, Any]:
        """Calls `report` with each epoch's numbers; returns those of the best, whose weights the tail then has.

        :param state: what `checkpoints` had written of this training; goes on from there.
        :raises TrainingError: when a loss is not finite.
        """
        settings = self._settings
        self._autocast = mixed_precision(settings.precision, self._device, train)
        self._optimizer = build_optimizer(self.tail, settings)
        steps = len(step_sizes(len(train.labels), settings.batch_size))
        self._schedule = build_schedule(self._optimizer, settings, steps)
        self._best: dict[str, Tensor] = {}
        if state:
            self._restore(state)
        while not self._enough():
            numbers = self._epoch(len(self.epochs) + 1, train, validation)
            self.epochs.append(numbers)
            report(numbers)
            with self._clock.phase("checkpoint"):
                if best_epoch(self.epochs, settings.objective) is numbers:
                    self._best = {name: tensor.clone() for name, tensor in self.tail.state_dict().items()}
                if checkpoints:
                    checkpoints.offer(self._state)
            self._clock.end_epoch()
        self.tail.load_state_dict(self._best)
        return best_epoch(self.epochs, settings.objective)

    def evaluate(self, split: Split) -> dict[str, float]:
        """`validation_loss` and `validation_accuracy`, means over the split's images in their first view.

        In float32 whatever the training's precision: that is what will be served.
        """
        self.on_phase("EVAL")
        self.tail.eval()
        sums, clock = _Sums(self._device), self._clock
        size = evaluation_batch(split, self._settings)
        with clock.phase("evaluation"), torch.no_grad():
            for start in range(0, len(split.labels), size):
                part = self._group.part(min(size, len(split.labels) - start))
                rows = slice(start + part.start, start + part.stop)
                if rows.start == rows.stop:
                    continue
                clock.begin_step("EVAL")
                with clock.part("data"):
                    inputs, labels = split.inputs[rows, 0], split.labels[rows]
                with clock.part("transfer"):
                    inputs, labels = inputs.to(self._device), labels.to(self._device)
                with clock.part("forward"):
                    logits = self.tail(self.prepare(inputs))
                    sums.add(self.validation_criterion(logits, labels), len(labels), logits, labels)
                clock.end_step()
            return sums.metrics("validation", self._group)

    def _epoch(self, epoch: int, train: Split, validation: Split) -> dict[str, Any]:
        start = time.perf_counter()
        # For dropout, whose masks are a process's own.
        torch.manual_seed(seed_of(self._settings.seed, epoch, self._group.rank + 1))
        numbers: dict[str, Any] = {"epoch": epoch} | self._train(train, epoch) | self.evaluate(validation)
        numbers["seconds"] = time.perf_counter() - start
        self._check_finite(numbers)
        return numbers

    def _train(self, split: Split, epoch: int) -> dict[str, float]:
        self.on_phase("TRAIN")
        self._network.train()
        sums, clock, weight = _Sums(self._device), self._clock, self.criterion.weight
        coming = batches(split, self._settings.batch_size, self._settings.seed, epoch, self._group)
        while True:
            clock.begin_step("TRAIN")
            with clock.phase("data"):
                batch = next(coming, None)
            if batch is None:
                return sums.metrics("train", self._group)
            with clock.phase("transfer"):
                inputs, labels = (
                    tensor.to(self._device, non_blocking=True) for tensor in (batch.inputs, batch.labels)
                )
            with clock.phase("forward"), self._autocast:
                logits = self._network(self.prepare(inputs))
                # The mean of no losses is not a number, their sum is none.
                loss = self.criterion(logits, labels) if len(labels) else logits.sum()
            with clock.phase("backward"):
                mass = len(labels) if weight is None else weight[labels].sum()
                # DDP takes the mean over the processes; what counts is the sum over the batch's images.
                share = mass * self._group.size / batch.images
                self.tail.zero_grad()  # the optimizer's takes 50 us, most of it for profilers
                (loss if weight is None and share == 1 else loss * share).backward()
            with clock.phase("optimizer"):
                self._optimizer.step()
                self._schedule.step()
                sums.add(loss, mass, logits, labels)
            clock.end_step()

    def _state(self) -> State:
        return {
            "tail": self.tail.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "best": self._best,
            "epochs": self.epochs,
            "seconds": self._clock.seconds,
        }

    def _restore(self, state: State) -> None:
        self.tail.load_state_dict(state["tail"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._best = state["best"]
        self.epochs = state["epochs"]
        self._clock.seconds.update(state["seconds"])

    def _enough(self) -> bool:
        if len(self.epochs) == self._settings.epochs or self._out_of_patience():
            return True
        return bool(self.epochs) and self.should_stop()

    def _out_of_patience(self) -> bool:
        if not self._settings.patience or not self.epochs:
            return False
        best = best_epoch(self.epochs, self._settings.objective)
        return bool(len(self.epochs) - best["epoch"] >= self._settings.patience)

    def _check_finite(self, numbers: dict[str, Any]) -> None:
        for name in ("train_loss", "validation_loss"):
            if not math.isfinite(numbers[name]):
                raise TrainingError(
                    f"{name} became {numbers[name]} in epoch {numbers['epoch']}: the training diverged; "
                    f"lower lr, which is {self._settings.lr}"
                )


def best_epoch(epochs: list[dict[str, Any]], objective: str) -> dict[str, Any]:
    """The one with the lowest loss or the highest accuracy; of equals the first."""
    sign = -1 if objective == "validation_accuracy" else 1
    return min(epochs, key=lambda epoch: sign * epoch[objective])


def evaluation_batch(split: Split, settings: Hyperparameters) -> int:
    """Images in one step of an evaluation."""
    return EVALUATION_BATCH if split.inputs.ndim == 3 else settings.batch_size


def evaluation_steps(split: Split, settings: Hyperparameters) -> int:
    """Steps of one evaluation."""
    return -(-len(split.labels) // evaluation_batch(split, settings))


def mixed_precision(precision: str, device: torch.device, split: Split) -> AbstractContextManager[Any]:
    """Around a training step's forward pass: bfloat16 or nothing.

    `auto` takes bfloat16 where it helps: on CUDA devices that compute in it, and where there is more to compute than
    one layer on vectors. On CPUs without instructions for it bfloat16 is many times slower than float32.
    """
    helps = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "fp32" or (precision == "auto" and not (helps and split.inputs.ndim > 3)):
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
