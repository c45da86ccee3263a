"""Memory of feature extraction and of training, at 1,000, 10,000 and 100,000 images.

    make bench NAME=memory

About 4 minutes on 2 cores. Small pictures through a ResNet18 at 32 pixels, then two epochs of a last layer on the
features; validation is a tenth. Looked at ten times a second, the process and its children together, what they share
counted once: anonymous memory, which a machine must have, and all memory, which holds pages of mapped files too, which
the system takes back when it needs them. What it grows by is taken between the larger two: from 2,000 images on,
processes of their own decode. (What sync takes: `make bench NAME=sync`.)
"""

import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from scripts.bench import conditions
from scripts.local_stack import REPOSITORY

SIZES = (1_000, 10_000, 100_000)
DISTINCT = 200
CLASSES = 10
ML = REPOSITORY / "var/venv/ml/bin/python"
PICTURES = """
import sys
import numpy as np
from PIL import Image
drawn = np.random.default_rng(0)
for number in range(int(sys.argv[2])):
    pixels = drawn.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC).save(f"{sys.argv[1]}/{number}.jpg")
"""
# More would be a list of something for each image.
MOST_BYTES_PER_IMAGE = 200
MIB = 1 << 20


def run() -> dict[str, Any]:
    figures: dict[str, dict[str, dict[str, float]]] = {"features": {}, "training": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = folder / "pictures"
        pictures.mkdir()
        subprocess.run([ML, "-c", PICTURES, pictures, str(DISTINCT)], check=True)
        for size in SIZES:
            place = folder / str(size)
            _spread(pictures, place, size)
            figures["features"][str(size)] = _features(place)
            figures["training"][str(size)] = _training(place)
            print(f"{size} images: {[of[str(size)] for of in figures.values()]}", file=sys.stderr)
    grown = {
        what: (of[str(SIZES[-1])]["anonymous_mib"] - of[str(SIZES[-2])]["anonymous_mib"])
        * MIB
        / (SIZES[-1] - SIZES[-2])
        for what, of in figures.items()
    }
    return {
        "figures": {**figures, "bytes_per_image": {what: round(value) for what, value in grown.items()}},
        "conditions": conditions("boto3", arch="resnet18", image_size=32),
        "ok": max(grown.values()) <= MOST_BYTES_PER_IMAGE,
    }


def _spread(pictures: Path, place: Path, size: int) -> None:
    """`size` training images and a tenth as many for validation: links to the pictures there are."""
    for split, count in (("train", size), ("validation", size // 10)):
        for label in range(CLASSES):
            (place / split / str(label)).mkdir(parents=True)
        for number in range(count):
            link = place / split / str(number % CLASSES) / f"{number:06}.jpg"
            os.link(pictures / f"{number % DISTINCT}.jpg", link)


def _features(place: Path) -> dict[str, float]:
    arguments = [
        "--train",
        place / "train",
        "--validation",
        place / "validation",
        "--output",
        place / "features",
    ]
    return _watched([ML, "ml_code/features.py", *arguments, "--image-size", "32"], {})


def _training(place: Path) -> dict[str, float]:
    channels = {
        f"SM_CHANNEL_{name.upper()}": place / "features" / name for name in ("train", "validation", "trunk")
    }
    environment = {
        **channels,
        "SM_MODEL_DIR": place / "model",
        "SM_OUTPUT_DATA_DIR": place / "output",
        "TMPDIR": place,
    }
    return _watched([ML, "ml_code/train.py", "--epochs", "2"], environment)


def _watched(command: list[Any], environment: dict[str, Any]) -> dict[str, float]:
    """Peaks of a command's memory; its seconds."""
    anonymous = everything = 0
    started = time.monotonic()
    process = psutil.Popen(
        command, cwd=REPOSITORY, env={**os.environ, **{name: str(value) for name, value in environment.items()}},
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    while process.poll() is None:
        memory = [_memory(member) for member in [process, *process.children(recursive=True)]]
        anonymous = max(anonymous, sum(of[0] for of in memory))
        everything = max(everything, sum(of[1] for of in memory))
        time.sleep(0.1)
    if process.returncode:
        raise RuntimeError(f"{command} ended with status {process.returncode}")
    return {
        "anonymous_mib": round(anonymous / MIB),
        "all_mib": round(everything / MIB),
        "seconds": round(time.monotonic() - started, 1),
    }


def _memory(process: psutil.Process) -> tuple[int, int]:
    """(anonymous, all) bytes, a page that n processes share as an n-th; nothing for one that has just ended."""
    found = {"Pss_Anon": 0, "Pss": 0}
    with suppress(OSError):
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in found:
                found[name] = int(value.split()[0]) * 1024
    return found["Pss_Anon"], found["Pss"]
