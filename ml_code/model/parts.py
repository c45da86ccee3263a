"""Features in S3: a folder of parts, each written whole or not at all, by whichever machine had its images.

    part-0f3a….safetensors    inputs [n, K, …], labels int64 [n], keys int64 [n]
    part-0f3a….json           files (readable or not), unreadable, classes, the tensors' sha256; written last

A part without its JSON does not exist. Parts of several jobs, and of several instances, add up.
"""

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from data.images import Unreadable
from model.artifact import read_manifest, sha256_of, write_json
from model.extraction import Rows
from model.keys import key
from model.split import Split, file_backed

PART_IMAGES = 2048
PART_BYTES = 128 << 20


@dataclass(frozen=True)
class Part:
    """What a part's JSON says."""

    name: str
    files: Sequence[str]
    """In the order of its rows; the unreadable ones, which have none, after them."""
    unreadable: Sequence[dict[str, str]]
    classes: dict[str, int]
    sha256: str


class PartWriter:
    """Collects rows and writes a part whenever it has enough; `close` writes the rest."""

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        self._folder, self._classes = folder, classes
        folder.mkdir(parents=True, exist_ok=True)
        self._clear()

    def add(self, rows: Rows, files: Sequence[str]) -> None:
        """`files`: paths of the readable images, one a row."""
        self._inputs.append(rows.inputs)
        self._labels.append(rows.batch.labels)
        self._files += files
        self._unreadable += rows.batch.unreadable
        images = len(self._files) + len(self._unreadable)
        if images >= PART_IMAGES or sum(tensor.nbytes for tensor in self._inputs) >= PART_BYTES:
            self.close()

    def close(self) -> None:
        files = [*self._files, *(entry.file for entry in self._unreadable)]
        if not files:
            return
        named = hashlib.sha256("\n".join(files).encode(errors="surrogateescape"))
        name = f"part-{named.hexdigest()[:16]}"
        labels = torch.cat(self._labels)
        tensors = {
            "inputs": torch.cat([tensor for tensor in self._inputs if len(tensor)] or self._inputs[:1]),
            "labels": labels,
            "keys": torch.tensor([key(file) for file in self._files], dtype=torch.int64),
        }
        counts = torch.bincount(labels, minlength=len(self._classes)).tolist()
        partial = self._folder / f"{name}.tmp"
        save_file(tensors, partial)
        partial.chmod(0o644)  # safetensors writes for the owner alone
        partial.replace(self._folder / f"{name}.safetensors")
        document = {
            "files": files,
            "unreadable": [asdict(entry) for entry in self._unreadable],
            "classes": dict(zip(self._classes, counts, strict=True)),
            "sha256": sha256_of(self._folder / f"{name}.safetensors"),
        }
        write_json(self._folder / f"{name}.json", document)
        self._clear()

    def _clear(self) -> None:
        self._inputs: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._files: list[str] = []
        self._unreadable: list[Unreadable] = []


def read_parts(folder: Path) -> Iterator[Part]:
    """:raises ArtifactError: when a part's JSON is none."""
    for file in sorted(folder.glob("part-*.json")):
        document = read_manifest(folder, file.name)
        yield Part(file.stem, **document)


def assemble_parts(folder: Path, classes: int) -> tuple[Split, list[dict[str, str]]]:
    """The split, its rows sorted by key, and the unreadable files.

    Memory holds 24 bytes an image; the rows go from the parts' files to the split's.

    :raises ValueError: when there are no parts, or one is damaged or does not fit the others or `classes`.
    """
    keys, labels, unreadable, tensors = array("q"), array("q"), list[dict[str, str]](), list[Tensor]()
    for part in read_parts(folder):
        unreadable += part.unreadable
        content = _read(folder / f"{part.name}.safetensors", part.sha256)
        if len(content["labels"]):
            keys.frombytes(content["keys"].numpy().tobytes())
            labels.frombytes(content["labels"].numpy().tobytes())
            tensors.append(content["inputs"])
    if not tensors:
        raise ValueError(f"{folder} holds no part-*.json with rows, as features.py writes them")
    if len({(tensor.shape[1:], tensor.dtype) for tensor in tensors}) > 1:
        raise ValueError(
            f"the parts in {folder} have rows of different shapes: they are of different networks"
        )
    order, all_labels = _without_repetition(torch.tensor(keys)), torch.tensor(labels)
    if int(all_labels.max()) >= classes:
        raise ValueError(f"{folder} has labels that trunk.json's {classes} classes lack")
    places = torch.full((len(keys),), -1, dtype=torch.int64)
    places[order] = torch.arange(len(order))
    inputs = file_backed((len(order), *tensors[0].shape[1:]), tensors[0].dtype)
    start = 0
    for tensor in tensors:
        place = places[start : start + len(tensor)]
        inputs[place[place >= 0]] = tensor[place >= 0]
        start += len(tensor)
    return Split(inputs, all_labels[order]), unreadable


def _without_repetition(keys: Tensor) -> Tensor:
    """Positions of the keys in their order, each key once: two jobs may have computed the same image."""
    ordered, order = torch.sort(keys, stable=True)
    first = torch.ones(len(keys), dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return order[first]


def _read(file: Path, sha256: str) -> dict[str, Tensor]:
    """The part's tensors, mapped from its file."""
    try:
        if (found := sha256_of(file)) != sha256:
            raise ValueError(
                f"{file} has sha256 {found}, its JSON says {sha256}: it was changed or cut short"
            )
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in ("inputs", "labels", "keys")}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{file} cannot be read as features.py writes it: {error}") from error
