"""Interrupted trainings: they go on as if nothing had happened, or begin anew and say why."""

import json
import random
import re
import resource
import signal
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from model.checkpoint import CHECKPOINT, Checkpoints
from tests.ml_code.conftest import Job
from tests.ml_code.processes import Place

ARGUMENTS = ("--checkpoint-seconds", "0", "--batch-size", "40")


def numbers(output: Path) -> list[dict[str, Any]]:
    """What history.json says of each epoch, but for its time."""
    epochs = json.loads((output / "history.json").read_text())["epochs"]
    return [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in epochs]


def kill(place: Place, chance: random.Random, *arguments: str) -> None:
    """A training until a random moment after its second epoch: the first one's checkpoint is there by then."""
    left = 2
    with place.start(*ARGUMENTS, *arguments, SM_NUM_CPUS="2") as process:
        assert process.stdout
        for line in process.stdout:
            left -= line.startswith("epoch=")
            if left == 0:
                time.sleep(chance.random() * float(line.rpartition("seconds=")[2]))
                process.kill()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("kills", "arguments"),
    [
        (2, ("--epochs", "12", "--warmup-epochs", "1.5", "--label-smoothing", "0.1")),
        # Batch norms, dropout, another optimizer, and a larger checkpoint, which a kill may find half written.
        (1, ("--epochs", "3", "--batch-size", "80", "--lr", "0.001", "--optimizer", "adamw", "--tail", "all",
             "--arch", "mobilenet_v3_large", "--weights", "none", "--image-size", "32")),
    ],
    ids=["fc", "all"],
)  # fmt: skip
def test_a_training_killed_and_resumed_gives_the_same_weights(
    run_job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extracted: Path, digits: Path,
    capsys: pytest.CaptureFixture[str], kills: int, arguments: tuple[str, ...],
) -> None:  # fmt: skip
    data = digits if "all" in arguments else extracted
    _, whole = run_job(*ARGUMENTS, *arguments, data=data, name="whole")
    chance = random.Random(1)
    for number in range(kills):
        kill(Place(tmp_path / f"killed-{number}", data, tmp_path / "checkpoints"), chance, *arguments)
    capsys.readouterr()
    monkeypatch.setenv("SM_CHECKPOINT_DIR", str(tmp_path / "checkpoints"))
    _, resumed = run_job(*ARGUMENTS, *arguments, data=data, name="resumed")
    # Of each try at most one epoch is lost: the one that was reported before its checkpoint was written.
    (after,) = re.findall(r"^going on after epoch (\d+),", capsys.readouterr().out, re.MULTILINE)
    assert int(after) >= kills
    weights = [(result.model / "model.safetensors").read_bytes() for result in (whole, resumed)]
    assert weights[0] == weights[1]
    assert numbers(whole.output) == numbers(resumed.output)


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", "mine", seconds=0)


def test_what_was_written_is_read(checkpoints: Checkpoints) -> None:
    assert checkpoints.read() is None
    checkpoints.offer(lambda: {"tail": nn.Linear(2, 2).state_dict(), "epochs": [{"epoch": 1}]})
    state = checkpoints.read()
    assert state is not None
    assert state["epochs"] == [{"epoch": 1}]


def test_not_at_every_epoch(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "mine", seconds=60)
    checkpoints.offer(lambda: pytest.fail("too soon"))
    assert list(tmp_path.iterdir()) == []


@contextmanager
def full_disk(size: int) -> Generator[None]:
    """No file can grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_one_before(
    checkpoints: Checkpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints.offer(lambda: {"tail": {"weight": torch.ones(2)}})
    with full_disk(10_000):
        checkpoints.offer(lambda: {"tail": {"weight": torch.zeros(20_000)}})
    printed = capsys.readouterr().out
    assert printed.startswith("no checkpoint was written, the one before stays: ")
    assert printed.endswith("File too large\n")
    state = checkpoints.read()
    assert state is not None
    assert state["tail"]["weight"].tolist() == [1, 1]
    assert [file.name for file in (tmp_path / "checkpoints").iterdir()] == [CHECKPOINT]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None], ids=["empty", "text", "code"])
def test_a_damaged_one_is_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / CHECKPOINT)  # a pickle that would run code
    if content is not None:
        (tmp_path / CHECKPOINT).write_bytes(content)
    assert Checkpoints(tmp_path, "mine", 0).read() is None
    assert re.fullmatch(r"the checkpoint \S+ is not used, it cannot be read: .*\n", capsys.readouterr().out)


def test_other_settings_begin_anew(
    run_job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SM_CHECKPOINT_DIR", str(tmp_path / "checkpoints"))
    run_job(*ARGUMENTS, "--epochs", "2", name="first")
    capsys.readouterr()
    _, same = run_job(*ARGUMENTS, "--epochs", "2", "--profiler-interval-ms", "500", name="same")
    assert capsys.readouterr().out.startswith("going on after epoch 2, from the checkpoint in ")
    assert [epoch["epoch"] for epoch in numbers(same.output)] == [1, 2]
    _, other = run_job(*ARGUMENTS, "--epochs", "3", name="other")
    assert "is not used, it is of other settings or data" in capsys.readouterr().out
    assert [epoch["epoch"] for epoch in numbers(other.output)] == [1, 2, 3]
