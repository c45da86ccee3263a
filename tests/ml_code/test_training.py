"""The trainer on tensors: what its numbers mean, and what each hyperparameter does."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from model.batches import batches, epoch_plan, step_sizes
from model.distributed import Group
from model.hyperparameters import parse
from model.optimization import build_criterion, build_optimizer, build_schedule, class_weights
from model.split import Split
from model.training import Trainer, best_epoch
from profiler.step_clock import StepClock

CPU = torch.device("cpu")


def trainer(tail: nn.Module, labels: Tensor, *arguments: str) -> Trainer:
    given = parse(arguments, {})
    return Trainer(tail, build_criterion(given, labels, 5), given, CPU, StepClock(CPU))


def blobs(count: int, views: int = 1, *, shape: tuple[int, ...] = (3, 2, 2), seed: int = 0) -> Split:
    """Five classes, more of the first than of the others."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.arange(count) % 7).clamp(max=6) % 5
    noise = torch.randn(count, views, *shape, generator=generator)
    return Split(noise + labels.view(-1, 1, *(1 for _ in shape)), labels)


def linear(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5))


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(2, 90), batch_size=st.integers(1, 100), weights=st.sampled_from(["none", "balanced"])
)
def test_numbers_do_not_depend_on_the_batch_size(count: int, batch_size: int, weights: str) -> None:
    # Maps, not vectors: only then does evaluation go by batch_size.
    split, tail = blobs(count), linear()
    arguments = (
        "--batch-size",
        str(batch_size),
        "--lr",
        "1e-30",
        "--epochs",
        "1",
        "--class-weights",
        weights,
    )
    numbers = trainer(tail, split.labels, *arguments).fit(split, split, lambda epoch: None)
    losses = nn.functional.cross_entropy(tail(split.inputs[:, 0]), split.labels, reduction="none").double()
    assert numbers["validation_loss"] == pytest.approx(losses.mean().item(), rel=1e-5)
    weight = class_weights(split.labels, 5)[split.labels] if weights == "balanced" else torch.ones(count)
    assert weight.mean().item() == pytest.approx(1)
    assert numbers["train_loss"] == pytest.approx((losses * weight).mean().item(), rel=1e-5)
    right = (tail(split.inputs[:, 0]).argmax(1) == split.labels).sum().item()
    assert numbers["train_accuracy"] == numbers["validation_accuracy"] == right / count


@given(count=st.integers(1, 500), batch_size=st.integers(1, 200))
def test_no_step_has_one_image_alone(count: int, batch_size: int) -> None:
    sizes = step_sizes(count, batch_size)
    assert sum(sizes) == count
    assert count == 1 or batch_size == 1 or min(sizes) > 1
    assert max(sizes) <= batch_size + 1


@given(count=st.integers(1, 300), size=st.integers(1, 9))
def test_parts_are_even_and_the_first_is_never_empty(count: int, size: int) -> None:
    parts = [range(count)[Group(rank, size).part(count)] for rank in range(size)]
    assert [index for part in parts for index in part] == list(range(count))
    assert len(parts[0]) >= 1
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_an_epoch_shows_each_image_once_in_a_view_drawn_for_it() -> None:
    split = Split(torch.arange(60).view(20, 3, 1).float(), torch.arange(20))
    seen = list(batches(split, 6, seed=1, epoch=1, group=Group()))
    rows = torch.cat([batch.inputs for batch in seen]).squeeze(1).long()
    labels = torch.cat([batch.labels for batch in seen])
    assert torch.equal(rows // 3, labels)
    assert sorted(labels.tolist()) == list(range(20))
    assert (rows % 3).unique().tolist() == [0, 1, 2]
    again, other_epoch, other_seed = (epoch_plan(20, 3, *of)[1] for of in ((1, 1), (1, 2), (2, 1)))
    assert torch.equal(again, rows)
    assert not torch.equal(other_epoch, rows)
    assert not torch.equal(other_seed, rows)


def test_validation_sees_the_first_view() -> None:
    split, tail = blobs(20, views=2), linear()
    loss = trainer(tail, split.labels).evaluate(split)["validation_loss"]
    assert loss == pytest.approx(nn.functional.cross_entropy(tail(split.inputs[:, 0]), split.labels).item())


def test_the_learning_rate_rises_and_falls() -> None:
    given = parse(["--lr", "0.5", "--epochs", "4", "--warmup-epochs", "0.5"], {})
    optimizer = build_optimizer(linear(), given)
    schedule = build_schedule(optimizer, given, steps_per_epoch=10)
    rates = []
    for _ in range(40):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:6] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.5])
    assert rates[5:] == pytest.approx([0.25 * (1 + math.cos(math.pi * step / 35)) for step in range(35)])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


