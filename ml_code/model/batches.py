"""Which images a training step sees, in which view: all of it follows from the seed and the epoch."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.distributed import Group
from model.split import Split


@dataclass(frozen=True)
class Batch:
    """One process's part of a batch."""

    inputs: Tensor
    """[n, …], rows of `Split.inputs`; n may be 0."""
    labels: Tensor
    """int64 [n]."""
    images: int
    """How many all parts have."""


def batches(split: Split, batch_size: int, seed: int, epoch: int, group: Group) -> Iterator[Batch]:
    """An epoch: every image once. Of `Split.inputs`, which may be a file, only the rows of the batch are read."""
    count, views, *shape = split.inputs.shape
    order, rows = epoch_plan(count, views, seed, epoch)
    inputs, labels = split.inputs.view(count * views, *shape), split.labels[order]
    start = 0
    for size in step_sizes(count, batch_size):
        part = group.part(size)
        own = slice(start + part.start, start + part.stop)
        yield Batch(inputs.index_select(0, rows[own]), labels[own], size)
        start += size


def epoch_plan(count: int, views: int, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
    """(images, rows), int64 [count]: every image once, and of its rows, one for each view, the one drawn for it."""
    generator = torch.Generator().manual_seed(seed_of(seed, epoch))
    order = torch.randperm(count, generator=generator)
    return order, order * views + torch.randint(views, (count,), generator=generator)


def step_sizes(count: int, batch_size: int) -> list[int]:
    """Images per step. A last step of one joins the step before it: batch norm cannot train on one image."""
    sizes = [batch_size] * (count // batch_size)
    rest = count % batch_size
    if rest == 1 and sizes:
        sizes[-1] += 1
    elif rest:
        sizes.append(rest)
    return sizes


def seed_of(*numbers: int) -> int:
    """A seed that is another one for other numbers.

    https://numpy.org/doc/stable/reference/random/bit_generators/generated/numpy.random.SeedSequence.html
    """
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
