"""ImageFolder datasets: a deterministic listing, a Dataset, and batches with unreadable files set apart."""

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import overload

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.allocator import release_freed
from data.decoding import UnreadableImageError
from data.preprocessing import Preprocessing
from data.views import ONE_VIEW, Views

# Files with another ending (Thumbs.db, checksums) are no images. What has one of these and is neither JPEG
# nor PNG is counted and reported as unreadable, not passed over.
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})


class Samples(Sequence[tuple[str, int]]):
    """(path below the root, index of class), in some 50 bytes each: a million are no more than a batch or two."""

    def __init__(self, samples: Iterable[tuple[str, int]]) -> None:
        self._names, self._ends, self._labels = bytearray(), array("q"), array("i")
        for name, label in samples:
            self._names += os.fsencode(name)
            self._ends.append(len(self._names))
            self._labels.append(label)

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def nbytes(self) -> int:
        return len(self._names) + 8 * len(self._ends) + 4 * len(self._labels)

    @overload
    def __getitem__(self, index: int) -> tuple[str, int]: ...
    @overload
    def __getitem__(self, index: slice) -> "Samples": ...
    def __getitem__(self, index: int | slice) -> "tuple[str, int] | Samples":
        if isinstance(index, slice):
            return Samples(self[i] for i in range(*index.indices(len(self))))
        position = range(len(self))[index]
        start = self._ends[position - 1] if position else 0
        return os.fsdecode(bytes(self._names[start : self._ends[position]])), self._labels[position]


@dataclass(frozen=True)
class ImageListing:
    """`classes` sorted by name; `samples`, sorted by path within each class."""

    classes: tuple[str, ...]
    samples: Samples

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
    views: Tensor
    """uint8 [n, K, 3, S, S], the readable images; `Preprocessing.normalize` turns them into input."""
    indices: Tensor
    """int64 [n], positions in `ImageListing.samples`."""
    labels: Tensor
    """int64 [n]."""
    unreadable: tuple[Unreadable, ...]


def list_images(
    root: Path, classes: Sequence[str] | None = None, *, may_be_empty: bool = False
) -> ImageListing:
    """One class per folder below `root`, images at any depth inside it; hidden files are left out.

    :param classes: the training split's classes, so that labels agree; a split may lack some, not add any.
    :param may_be_empty: for one instance of several, which may have got no image of a small split.
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
    samples = Samples((file, label) for label, name in enumerate(names) for file in _images_below(root, name))
    if not samples and not may_be_empty:
        raise ValueError(f"{root} has {len(names)} class folders and no images in them")
    return ImageListing(names, samples)


def _images_below(root: Path, name: str) -> list[str]:
    """The image files of one class, below `root` and with `/`, sorted."""
    return sorted(
        Path(folder, file).relative_to(root).as_posix()
        for folder, _, files in os.walk(root / name)
        for file in files
        if PurePath(file).suffix.lower() in SUFFIXES and not file.startswith(".")
    )


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """`dataset[i]` is (float32 [3, S, S], label).

    :raises UnreadableImageError: from `dataset[i]`, with the file's name and the reason.
    """

    def __init__(
        self, root: Path, listing: ImageListing, preprocessing: Preprocessing, views: Views = ONE_VIEW
    ) -> None:
        self.root = root
        self.listing = listing
        self.preprocessing = preprocessing
        self._views = views

    @property
    def views_per_image(self) -> int:
        return self._views.count

    def __len__(self) -> int:
        return len(self.listing.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.preprocessing.normalize(self.crop(index)[None])[0], self.listing.samples[index][1]

    def crop(self, index: int) -> Tensor:
        """uint8 [3, S, S]."""
        return self.views(index, ONE_VIEW)[0]

    def views(self, index: int, views: Views | None = None) -> Tensor:
        """uint8 [K, 3, S, S]: the image is decoded once for all."""
        file = self.listing.samples[index][0]
        try:
            image = self.preprocessing.decode((self.root / file).read_bytes())
        except UnreadableImageError as error:
            raise UnreadableImageError(f"{file}: {error}") from error
        except OSError as error:
            raise UnreadableImageError(f"{file}: it cannot be read: {error.strerror}") from error
        return (views or self._views)(self.preprocessing, image, file)


class _Views(Dataset[tuple[int, Tensor | Unreadable]]):
    """What a loader's workers send: one byte a pixel, and reasons in place of exceptions."""

    def __init__(self, dataset: ImageDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[int, Tensor | Unreadable]:
        try:
            return index, self.dataset.views(index)
        except UnreadableImageError as error:
            file = self.dataset.listing.samples[index][0]
            return index, Unreadable(file, str(error).removeprefix(f"{file}: "))

    def collate(self, items: list[tuple[int, Tensor | Unreadable]]) -> Batch:
        readable = [(index, views) for index, views in items if isinstance(views, Tensor)]
        samples, size = self.dataset.listing.samples, self.dataset.preprocessing.image_size
        views = [views for _, views in readable]
        release_freed()
        return Batch(
            torch.stack(views) if views else torch.empty((0, 1, 3, size, size), dtype=torch.uint8),
            torch.tensor([index for index, _ in readable], dtype=torch.int64),
            torch.tensor([samples[index][1] for index, _ in readable], dtype=torch.int64),
            tuple(outcome for _, outcome in items if isinstance(outcome, Unreadable)),
        )


def read_batches(
    dataset: ImageDataset, batch_size: int, workers: int = 0, order: Sequence[int] | None = None
) -> Iterator[Batch]:
    """The dataset in its order or another, decoded by `workers` processes (0: by this one)."""
    views = _Views(dataset)
    loader: DataLoader[tuple[int, Tensor | Unreadable]] = DataLoader(
        views,
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=views.collate,
        sampler=order,
        # Copied to the GPU while the network computes.
        pin_memory=torch.cuda.is_available(),
    )
    yield from loader


def loader_workers(images: int, cpus: int | None = None) -> int:
    """Processes that decode: one per CPU, none for so few images that starting them would take longer."""
    return 0 if images < 2000 else cpus or os.cpu_count() or 1


def check_readable(unreadable: Sequence[Unreadable], images: int, max_share: float) -> None:
    """:raises ValueError: when more than `max_share` of all `images` are unreadable."""
    if len(unreadable) > max_share * images:
        raise ValueError(
            f"{len(unreadable)} of {images} images ({len(unreadable) / images:.1%}) are unreadable, more than the "
            f"{max_share:.1%} allowed; the first is {unreadable[0].file}: {unreadable[0].reason}"
        )


def check_classes(classes: Sequence[str], labels: Tensor) -> None:
    """:raises ValueError: when a class has no image among `labels`, int64 [N]."""
    counts = torch.bincount(labels, minlength=len(classes))
    if missing := [name for name, count in zip(classes, counts.tolist(), strict=True) if not count]:
        raise ValueError(f"class {missing[0]} has no readable image to train on")
