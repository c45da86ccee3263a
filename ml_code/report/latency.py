"""How fast a model answers on the machine that assesses it, and whether the serving functions answer the same."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from inference import predict_batch, predict_fn

from model.artifact import LoadedModel
from report.answers import Probabilities

CALLS, WARM_UP = 100, 10
BATCH, BATCHES = 64, 3


def latency(model: LoadedModel, files: Sequence[Path]) -> dict[str, Any]:
    """report.json's `latency`: of a request, without network and queue; of a batch, decoded by one thread.

    Every measurement comes after a warm-up and starts with the bytes of an image file in memory, taken in turn from
    `files`, which must be readable images.
    """
    contents = [file.read_bytes() for file in files[:BATCH]]
    for number in range(WARM_UP):
        predict_fn(contents[number % len(contents)], model)
    milliseconds = []
    for number in range(CALLS):
        started = time.perf_counter()
        predict_fn(contents[number % len(contents)], model)
        milliseconds.append(1000 * (time.perf_counter() - started))
    batch = [contents[number % len(contents)] for number in range(BATCH)]
    predict_batch(batch, model)
    started = time.perf_counter()
    for _ in range(BATCHES):
        predict_batch(batch, model)
    per_second = BATCH * BATCHES / (time.perf_counter() - started)
    p50, p95, p99 = np.percentile(milliseconds, [50, 95, 99])
    return {
        "calls": CALLS,
        "warm_up": WARM_UP,
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "p99_ms": float(p99),
        "batch": BATCH,
        "images_per_second": per_second,
        "device": _device(model.device),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def parity(model: LoadedModel, files: Sequence[Path], assessed: Probabilities) -> dict[str, Any]:
    """report.json's `parity`: how far the functions that serve are from the assessment, image by image.

    :param assessed: the predictions' probabilities in predictions.jsonl, of `files`, [n].
    """
    served = predict_batch([file.read_bytes() for file in files], model)
    differences = [
        abs(float(answer.probabilities.max()) - float(probability))
        for answer, probability in zip(served, assessed, strict=True)
    ]
    return {"images": len(files), "max_difference": max(differences)}


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU with {torch.backends.cpu.get_cpu_capability()}"
