"""An image folder, looked at before anything is sent: its files, its mistakes, its version.

A dataset has one folder per split and in each one folder per class (torchvision's ImageFolder). In S3 the
splits are always called train, validation and test; which files belong to a version is written in a manifest per
split (SageMaker's ManifestFile), so that files which only an older version has can stay where they are.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

from evergreen import names
from evergreen.settings import Splits

SPLITS = ("train", "validation", "test")
IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


class DatasetError(ValueError):
    """The dataset cannot be trained on; the message is one sentence that names the setting."""


@dataclass(frozen=True)
class File:
    path: str
    """`SPLIT/CLASS/NAME` with SPLIT one of `SPLITS`."""
    size: int
    checksum: str
    source: str
    """Local path, or key in the source bucket."""


@dataclass(frozen=True)
class Snapshot:
    files: tuple[File, ...]
    ignored: tuple[str, ...] = field(default=())
    """Files that are no images by their name."""

    @property
    def version(self) -> str:
        return names.digest(*(f"{file.path} {file.checksum}" for file in self.files))

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Images per split and class."""
        counted = Counter(tuple(file.path.split("/")[:2]) for file in self.files)
        return {
            split: {name: n for (of, name), n in sorted(counted.items()) if of == split} for split in SPLITS
        }


def scan_folder(root: Path, splits: Splits) -> Snapshot:
    """The files of a local folder.

    :raises DatasetError: when the folder or a split is missing.
    """
    if not root.is_dir():
        raise DatasetError(f"dataset.source: there is no folder {root}")
    found: list[tuple[str, str, Path]] = []
    for split in SPLITS:
        folder = getattr(splits, split)
        if not (root / folder).is_dir():
            raise DatasetError(
                f"dataset.splits.{split}: there is no folder {folder!r} in {root}; "
                f"it has {_listed(sorted(path.name for path in root.iterdir() if path.is_dir()))}"
            )
        found += [
            (split, path.relative_to(root / folder).as_posix(), path)
            for path in sorted((root / folder).rglob("*"))
            if path.is_file()
        ]
    return _snapshot(
        (split, relative, path.stat().st_size, partial(_sha256, path), str(path))
        for split, relative, path in found
    )


def scan_listing(objects: Iterable[tuple[str, int, str]], splits: Splits, where: str) -> Snapshot:
    """The files of an S3 listing: (key below the source prefix, size, ETag).

    :raises DatasetError: when a split is missing.
    """
    by_folder = {getattr(splits, split): split for split in SPLITS}
    listed = []
    for key, size, etag in objects:
        folder, _, relative = key.partition("/")
        if folder in by_folder and relative and not relative.endswith("/"):
            listed.append((by_folder[folder], relative, size, partial(str, etag), key))
    missing = set(SPLITS) - {split for split, *_ in listed}
    if missing:
        split = sorted(missing)[0]
        raise DatasetError(
            f"dataset.splits.{split}: nothing lies under {where.rstrip('/')}/{getattr(splits, split)}/"
        )
    return _snapshot(sorted(listed, key=lambda item: item[:2]))


def check(snapshot: Snapshot, source: str) -> None:
    """:raises DatasetError: unless each split has images, of the same two or more classes."""
    counts = snapshot.counts
    for split in SPLITS:
        if not counts[split]:
            raise DatasetError(
                f"dataset.source: the {split} split of {source} holds no images in class folders "
                f"(files ending in {', '.join(sorted(IMAGE_SUFFIXES))})"
            )
    classes = set(counts["train"])
    if len(classes) < 2:
        raise DatasetError(
            f"dataset.source: {source} has one class ({_listed(classes)}); a classifier needs two or more"
        )
    for split in SPLITS[1:]:
        extra, absent = set(counts[split]) - classes, classes - set(counts[split])
        if extra or absent:
            what = f"has {_listed(extra)}, which train lacks" if extra else f"lacks {_listed(absent)}"
            raise DatasetError(f"dataset.source: the {split} split of {source} {what}")


def _snapshot(found: Iterable[tuple[str, str, int, Callable[[], str], str]]) -> Snapshot:
    files, ignored = [], []
    for split, relative, size, checksum, source in found:
        path = PurePosixPath(relative)
        hidden = any(part.startswith(".") for part in path.parts)
        # An image directly in the split's folder has no class; one deeper than its class has an unclear one.
        if hidden or path.suffix.lower() not in IMAGE_SUFFIXES or len(path.parts) != 2:
            ignored.append(f"{split}/{relative}")
        else:
            files.append(File(f"{split}/{relative}", size, checksum(), source))
    return Snapshot(tuple(files), tuple(ignored))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _listed(values: Iterable[str], most: int = 5) -> str:
    ordered = sorted(values)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return (", ".join(repr(value) for value in ordered[:most]) + more) or "none"
