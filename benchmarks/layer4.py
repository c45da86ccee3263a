"""An epoch of fine-tuning a ResNet's last block: from cached activations, and from images.

    make bench NAME=layer4

About 6 minutes on 2 cores. 320 photographs of 400 x 500 for training and 64 for validation; the two ways in turn,
medians of processor seconds and of seconds. The naive way is that of the course projects (benchmarks/ml/naive.py);
ours is train.py on what features.py wrote, whose own time stands beside. A training's imports and its end are left
out on both sides: ours is the difference between trainings of 3 epochs and of 1.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from scripts.bench import conditions
from scripts.local_stack import REPOSITORY

TRAIN, VALIDATION, TEST = 320, 64, 8
ROUNDS, EPOCHS = 2, 3
ARCHITECTURES = ("resnet18", "resnet50")
ML = REPOSITORY / "var/venv/ml/bin/python"


def run() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photographs = folder / "photographs"
        _run([ML, "-m", "benchmarks.ml.photographs", photographs, *map(str, (TRAIN, VALIDATION, TEST))])
        figures = {arch: _compare(arch, folder, photographs) for arch in ARCHITECTURES}
    return {
        "figures": figures,
        "conditions": conditions("boto3", images=TRAIN + VALIDATION, rounds=ROUNDS),
        "ok": all(of["cpu_ratio"] >= 2.5 for of in figures.values()),
    }


def _compare(arch: str, folder: Path, photographs: Path) -> dict[str, Any]:
    features = folder / arch
    cache = _run([
        ML, "ml_code/features.py", "--train", photographs / "train", "--validation", photographs / "valid",
        "--output", features, "--arch", arch, "--tail", "layer4",
    ])  # fmt: skip
    naive: dict[str, list[float]] = {"cpu": [], "wall": []}
    ours: dict[str, list[float]] = {"cpu": [], "wall": []}
    for turn in range(ROUNDS):
        said = json.loads(_run([ML, "-m", "benchmarks.ml.naive", photographs, arch, "1", "layer4"])["said"])
        naive["cpu"] += said["epochs"]
        naive["wall"] += said["wall"]
        short, long = (_train(features, folder / "job", epochs) for epochs in (1, EPOCHS))
        for what in ("cpu", "wall"):
            ours[what].append((long[what] - short[what]) / (EPOCHS - 1))
        print(f"{arch} round {turn}: naive {naive}, ours {ours}", file=sys.stderr)
    return {
        "naive_epoch_s": {what: round(median(values), 1) for what, values in naive.items()},
        "ours_epoch_s": {what: round(median(values), 1) for what, values in ours.items()},
        "cpu_ratio": round(median(naive["cpu"]) / median(ours["cpu"]), 2),
        "wall_ratio": round(median(naive["wall"]) / median(ours["wall"]), 2),
        "cache_s": {what: round(cache[what], 1) for what in ("cpu", "wall")},
    }


def _train(features: Path, job: Path, epochs: int) -> dict[str, Any]:
    channels = {f"SM_CHANNEL_{name.upper()}": features / name for name in ("train", "validation", "trunk")}
    folders = {"SM_MODEL_DIR": job / "model", "SM_OUTPUT_DATA_DIR": job / "output", "TMPDIR": features}
    command = [ML, "ml_code/train.py", "--lr", "0.001", "--epochs", str(epochs)]
    return _run(command, {**channels, **folders})


def _run(command: list[Any], environment: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a command said, its processor seconds (its children's included) and its seconds."""
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=said,
            env={**os.environ, **{name: str(value) for name, value in (environment or {}).items()}},
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{command} ended with status {process.returncode}")
        said.seek(0)
        return {
            "said": said.read(),
            "cpu": usage.ru_utime + usage.ru_stime,
            "wall": time.monotonic() - started,
        }
