"""Several processes that train together compute what one does, and end together."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from smdebug import modes
from smdebug.trials import create_trial

from model.launch import torchrun_arguments
from tests.ml_code.conftest import Job, extract
from tests.ml_code.processes import Place, free_port
from tests.ml_code.test_hook import CONFIG

HOSTS = ("algo-1", "algo-2")


def job_of_two(root: Path, features: Path, *arguments: str) -> tuple[list[Place], list[int], list[str]]:
    """A job as SageMaker starts it on two hosts: places, exit statuses, and what they printed."""
    port = free_port()
    places = [Place(root / host, features, root / host / "checkpoints") for host in HOSTS]
    processes = [
        place.start(
            *arguments,
            SM_HOSTS=json.dumps(HOSTS), SM_CURRENT_HOST=host, MASTER_ADDR="127.0.0.1", MASTER_PORT=port,
        )
        for place, host in zip(places, HOSTS, strict=True)
    ]  # fmt: skip
    printed = [process.communicate()[0] for process in processes]
    return places, [process.returncode for process in processes], printed


def test_two_hosts_train_as_one_does(
    run_job: Job, tmp_path: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Batch norms, weights and a smaller last batch included; losses to float32's rounding."""
    assert extract(digits, tmp_path / "layer3", "--tail", "layer4") == 0
    arguments = (
        "--epochs",
        "2",
        "--batch-size",
        "90",
        "--lr",
        "1e-4",
        "--class-weights",
        "balanced",
        "--patience",
        "5",
    )
    hook = ("--debug-hook-config", json.dumps(CONFIG), "--checkpoint-seconds", "0")
    _, alone = run_job(*arguments, data=tmp_path / "layer3")
    places, statuses, printed = job_of_two(tmp_path, tmp_path / "layer3", *arguments, *hook)
    assert statuses == [0, 0], printed
    one, two = (
        json.loads((output / "history.json").read_text())
        for output in (alone.output, places[0].root / "output")
    )
    assert two["hook_errors"] == []
    for name in ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy"):
        assert [epoch[name] for epoch in two["epochs"]] == pytest.approx(
            [epoch[name] for epoch in one["epochs"]], rel=1e-4
        )
    weights, expected = (
        load_file(folder / "model.safetensors") for folder in (places[0].root / "model", alone.model)
    )
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=1e-5, msg=name)
    # The first host alone writes and prints.
    assert [line for line in printed[1].splitlines() if "=" in line] == []
    assert not (places[1].root / "model").exists()
    assert not (places[1].root / "checkpoints").exists()
    trial = create_trial(str(places[0].root / "output" / "debug-output"))
    assert trial.tensor("CrossEntropyLoss_output_0").steps(mode=modes.TRAIN) == list(range(4))


def test_one_hosts_mistake_is_every_hosts_failure(tmp_path: Path, extracted: Path) -> None:
    """The second host has no validation split; the first, which waits for it, says the same."""
    port = free_port()
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for name in ("train", "trunk"):
        (damaged / name).symlink_to(extracted / name)
    places = [Place(tmp_path / host, data) for host, data in zip(HOSTS, (extracted, damaged), strict=True)]
    # As torchrun would start them.
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    processes = [
        place.start("--epochs", "3", RANK=str(rank), **variables) for rank, place in enumerate(places)
    ]
    printed = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [1, 1], printed
    assert "damaged/validation holds no part" in places[1].failure()
    assert places[0].failure() == places[1].failure()
    assert len(places[0].failure().splitlines()) == 1


@pytest.mark.parametrize(
    ("environment", "devices", "expected"),
    [
        ({}, 1, None),
        ({"SM_HOSTS": '["algo-1"]', "SM_CURRENT_HOST": "algo-1"}, 0, None),
        ({"SM_HOSTS": '["algo-1","algo-2"]', "RANK": "0"}, 0, None),
        ({}, 4, ["1", "0", "4", "localhost", "7777"]),
        ({"SM_HOSTS": '["algo-1","algo-2"]', "SM_CURRENT_HOST": "algo-2"}, 0, ["2", "1", "1", "algo-1", "7777"]),
        ({"SM_HOSTS": '["algo-1","algo-2"]', "SM_CURRENT_HOST": "algo-1", "MASTER_ADDR": "10.0.0.1",
          "MASTER_PORT": "5"}, 8, ["2", "0", "8", "10.0.0.1", "5"]),
    ],
)  # fmt: skip
def test_what_torchrun_is_told(environment: dict[str, str], devices: int, expected: list[str] | None) -> None:
    arguments = torchrun_arguments(environment, devices)
    assert (arguments and [argument.partition("=")[2] for argument in arguments]) == expected
