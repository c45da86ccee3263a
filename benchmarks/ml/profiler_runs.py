"""Short trainings under the real profiler, healthy or with a planted fault.

    PYTHONPATH=ml_code var/venv/ml/bin/python -m benchmarks.ml.profiler_runs FOLDER

plants every fault that a machine without a GPU can have, below FOLDER/<fault>: 14 s, and a few for the imports.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from profiler.job import JobProfiler

BATCH, FEATURES, CLASSES = 32, 256, 10
INTERVAL = 0.1
"""Seconds between samples, the shortest that SageMaker takes."""
DEVICE = 0.012
"""Seconds in which each step waits for its device, as on a GPU: runs beside each other are not to slow each other."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with a training, if anything."""

    loading: float = 0.0
    """Seconds that one image takes to load, in the training's own process: a loader that cannot keep up."""
    leaked: int = 0
    """Bytes a second that steps keep."""
    held_up: tuple[int, float] = (0, 0.0)
    """Every how many steps one is held up, and for how many seconds."""


FAULTS: dict[str, tuple[float, int, Fault]] = {
    "starved loader": (3.0, 0, Fault(loading=0.001)),
    "step outliers": (0.0, 320, Fault(held_up=(20, 0.15))),
    "memory leak": (7.0, 0, Fault(leaked=25_000_000)),
}
"""Seconds and steps of training, and what is wrong."""


def plant(root: Path) -> dict[str, Path]:
    """Train with each of FAULTS; name to profiler folder."""
    for name, (seconds, least, fault) in FAULTS.items():
        train(root / name, 0, seconds, fault, least)
    return {name: root / name for name in FAULTS}


class _Images(Dataset[tuple[Tensor, int]]):
    def __init__(self, seed: int, loading: float) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._inputs = torch.randn(64 * BATCH, FEATURES, generator=generator)
        self._labels = (self._inputs @ torch.randn(FEATURES, CLASSES, generator=generator)).argmax(1)
        self._loading = loading

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if self._loading:
            time.sleep(self._loading)
        return self._inputs[index], int(self._labels[index])


def train(folder: Path, seed: int, seconds: float, fault: Fault = Fault(), least: int = 0) -> None:
    """Train a small network for `seconds` and for `least` steps, with everything that watches a training job.

    Its files go below `folder`.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    net = nn.Sequential(
        nn.Linear(FEATURES, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, CLASSES)
    )
    optimizer = torch.optim.Adam(net.parameters())
    kept: list[Tensor] = []
    with JobProfiler(folder, INTERVAL, 0, torch.device("cpu")) as profiler:
        clock, batches = profiler.clock, _batches(_Images(seed, fault.loading))
        began, step = time.perf_counter(), 0
        while time.perf_counter() < began + seconds or step < least:
            clock.begin_step("TRAIN")
            with clock.phase("data"):
                inputs, labels = next(batches)
            with clock.phase("transfer"):
                inputs, labels = inputs.to("cpu"), labels.to("cpu")
            with clock.phase("forward"):
                loss = nn.functional.cross_entropy(net(inputs), labels)
                time.sleep(DEVICE)
                if fault.held_up[0] and step % fault.held_up[0] == fault.held_up[0] - 1:
                    time.sleep(fault.held_up[1])
            with clock.phase("backward"):
                optimizer.zero_grad()
                torch.autograd.backward(loss)
            with clock.phase("optimizer"):
                optimizer.step()
                due = int(fault.leaked * (time.perf_counter() - began)) - sum(map(len, kept))
                if due:
                    kept.append(torch.ones(due, dtype=torch.uint8))
            clock.end_step()
            step += 1


def _batches(images: _Images) -> Iterator[list[Tensor]]:
    while True:
        yield from DataLoader(images, batch_size=BATCH, shuffle=True)


if __name__ == "__main__":
    plant(Path(sys.argv[1]))
