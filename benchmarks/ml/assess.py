"""What `make bench NAME=assess` runs in the container's environment; the last line is JSON.

PYTHONPATH=.:ml_code var/venv/ml/bin/python -m benchmarks.ml.assess prepare|assess FOLDER NUMBER
"""

import functools
import json
import multiprocessing
import os
import resource
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import assess
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from data import images as loading
from data.preprocessing import Preprocessing
from model import architectures
from model.artifact import LoadedModel, save_model
from model.network import assemble
from report import predictions

CLASSES = [f"{label:03}" for label in range(400)]
MIB_OF_KIB = 1 << 10
CONTEXT: dict[str, Any] = {
    "run": {
        "dag_id": "bench",
        "run_id": "bench",
        "pipeline": "bench",
        "started_at": None,
        "report_uri": None,
    },
    "rules": {},
    "gate": {"minimum_accuracy": 0.0, "champion_margin": 0.0, "confidence": 0.95},
}


def prepare(folder: Path, pictures: int) -> None:
    """`folder`/pictures, regions of a photograph, and the archives of a training job."""
    photograph = Image.fromarray(load_sample_image("china.jpg"))
    (folder / "pictures").mkdir()
    for number in range(pictures):
        left = number % 320
        region = photograph.crop((left, number % 180, left + 320, number % 180 + 240))
        region.save(folder / "pictures" / f"{number}.jpg", quality=90)
    torch.manual_seed(0)
    network = assemble(architectures.build("resnet18"), "resnet18", "fc", len(CLASSES))
    manifest = {
        "arch": "resnet18",
        "tail": "fc",
        "classes": CLASSES,
        "preprocessing": Preprocessing(112, 128).to_dict(),
        "job": "bench",
    }
    save_model(folder / "unpacked", network, manifest)
    with tarfile.open(folder / "model.tar.gz", "w:gz", compresslevel=1) as tar:
        tar.add(folder / "unpacked", ".")
    tarfile.open(folder / "output.tar.gz", "w:gz").close()


def measure(folder: Path, images: int) -> dict[str, Any]:
    """One `assess`, timed by itself; its loaders, which are forked, add to the same clocks."""
    clocks = {
        "decode": _timed(Preprocessing, "decode", time.thread_time),
        "resize": _timed(Preprocessing, "cut", time.thread_time),
        "forward": _timed(LoadedModel, "predict_proba", time.process_time),
    }
    place = folder / str(images)
    holds = _resident_after(predictions, "release_freed", loaders=False)
    loaders_hold = _resident_after(loading._Views, "collate", loaders=True)
    assess.assess(folder, folder, place / "test", CONTEXT, None, place / "output")
    own, loaders = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    total = own.ru_utime + own.ru_stime + loaders.ru_utime + loaders.ru_stime
    seconds = {name: round(clock.value, 1) for name, clock in clocks.items()}
    return {
        "predicting_mib": round(holds.value, 1),
        "resident_mib": _peak(),
        "loader_mib": round(loaders_hold.value, 1),
        "loader_peak_mib": round(loaders.ru_maxrss / MIB_OF_KIB, 1),
        "cpu_seconds": round(total, 1),
        **{f"{name}_seconds": value for name, value in seconds.items()},
        "share": round((seconds["decode"] + seconds["forward"]) / total, 3),
    }


def _timed(owner: type, name: str, clock: Callable[[], float]) -> Any:
    """Make `owner.name` add what it takes to a number that forked processes share."""
    spent, method = multiprocessing.Value("d", 0.0), getattr(owner, name)

    @functools.wraps(method)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        started = clock()
        try:
            return method(*args, **kwargs)
        finally:
            with spent.get_lock():
                spent.value += clock() - started

    setattr(owner, name, wrapper)
    return spent


def _resident_after(owner: Any, name: str, *, loaders: bool) -> Any:
    """Make `owner.name` note the largest resident set that this process, or a forked loader, has when it returns."""
    largest, function, here = multiprocessing.Value("d", 0.0), getattr(owner, name), os.getpid()

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        if (os.getpid() != here) == loaders:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            with largest.get_lock():
                largest.value = max(largest.value, pages * resource.getpagesize() / 2**20)
        return result

    setattr(owner, name, wrapper)
    return largest


def _peak() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB_OF_KIB, 1)


if __name__ == "__main__":
    verb, folder, number = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    if verb == "prepare":
        prepare(folder, number)
    print(json.dumps(measure(folder, number) if verb == "assess" else {}))
