"""Memory of `assess`, and the share of its processor time in decoding and in the network, by the number of test images.

    make bench NAME=assess

About 8 minutes on 2 cores: three times, in turn, 1,000, 3,000 and 10,000 JPEGs of 320 x 240 in 400 classes, through a
ResNet18 of random weights at 112 pixels, the report with its explanations included. Processor time is that of the
whole job from its first import on, its loaders' too; `share` is decoding and the network, without resizing. Memory is
the largest resident set of the job's process in all (the explanations need the most), and, after each batch of the
test split, of the process and of a loader; what they grow by is taken between the larger two, since from 2,000 images
on processes of their own decode. Inside a batch a process now and then takes 20 MiB more for a moment: a loader's peak
is shown and not held. Figures are medians.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from scripts.bench import conditions
from scripts.local_stack import REPOSITORY

SIZES, ROUNDS = (1_000, 3_000, 10_000), 3
DISTINCT, CLASSES = 200, 400
ML = REPOSITORY / "var/venv/ml/bin/python"
# The probabilities of 7,000 images in 400 classes alone would be 21.
MOST_MIB = 8
LEAST_SHARE = 0.8


def run() -> dict[str, Any]:
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _measured("prepare", folder, DISTINCT)
        for size in SIZES:
            _spread(folder / "pictures", folder / str(size) / "test", size)
        rounds: dict[int, list[dict[str, Any]]] = {size: [] for size in SIZES}
        for _ in range(ROUNDS):
            for size in SIZES:
                rounds[size].append(_measured("assess", folder, size))
                print(f"{size} images: {rounds[size][-1]}", file=sys.stderr, flush=True)
                shutil.rmtree(folder / str(size) / "output")
    for size, measured in rounds.items():
        figures[str(size)] = {key: median(one[key] for one in measured) for key in measured[0]}
    smaller, larger = (figures[str(size)] for size in SIZES[1:])
    grown = max(larger[at] - smaller[at] for at in ("predicting_mib", "resident_mib", "loader_mib"))
    return {
        "figures": {**figures, "grown_mib": round(grown, 1)},
        "conditions": conditions("boto3", arch="resnet18", image_size=112, classes=CLASSES),
        "ok": grown <= MOST_MIB and larger["share"] >= LEAST_SHARE,
    }


def _spread(pictures: Path, place: Path, size: int) -> None:
    """`size` test images: links to the pictures there are."""
    for label in range(CLASSES):
        (place / f"{label:03}").mkdir(parents=True)
    for number in range(size):
        os.link(pictures / f"{number % DISTINCT}.jpg", place / f"{number % CLASSES:03}" / f"{number:06}.jpg")


def _measured(verb: str, folder: Path, number: int) -> dict[str, Any]:
    command = [str(ML), "-m", "benchmarks.ml.assess", verb, str(folder), str(number)]
    path = f"{REPOSITORY}:{REPOSITORY / 'ml_code'}"
    said = subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": path, "OMP_WAIT_POLICY": "PASSIVE"},
        check=True, stdout=subprocess.PIPE, text=True,
    ).stdout  # fmt: skip
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found
