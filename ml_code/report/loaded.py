"""A model out of its archive, with the network that the server would run."""

from __future__ import annotations

import dataclasses
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from model.artifact import LoadedModel, load_model, sha256_of
from model.network import Network
from serving.backends import BackendError, OnnxRuntime, int8_network


@dataclass(frozen=True)
class Loaded:
    model: LoadedModel
    """In float32: what was trained."""
    served: LoadedModel
    """What the server runs, and the test is about: the same, or its int8 network where the archive has a good one."""
    seconds: float
    """From files on disk to a model that can answer."""
    archive_sha256: str
    archive_bytes: int


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a tar.gz, refusing links out of the folder, devices and absolute paths; returns `folder`.

    Raises FileNotFoundError, or tarfile.TarError for a damaged or hostile archive.
    """
    if not archive.is_file():
        raise FileNotFoundError(f"folder {archive.parent.name} holds no {archive.name}")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder


def load(archive: Path, folder: Path) -> Loaded:
    """Unpack a model archive into `folder` and load it; raises as `unpack` and `model.artifact.load_model` do."""
    unpack(archive, folder)
    return load_unpacked(archive, folder)


def load_unpacked(archive: Path, folder: Path) -> Loaded:
    """Load what `archive` holds from `folder`, where it has been unpacked."""
    started = time.perf_counter()
    model = load_model(folder)
    served = _as_served(model, folder)
    seconds = time.perf_counter() - started
    return Loaded(model, served, seconds, sha256_of(archive), archive.stat().st_size)


def _as_served(model: LoadedModel, folder: Path) -> LoadedModel:
    try:
        network = OnnxRuntime(int8_network(folder), [torch.get_num_threads()])
    except BackendError:  # there is none, or none that the server would use
        return model
    return dataclasses.replace(model, network=cast(Network, network), device=torch.device("cpu"))
