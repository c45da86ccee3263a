"""ImageFolder datasets: a deterministic listing, a Dataset, and batches with unreadable files set apart."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.decoding import UnreadableImageError, decode, sniff
from data.preprocessing import Preprocessing

__all__ = [
    "Batch", "ImageDataset", "ImageListing", "Unreadable", "UnreadableImageError",
    "check_readable", "decode", "list_images", "read_batches", "sniff",
]  # fmt: skip

# Files with another ending (Thumbs.db, checksums) are no images. What has one of these and is neither JPEG
# nor PNG is counted and reported as unreadable, not passed over.
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})


@dataclass(frozen=True)
class ImageListing:
    """`classes` sorted by name; `samples`, sorted by path, are (path below the root, index of class)."""

    classes: tuple[str, ...]
    samples: tuple[tuple[str, int], ...]

    def counts(self) -> dict[str, int]:
        """Images of each class, 0 included."""
        counted = dict.fromkeys(self.classes, 0)
        for _, label in self.samples:
            counted[self.classes[label]] += 1
        return counted


@dataclass(frozen=True)
class Unreadable:
    file: str
    """Relative to the dataset's root, with `/`."""
    reason: str


@dataclass(frozen=True)
class Batch:
    crops: Tensor
    """uint8 [n, 3, S, S], the readable images; `Preprocessing.normalize` turns them into input."""
    indices: Tensor
    """int64 [n], positions in `ImageListing.samples`."""
    labels: Tensor
    """int64 [n]."""
    unreadable: tuple[Unreadable, ...]


def list_images(root: Path, classes: Sequence[str] | None = None) -> ImageListing:
    """One class per folder below `root`, images at any depth inside it; hidden files are left out.

    :param classes: the training split's classes, so that labels agree; a split may lack some, not add any.
    :raises ValueError: when there are fewer than two classes, no images, or a class that `classes` lacks.
    """
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder: the dataset's split belongs there")
    folders = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    names = tuple(folders if classes is None else classes)
    if unknown := sorted(set(folders) - set(names)):
        raise ValueError(f"{root} has classes that the training split lacks: {', '.join(unknown)}")
    if len(names) < 2:
        raise ValueError(f"{root} needs one folder per class, at least two: found {len(names)}")
    samples = tuple(
        (path.relative_to(root).as_posix(), label)
        for label, name in enumerate(names)
        for path in sorted((root / name).rglob("*"))
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not samples:
        raise ValueError(f"{root} has {len(names)} class folders and no images in them")
    return ImageListing(names, samples)


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """`dataset[i]` is (float32 [3, S, S], label).

    :raises UnreadableImageError: from `dataset[i]`, with the file's name and the reason.
    """

    def __init__(self, root: Path, listing: ImageListing, preprocessing: Preprocessing) -> None:
        self.root = root
        self.listing = listing
        self.preprocessing = preprocessing

    def __len__(self) -> int:
        return len(self.listing.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.preprocessing.normalize(self.crop(index)[None])[0], self.listing.samples[index][1]

    def crop(self, index: int) -> Tensor:
        """uint8 [3, S, S]."""
        file = self.listing.samples[index][0]
        try:
            return self.preprocessing.crop((self.root / file).read_bytes())
        except UnreadableImageError as error:
            raise UnreadableImageError(f"{file}: {error}") from error


class _Crops(Dataset[tuple[int, Tensor | Unreadable]]):
    """What a loader's workers send: one byte a pixel, and reasons in place of exceptions."""

    def __init__(self, dataset: ImageDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[int, Tensor | Unreadable]:
        try:
            return index, self.dataset.crop(index)
        except UnreadableImageError as error:
            file = self.dataset.listing.samples[index][0]
            return index, Unreadable(file, str(error).removeprefix(f"{file}: "))

    def collate(self, items: list[tuple[int, Tensor | Unreadable]]) -> Batch:
        readable = [(index, crop) for index, crop in items if isinstance(crop, Tensor)]
        samples, size = self.dataset.listing.samples, self.dataset.preprocessing.image_size
        crops = [crop for _, crop in readable]
        return Batch(
            torch.stack(crops) if crops else torch.empty((0, 3, size, size), dtype=torch.uint8),
            torch.tensor([index for index, _ in readable], dtype=torch.int64),
            torch.tensor([samples[index][1] for index, _ in readable], dtype=torch.int64),
            tuple(outcome for _, outcome in items if isinstance(outcome, Unreadable)),
        )


def read_batches(dataset: ImageDataset, batch_size: int, workers: int = 0) -> Iterator[Batch]:
    """The dataset in its order, decoded by `workers` processes (0: by this one)."""
    crops = _Crops(dataset)
    loader: DataLoader[tuple[int, Tensor | Unreadable]] = DataLoader(
        crops, batch_size=batch_size, num_workers=workers, collate_fn=crops.collate
    )
    yield from loader


def loader_workers(images: int, cpus: int | None = None) -> int:
    """Processes that decode: one per CPU, none for so few images that starting them would take longer."""
    return 0 if images < 2000 else cpus or os.cpu_count() or 1


def check_readable(listing: ImageListing, unreadable: Sequence[Unreadable], max_share: float) -> None:
    """:raises ValueError: when more than `max_share` of the images, or all of a class, are unreadable."""
    if not unreadable:
        return
    first = f"the first is {unreadable[0].file}: {unreadable[0].reason}"
    share = len(unreadable) / len(listing.samples)
    if share > max_share:
        raise ValueError(
            f"{len(unreadable)} of {len(listing.samples)} images ({share:.1%}) are unreadable, more than the "
            f"{max_share:.1%} allowed; {first}"
        )
    bad = {entry.file for entry in unreadable}
    left = ImageListing(listing.classes, tuple(sample for sample in listing.samples if sample[0] not in bad))
    for name, count in left.counts().items():
        if count == 0 and listing.counts()[name] > 0:
            raise ValueError(f"class {name} has no readable image; {first}")
