"""One file from which an interrupted training goes on as if nothing had happened."""

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from model.hyperparameters import Hyperparameters
from model.material import Material

CHECKPOINT = "checkpoint.pt"
# What neither the weights nor the numbers of a training depend on.
_INDIFFERENT = {
    "debug-hook-config", "profiler-interval-ms", "profiler-num-steps", "stop-rules", "checkpoint-seconds",
    "max-unreadable",
}  # fmt: skip
# Hashed of each split: computed features differ everywhere when they differ, and reading all may take minutes.
_SAMPLES = 64

State = dict[str, Any]


class Checkpoints:
    """A folder's checkpoint: read once, written at the end of an epoch when the last one is `seconds` old."""

    def __init__(self, folder: Path, fingerprint: str, seconds: float) -> None:
        self._file, self._fingerprint, self._seconds = folder / CHECKPOINT, fingerprint, seconds
        self._written = time.monotonic()

    def read(self) -> State | None:
        """The state, on the CPU; None, after one line on why, where it is missing, damaged or another training's."""
        try:
            # weights_only: a checkpoint comes from S3, and a pickle may run code.
            state: State = torch.load(self._file, map_location="cpu", weights_only=True)
            found = state.pop("fingerprint")
        except FileNotFoundError:
            return None
        except Exception as error:  # unpickling has no error type of its own
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            print(f"the checkpoint {self._file} is not used, it cannot be read: {reason}", flush=True)
            return None
        if found != self._fingerprint:
            print(f"the checkpoint {self._file} is not used, it is of other settings or data", flush=True)
            return None
        return state

    def offer(self, state: Callable[[], State]) -> None:
        """Writes `state()` if it is time. A failure costs one line and the next try: the training goes on."""
        if time.monotonic() - self._written < self._seconds:
            return
        try:
            self._write(state() | {"fingerprint": self._fingerprint})
        except (OSError, RuntimeError) as error:
            # torch's writer raises the second, over the first, which says what happened.
            reason = error.__context__ or error
            print(f"no checkpoint was written, the one before stays: {reason}", flush=True)
        self._written = time.monotonic()

    def _write(self, state: State) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        # SageMaker sends files to S3 as they change, but not those with this ending.
        partial = self._file.with_name(f"{CHECKPOINT}.tmp")
        try:
            with partial.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._file)
        finally:
            partial.unlink(missing_ok=True)


def fingerprint(settings: Hyperparameters, material: Material) -> str:
    """sha256 over what a training's course depends on: hyperparameters, trunk, classes, labels, samples of inputs."""
    digest = hashlib.sha256()
    named = {name: value for name, value in settings.to_dict().items() if name not in _INDIFFERENT}
    digest.update(json.dumps([named, material.manifest], sort_keys=True).encode())
    for split in (material.train, material.validation):
        digest.update(f"{tuple(split.inputs.shape)} {split.inputs.dtype}".encode())
        digest.update(split.labels.numpy().tobytes())
        for index in sorted({*torch.linspace(0, len(split.labels) - 1, _SAMPLES).long().tolist()}):
            digest.update(split.inputs[index].contiguous().numpy().tobytes())
    return digest.hexdigest()
