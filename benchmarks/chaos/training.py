"""kill -9 of a training at random moments: every one ends, with the weights of one that was left alone.

    make chaos NAME=training

About 5 minutes on 2 cores. Trainings of the digits' last layer, 60 epochs with a checkpoint after each, are killed
somewhere in their epochs or while they write, and started again over the same checkpoints, until 50 kills have been
survived. What is lost is counted against the epochs that the killed one had reported.
"""

import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.bench import conditions
from scripts.local_stack import REPOSITORY

KILLS = 50
ML = REPOSITORY / "var/venv/ml/bin/python"
EPOCH = re.compile(r"(?:epoch=|going on after epoch )(\d+)")


def run() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([ML, "-m", "scripts.digits", folder / "digits"], cwd=REPOSITORY, check=True)
        subprocess.run(
            [ML, "ml_code/features.py", "--train", folder / "digits/train", "--validation", folder / "digits/valid",
             "--output", folder / "features", "--image-size", "64"], cwd=REPOSITORY, check=True, stdout=sys.stderr,
        )  # fmt: skip
        whole = _train(folder, folder / "alone", kill_after=60)
        expected = _weights(folder / "alone")
        chance = random.Random(0)  # ruff: ignore[suspicious-non-cryptographic-random-usage]
        kills, lost, equal = 0, [0], list[bool]()
        while kills < KILLS:
            job, reached, ended = folder / f"job-{len(equal)}", 0, False
            while not ended:
                one = _train(folder, job, chance.uniform(0, whole.seconds / 3))
                lost.append(reached - one.first)
                reached, ended, kills = one.last, one.ended, kills + (not one.ended)
            equal.append(_weights(job) == expected)
    figures = {
        "kills": kills,
        "trainings": len(equal),
        "bit_equal": sum(equal),
        "most_epochs_lost": max(lost),
    }
    return {
        "figures": figures,
        "conditions": conditions(epochs=60, seconds_of_a_training=round(whole.seconds, 2)),
        "ok": all(equal) and max(lost) <= 1,
    }


@dataclass(frozen=True)
class Try:
    ended: bool
    """By itself, not by our kill."""
    first: int
    """The epoch that it went on after."""
    last: int
    """The epoch that it reported last."""
    seconds: float
    """From the first line about an epoch to its end."""


def _train(folder: Path, job: Path, kill_after: float) -> Try:
    """`kill_after` counts seconds from the first line about an epoch."""
    features = folder / "features"
    environment = os.environ | {
        "SM_CHANNEL_TRAIN": f"{features}/train",
        "SM_CHANNEL_VALIDATION": f"{features}/validation",
        "SM_CHANNEL_TRUNK": f"{features}/trunk",
        "SM_MODEL_DIR": f"{job}/model",
        "SM_OUTPUT_DATA_DIR": f"{job}/output",
        "SM_CHECKPOINT_DIR": f"{job}/checkpoints",
    }
    command = [str(ML), "ml_code/train.py", "--epochs", "60", "--checkpoint-seconds", "0"]
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        seen = EPOCH.match(process.stdout.readline())
        assert seen, "the first line is about an epoch"
        start = time.monotonic()
        with suppress(subprocess.TimeoutExpired):
            process.wait(kill_after)
        process.kill()
        seconds, lines = time.monotonic() - start, process.stdout.readlines()
    assert process.returncode in {0, -signal.SIGKILL}
    reported = [int(match[1]) for match in map(EPOCH.match, lines) if match]
    first = int(seen[1]) if "going" in seen[0] else 0
    return Try(process.returncode == 0, first, max([int(seen[1]), *reported]), seconds)


def _weights(job: Path) -> bytes:
    return (job / "model" / "model.safetensors").read_bytes()
