"""An image folder, looked at before anything is sent: its files, its mistakes, its version.

A dataset has one folder per split and in each one folder per class (torchvision's ImageFolder). In S3 the
splits are always called train, validation and test; which files belong to a version is written in a manifest per
split (SageMaker's ManifestFile), so that files which only an older version has can stay where they are.

What is found goes into a `Manifest`; nothing here holds the dataset in memory.
"""

import hashlib
import itertools
import logging
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from evergreen.listing import Object
from evergreen.manifest import BATCH, File, Manifest, Stat
from evergreen.progress import Progress

log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
TEMPORARY_SUFFIXES = frozenset({".crdownload", ".download", ".part", ".partial", ".swp", ".tmp"})
# The first bytes of the formats above; WebP's are RIFF, four bytes of size, and WEBP.
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*")
READERS = 8
CHUNK = 1 << 20
# How often, and after how many seconds, a file that changes while it is read is read again.
TRIES, PAUSE_S = 5, 0.5

Splits = Mapping[str, str]
"""Split → the name of its folder in the source."""


class DatasetError(ValueError):
    """The dataset cannot be trained on; the message is one sentence that names the setting."""


class SyncError(RuntimeError):
    """The sync did not come to its end; the message is one sentence. A retry goes on where this try was."""


def fingerprint(root: Path, splits: Splits) -> str:
    """What `look_at_folder` would return, without looking at more than stats.

    :raises DatasetError: when a split is missing.
    """
    walk = _Walk(lambda file, reason: None, root, splits)
    for _ in walk.files():
        pass
    return walk.digest()


def look_at_folder(manifest: Manifest, root: Path, splits: Splits) -> str:
    """A local folder → the manifest; only files that are new or were touched are read.

    Links to files and to class folders are followed. Returns a digest that is the same as long as no file is added,
    touched or removed.

    :raises DatasetError: when the folder or a split is missing, or `check` finds something.
    :raises SyncError: when a file goes on changing while it is read.
    """
    progress = Progress("looked at")
    walk = _Walk(manifest.ignore, root, splits)
    found = walk.files()
    while batch := list(itertools.islice(found, BATCH)):
        manifest.see(batch)
        progress.add(len(batch))
    # Before the reading, which may take hours; and after it, since what cannot be read is set apart.
    check(manifest.counts(), str(root))
    unread = manifest.recall()
    if unread.files:
        progress = Progress("read", unread.files, unread.size)
        with ThreadPoolExecutor(READERS) as pool:
            for files in manifest.unread():
                read_again(manifest, files, pool)
                progress.add(len(files), sum(file.stat.size for file in files))
        check(manifest.counts(), str(root))
    return walk.digest()


def look_at_listing(manifest: Manifest, pages: Iterable[list[Object]], splits: Splits, where: str) -> None:
    """An S3 listing → the manifest. What an object holds is known by its ETag.

    :raises DatasetError: when a split is missing, or `check` finds something.
    """
    by_folder = {splits[split]: split for split in SPLITS}
    there = set()
    progress = Progress("looked at")
    for page in pages:
        files = []
        for key, size, etag in page:
            folder, _, relative = key.partition("/")
            # The S3 console makes empty objects that end in a slash to show empty folders.
            if folder not in by_folder or not relative or key.endswith("/"):
                continue
            there.add(folder)
            path = f"{by_folder[folder]}/{relative}"
            reason = objection(relative) or ("is empty" if size == 0 else None)
            if reason:
                manifest.ignore(path, reason)
            else:
                md5 = etag if len(etag) == 32 else None
                files.append(File(path, key, Stat(size, 0, 0, 0), checksum=etag, md5=md5))
        manifest.see(files)
        progress.add(len(page))
    for split in SPLITS:
        if splits[split] not in there:
            raise DatasetError(
                f"dataset.splits.{split}: nothing lies under {where.rstrip('/')}/{splits[split]}/"
            )
    check(manifest.counts(), where)


def check(counts: Mapping[str, Mapping[str, int]], source: str) -> None:
    """:raises DatasetError: unless each split has images, of the same two or more classes."""
    for split in SPLITS:
        if not counts.get(split):
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


def objection(relative: str) -> str | None:
    """Why a file with this path below its split's folder is no image of a class; None when it is one."""
    if relative.startswith((".", "/")) or "/." in relative or "//" in relative:
        if any(part in {"", ".", ".."} for part in relative.split("/")):
            return "has a path that would lead out of the folder that a job reads it into"
        return "is hidden"
    folder, _, name = relative.rpartition("/")
    suffix = name[name.rfind(".") :].lower()
    if suffix in TEMPORARY_SUFFIXES or name.endswith("~"):
        return "has a temporary name"
    if suffix not in IMAGE_SUFFIXES:
        return "is no image by its name"
    if not folder:
        return "lies in no class folder"
    return "lies deeper than its class folder" if "/" in folder else None


def read_again(manifest: Manifest, files: list[File], pool: ThreadPoolExecutor) -> None:
    """What local files hold now → the manifest; those that cannot be read are set apart."""
    learned = []
    for file, outcome in zip(files, pool.map(_read, files), strict=True):
        if isinstance(outcome, str):
            manifest.ignore(file.path, outcome)
        else:
            learned.append(outcome)
    manifest.learn(learned)


