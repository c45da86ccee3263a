"""Images through the frozen trunk, once each."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data.images import ImageDataset, Unreadable, check_readable, loader_workers, read_batches
from data.preprocessing import Preprocessing
from model.artifact import channels_last

# On two CPU cores 32 is the fastest: activations of larger batches leave the cache.
BATCH = {"cpu": 32, "cuda": 256}
REPORT_SECONDS = 5.0


@dataclass(frozen=True)
class Split:
    """One split as the tail sees it."""

    inputs: Tensor
    """float32 [N, K, …] features; uint8 [N, K, 3, S, S] crops where there is no trunk to run. K views of an image."""
    labels: Tensor
    """int64 [N]."""


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def extract(
    trunk: nn.Module, dataset: ImageDataset, name: str, max_unreadable: float, cpus: int | None = None
) -> tuple[Split, Sequence[Unreadable]]:
    """Features of the readable images in the listing's order, and the files set apart.

    Prints `features split=train images=640/1257 seconds=1.9` every few seconds.

    :raises ValueError: when too many images are unreadable, see `data.images.check_readable`.
    """
    target = device()
    trunk = channels_last(trunk.eval().to(target))
    cached = not isinstance(trunk, nn.Identity)
    inputs: list[Tensor] = []
    labels: list[Tensor] = []
    unreadable: list[Unreadable] = []
    seen, total, start, reported = 0, len(dataset), time.monotonic(), time.monotonic()
    for batch in read_batches(dataset, BATCH[target.type], loader_workers(total, cpus)):
        inputs.append(_forward(trunk, dataset.preprocessing, batch.crops, target) if cached else batch.crops)
        labels.append(batch.labels)
        unreadable += batch.unreadable
        seen += len(batch.labels) + len(batch.unreadable)
        if time.monotonic() - reported >= REPORT_SECONDS or seen == total:
            reported = time.monotonic()
            print(f"features split={name} images={seen}/{total} seconds={reported - start:.1f}", flush=True)
    check_readable(dataset.listing, unreadable, max_unreadable)
    return Split(torch.cat(inputs).unsqueeze(1), torch.cat(labels)), unreadable


def _forward(trunk: nn.Module, preprocessing: Preprocessing, crops: Tensor, target: torch.device) -> Tensor:
    with torch.inference_mode():
        images = preprocessing.normalize(crops.to(target)).to(memory_format=torch.channels_last)
        features: Tensor = trunk(images)
    # A copy outside inference mode: autograd refuses tensors made inside it.
    return features.cpu().contiguous().clone()
