"""One split as the tail sees it: rows in a file, of which a training step reads a batch."""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# Rows that are looked at together where a whole split has to be; in float64 they are several times as large.
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Split:
    inputs: Tensor
    """[N, K, …]: K views of each image. float32 or float16 features; uint8 crops [N, K, 3, S, S] where there is no
    trunk to run. Backed by a file: what it takes of memory is cache, which the system may take back."""
    labels: Tensor
    """int64 [N]."""

    def chunks(self) -> Iterator[tuple[int, Tensor]]:
        """(first row, some rows of `inputs`), in order."""
        size = max(1, CHUNK_BYTES // max(1, self.inputs[:1].nbytes))
        for start in range(0, len(self.labels), size):
            yield start, self.inputs[start : start + size]


def file_backed(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor of zeros in a temporary file (TMPDIR), which goes with the tensor, however the process ends.

    :raises OSError: when the disk has no place for it.
    """
    count = torch.Size(shape).numel()
    if not count:
        return torch.zeros(shape, dtype=dtype)
    with tempfile.NamedTemporaryFile(prefix="rows-") as file:
        # A mapped file that finds the disk full kills the process; asking for the place now does not.
        os.posix_fallocate(file.fileno(), 0, count * dtype.itemsize)
        return torch.from_file(file.name, shared=True, size=count, dtype=dtype).view(shape)
