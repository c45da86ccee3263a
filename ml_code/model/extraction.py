"""Images through the frozen trunk, once each."""

import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data.images import (
    Batch,
    ImageDataset,
    Samples,
    Unreadable,
    check_readable,
    loader_workers,
    read_batches,
)
from data.preprocessing import Preprocessing
from model.artifact import channels_last
from model.folding import fold_batch_norms
from model.keys import key
from model.split import Split, file_backed

# Pictures in one pass. On two CPU cores 32 is the fastest: activations of larger batches leave the cache.
BATCH = {"cpu": 32, "cuda": 256}
REPORT_SECONDS = 5.0


@dataclass(frozen=True)
class Rows:
    """What came of one batch of images."""

    inputs: Tensor
    """[n, K, …]: float32 vectors, float16 activations, or uint8 crops where the trunk is empty."""
    batch: Batch


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def extract(
    forward: "Forward", dataset: ImageDataset, name: str, max_unreadable: float, cpus: int | None = None
) -> tuple[Split, Sequence[Unreadable]]:
    """A split of the readable images in the order of their keys, and the files set apart.

    :raises ValueError: when too many images are unreadable, see `data.images.check_readable`.
    """
    inputs, unreadable, count = None, list[Unreadable](), 0
    labels = torch.empty(len(dataset), dtype=torch.int64)
    for rows in extracted(forward, dataset, name, cpus, by_key(dataset.listing.samples)):
        if inputs is None:
            inputs = file_backed((len(dataset), *rows.inputs.shape[1:]), rows.inputs.dtype)
        end = count + len(rows.batch.labels)
        inputs[count:end], labels[count:end] = rows.inputs, rows.batch.labels
        unreadable += rows.batch.unreadable
        count = end
    check_readable(unreadable, len(dataset), max_unreadable)
    assert inputs is not None, "a listing without samples is refused"
    return Split(inputs[:count], labels[:count]), unreadable


def extracted(
    forward: "Forward",
    dataset: ImageDataset,
    name: str,
    cpus: int | None = None,
    order: Sequence[int] | None = None,
) -> Iterator[Rows]:
    """The rows of one batch after the other, in the dataset's order or another.

    Prints `features split=train images=640/1257 seconds=1.9` every few seconds.
    """
    seen, total, start, reported = 0, len(dataset), time.monotonic(), time.monotonic()
    size = max(1, BATCH[forward.target.type] // dataset.views_per_image)
    for batch in read_batches(dataset, size, loader_workers(total, cpus), order):
        yield Rows(forward(batch.views), batch)
        seen += len(batch.labels) + len(batch.unreadable)
        if time.monotonic() - reported >= REPORT_SECONDS or seen == total:
            reported = time.monotonic()
            print(f"features split={name} images={seen}/{total} seconds={reported - start:.1f}", flush=True)


def by_key(samples: Samples) -> Sequence[int]:
    """Positions of the samples, ordered by the keys of their files."""
    keys = torch.tensor(array("q", (key(file) for file, _ in samples)))
    return array("q", torch.argsort(keys).numpy().tobytes())


class Forward:
    """A frozen trunk, made fast; its output is eager float32's but for rounding (benchmarks/trunk.py).

    On CPUs batch norms are folded into convolutions and the layout is channels last; on GPUs that can, the
    arithmetic is bfloat16's. It is a copy: one serves all splits.
    """

    def __init__(
        self, trunk: nn.Module, preprocessing: Preprocessing, target: torch.device | None = None
    ) -> None:
        """:param target: `device()` when left out."""
        self.target = target or device()
        self._empty = isinstance(trunk, nn.Identity)
        self.trunk = trunk if self._empty else channels_last(fold_batch_norms(trunk).to(self.target))
        self.preprocessing = preprocessing
        self._bfloat16 = self.target.type == "cuda" and torch.cuda.is_bf16_supported()

    def __call__(self, views: Tensor) -> Tensor:
        """[n, K, …] from uint8 [n, K, 3, S, S]; activations as float16, which halves the largest of them.

        The views themselves where the trunk is empty.
        """
        if self._empty or not len(views):
            return views
        pictures = views.flatten(0, 1).to(self.target, non_blocking=True)
        with (
            torch.inference_mode(),
            torch.autocast(self.target.type, dtype=torch.bfloat16, enabled=self._bfloat16),
        ):
            images = self.preprocessing.normalize(pictures).to(memory_format=torch.channels_last)
            features: Tensor = self.trunk(images)
        features = features.to("cpu", torch.float32 if features.ndim == 2 else torch.float16)
        # A copy outside inference mode: autograd refuses tensors made inside it.
        return features.contiguous().clone().view(*views.shape[:2], *features.shape[1:])