def test_only_what_is_trainable_is_optimised() -> None:
    tail = nn.Sequential(nn.Linear(3, 3).requires_grad_(False), nn.Linear(3, 2))
    groups = build_optimizer(tail, parse([], {})).param_groups
    assert [id(parameter) for group in groups for parameter in group["params"]] == [
        id(parameter) for parameter in tail[1].parameters()
    ]


def test_balanced_weights_are_scikit_learns() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    labels = torch.tensor([0] * 7 + [1] * 2 + [3])
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels.numpy())
    assert class_weights(labels, 5).tolist() == pytest.approx([expected[0], expected[1], 0, expected[2], 0])


def test_smoothing_and_weights_leave_the_validation_loss_alone() -> None:
    split = blobs(50)
    plain, changed = (
        trainer(linear(), split.labels, "--lr", "1e-30", "--epochs", "1", *more).fit(
            split, split, lambda _: None
        )
        for more in ((), ("--label-smoothing", "0.2", "--class-weights", "balanced"))
    )
    assert plain["validation_loss"] == changed["validation_loss"]
    assert plain["train_loss"] != pytest.approx(changed["train_loss"], rel=1e-3)


EPOCHS: list[dict[str, Any]] = [
    {"epoch": 1, "validation_loss": 0.5, "validation_accuracy": 0.8},
    {"epoch": 2, "validation_loss": 0.6, "validation_accuracy": 0.9},
    {"epoch": 3, "validation_loss": 0.5, "validation_accuracy": 0.9},
]


@pytest.mark.parametrize(("objective", "epoch"), [("validation_loss", 1), ("validation_accuracy", 2)])
def test_the_kept_epoch_is_the_objectives_and_of_equals_the_first(objective: str, epoch: int) -> None:
    assert best_epoch(EPOCHS, objective)["epoch"] == epoch


def test_training_ends_when_patience_does_and_has_the_best_epochs_weights() -> None:
    train, validation, tail = blobs(40), blobs(40, seed=1), linear()
    # Labels that say nothing: the validation loss is lowest at the beginning.
    validation = Split(validation.inputs, validation.labels.flip(0))
    one = trainer(tail, train.labels, "--lr", "0.3", "--epochs", "50", "--patience", "3", "--batch-size", "8")
    best = one.fit(train, validation, lambda epoch: None)
    assert len(one.epochs) == best["epoch"] + 3 < 50
    assert one.evaluate(validation)["validation_loss"] == pytest.approx(best["validation_loss"])


def test_bfloat16_learns_and_leaves_float32_weights() -> None:
    split, tail = blobs(60), linear()
    one = trainer(tail, split.labels, "--precision", "bf16", "--epochs", "5", "--lr", "0.1")
    numbers = one.fit(split, split, lambda epoch: None)
    assert numbers["train_loss"] < one.epochs[0]["train_loss"] or numbers["epoch"] == 1
    assert all(parameter.dtype == torch.float32 for parameter in tail.parameters())
    exact = nn.functional.cross_entropy(tail(split.inputs[:, 0]), split.labels).item()
    assert numbers["validation_loss"] == pytest.approx(exact, rel=1e-6)


@given(
    value=st.one_of(st.integers(1, 10**6), st.floats(1e-9, 1e9)),
    spelling=st.sampled_from(["{}", '"{}"', " {} "]),
)
def test_numbers_come_back_typed(value: float, spelling: str) -> None:
    name = "batch_size" if isinstance(value, int) else "learning_rate"
    settings = parse([f"--{name}", spelling.format(value)], {})
    assert value == (settings.batch_size if isinstance(value, int) else settings.lr)