def stat_of(result: os.stat_result) -> Stat:
    return Stat(result.st_size, result.st_mtime_ns, result.st_ctime_ns, result.st_ino)


class _Walk:
    """One pass over the splits' folders: their files by name and stat, those that are set apart to `ignore`."""

    def __init__(self, ignore: Callable[[str, str], None], root: Path, splits: Splits) -> None:
        self._tell = ignore
        self._root, self._splits = root, splits
        self._hashed = hashlib.sha256()

    def digest(self) -> str:
        return self._hashed.hexdigest()

    def files(self) -> Iterator[File]:
        if not self._root.is_dir():
            raise DatasetError(f"dataset.source: there is no folder {self._root}")
        for split in SPLITS:
            folder = self._root / self._splits[split]
            if not folder.is_dir():
                raise DatasetError(
                    f"dataset.splits.{split}: there is no folder {self._splits[split]!r} in {self._root}; "
                    f"it has {_listed(path.name for path in self._root.iterdir() if path.is_dir())}"
                )
            for entry in self._entries(str(folder), split):
                if not _is_folder(entry):
                    if file := self._file(entry, split, entry.name):
                        yield file
                elif entry.name.startswith("."):
                    self._ignore(f"{split}/{entry.name}/", "is hidden")
                else:
                    yield from self._class(entry, split)

    def _class(self, folder: "os.DirEntry[str]", split: str) -> Iterator[File]:
        for entry in self._entries(folder.path, f"{split}/{folder.name}"):
            relative = f"{folder.name}/{entry.name}"
            if _is_folder(entry):
                self._ignore(f"{split}/{relative}/", "is a folder in a class folder")
            elif file := self._file(entry, split, relative):
                yield file

    def _entries(self, folder: str, path: str) -> "Iterator[os.DirEntry[str]]":
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.isascii() or _is_utf8(entry.name):
                        yield entry
                    else:
                        # S3 keys are UTF-8.
                        shown = os.fsencode(entry.name).decode("utf-8", "backslashreplace")
                        self._ignore(f"{path}/{shown}", "has a name that is not UTF-8")
        except OSError as error:
            self._ignore(f"{path}/", f"cannot be read: {error.strerror}")

    def _file(self, entry: "os.DirEntry[str]", split: str, relative: str) -> File | None:
        """The file, or None when it is set apart."""
        path, reason = f"{split}/{relative}", objection(relative)
        if not reason:
            try:
                result = entry.stat()
            except FileNotFoundError:
                reason = "is a link to nothing" if entry.is_symlink() else "went away"
            except OSError as error:
                reason = f"cannot be read: {error.strerror}"
            else:
                reason = _stat_objection(result)
                if not reason:
                    found = stat_of(result)
                    self._hashed.update(b"%b\0%d %d %d %d\0" % (path.encode(), *found))
                    return File(path, entry.path, found)
        self._ignore(path, reason)
        return None

    def _ignore(self, path: str, reason: str) -> None:
        self._hashed.update(f"{path}\0{reason}\0".encode())
        self._tell(path, reason)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself.
        return False


def _stat_objection(result: os.stat_result) -> str | None:
    if not stat.S_ISREG(result.st_mode):
        return "is no regular file"
    return "is empty" if result.st_size == 0 else None


def _read(file: File) -> File | str:
    """The file with what it holds, or why it has to be set apart.

    :raises SyncError: when it goes on changing.
    """
    for _ in range(TRIES):
        try:
            # A pipe in the file's place would wait for its other end.
            with open(os.open(file.source, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as opened:  # ruff: ignore[builtin-open]
                before = os.fstat(opened.fileno())
                if reason := _stat_objection(before):
                    return reason
                sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
                head = b""
                for chunk in iter(partial(opened.read, CHUNK), b""):
                    head = head or chunk[:16]
                    sha256.update(chunk)
                    md5.update(chunk)
            # By its name: it may have been replaced.
            after = os.stat(file.source)  # ruff: ignore[os-stat]
        except FileNotFoundError:
            return "went away"
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        if stat_of(before) == stat_of(after):
            return file._replace(
                stat=stat_of(after), checksum=sha256.hexdigest(), md5=md5.hexdigest(), doubt=_doubt(head)
            )
        time.sleep(PAUSE_S)
    raise SyncError(
        f"dataset.source: {file.source} changes while it is read: nothing was published; sync again when what "
        "writes it is done"
    )


def _doubt(head: bytes) -> str | None:
    """Files that are no images by their first bytes stay in the dataset.

    Only a decoder can tell, and the jobs have one: they leave out what they cannot decode and report it.
    """
    if head.startswith(SIGNATURES) or (head.startswith(b"RIFF") and head[8:12] == b"WEBP"):
        return None
    return "does not begin like an image"


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _listed(values: Iterable[str], most: int = 5) -> str:
    ordered = sorted(values)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return (", ".join(repr(value) for value in ordered[:most]) + more) or "none"
