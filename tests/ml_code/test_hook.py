"""The debugger hook in a real training, read back by smdebug."""

import json
from pathlib import Path

import pytest
import torch
from smdebug import modes
from smdebug.trials import create_trial
from torch import nn

from debugger import hook as debugger
from tests.ml_code.conftest import Job

INTERVALS = {"train.save_interval": "5", "eval.save_interval": "1"}
CONFIG = {
    "S3OutputPath": "s3://bucket/run",
    "HookParameters": {"train.save_interval": "100", "eval.save_interval": "10"},
    "CollectionConfigurations": [
        {"CollectionName": "weights", "CollectionParameters": INTERVALS},
        {"CollectionName": "gradients", "CollectionParameters": INTERVALS},
        {"CollectionName": "biases", "CollectionParameters": INTERVALS},
        {
            "CollectionName": "CrossEntropyLoss_output_0",
            "CollectionParameters": {
                "include_regex": "CrossEntropyLoss_output_0",
                "train.save_interval": "1",
                "eval.save_interval": "1",
            },
        },
        {
            "CollectionName": "relu_input",
            "CollectionParameters": {"include_regex": ".*relu_input", **INTERVALS},
        },
    ],
}
ARGUMENTS = ("--epochs", "3", "--batch-size", "32", "--debug-hook-config", json.dumps(CONFIG))


def test_tensors_of_both_modes_are_readable(run_job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINING_JOB_NAME", "retrain-0123456789")  # smdebug then writes no mark of the end
    status, result = run_job(*ARGUMENTS)
    assert status == 0
    assert (result.output / "debug-output" / "training_job_end.ts").is_file()
    trial = create_trial(str(result.output / "debug-output"))
    assert {"Tail_fc.weight", "Tail_fc.bias", "gradient/Tail_fc.weight", "CrossEntropyLoss_output_0"} <= set(
        trial.tensor_names()
    )
    loss = trial.tensor("CrossEntropyLoss_output_0")
    assert loss.steps(mode=modes.TRAIN) == list(range(15))
    assert loss.steps(mode=modes.EVAL) == [0, 1, 2]
    gradient = trial.tensor("gradient/Tail_fc.weight")
    assert gradient.steps(mode=modes.TRAIN) == [0, 5, 10]
    assert gradient.value(5, mode=modes.TRAIN).shape == (10, 512)
    assert trial.loaded_all_steps
    history = json.loads((result.output / "history.json").read_text())
    assert history["hook_errors"] == []
    losses = [float(loss.value(step, mode=modes.EVAL)) for step in (0, 1, 2)]
    assert losses == pytest.approx([epoch["validation_loss"] for epoch in history["epochs"]], rel=1e-5)


def test_the_hook_changes_nothing_about_the_weights(run_job: Job) -> None:
    _, plain = run_job("--epochs", "3", "--batch-size", "32", name="plain")
    _, hooked = run_job(*ARGUMENTS, name="hooked")
    weights = [(result.model / "model.safetensors").read_bytes() for result in (plain, hooked)]
    assert weights[0] == weights[1]


def test_activations_of_a_whole_network(run_job: Job, digits: Path) -> None:
    status, result = run_job(
        *ARGUMENTS, "--epochs", "1", "--lr", "0.01", "--arch", "resnet18", "--tail", "all", "--weights", "none",
        "--image-size", "32", data=digits,
    )  # fmt: skip
    assert status == 0
    trial = create_trial(str(result.output / "debug-output"))
    activations = trial.tensor_names(collection="relu_input")
    assert "layer1.0.relu_input_0" in activations
    # In-place activations are off: what went in has negative numbers.
    assert trial.tensor("layer1.0.relu_input_0").value(0, mode=modes.TRAIN).min() < 0
    assert "gradient/ResNet_conv1.weight" in trial.tensor_names()


@pytest.mark.parametrize(
    "config",
    [
        {"CollectionConfigurations": [{"CollectionName": "mine", "CollectionParameters": {}}]},
        {"HookParameters": {"train.save_interval": "often"}},
        {"CollectionConfigurations": 3},
    ],
)
def test_a_wrong_configuration_does_not_end_the_training(
    run_job: Job, capsys: pytest.CaptureFixture[str], config: dict[str, object]
) -> None:
    status, result = run_job("--epochs", "2", "--debug-hook-config", json.dumps(config))
    history = json.loads((result.output / "history.json").read_text())
    assert status == 0
    assert len(history["epochs"]) == 2
    assert len(history["hook_errors"]) == 1
    assert history["hook_errors"][0] in capsys.readouterr().out


def test_a_failing_save_does_not_end_the_training(tmp_path: Path) -> None:
    """Weights of eight bits have no numpy form: the hook fails inside the forward pass."""
    module, criterion = nn.Sequential(nn.Linear(4, 3)), nn.CrossEntropyLoss()
    module.weight = nn.Parameter(torch.zeros(2, dtype=torch.float8_e5m2), requires_grad=False)
    hook = debugger.create(CONFIG, tmp_path / "debug-output", module, criterion)
    hook.phase("TRAIN")
    for _ in range(2):
        loss = criterion(module(torch.randn(5, 4)), torch.zeros(5).long())
        loss.backward()
    hook.finish()
    assert (tmp_path / "debug-output" / "training_job_end.ts").is_file()
    assert len(hook.errors) == 1
    assert "Float8" in hook.errors[0]


def test_mixed_precisions_activations_are_saved(run_job: Job, digits: Path) -> None:
    status, result = run_job(
        *ARGUMENTS, "--epochs", "1", "--lr", "0.01", "--arch", "resnet18", "--tail", "layer4", "--weights", "none",
        "--image-size", "32", "--precision", "bf16", data=digits,
    )  # fmt: skip
    assert status == 0
    assert json.loads((result.output / "history.json").read_text())["hook_errors"] == []
    trial = create_trial(str(result.output / "debug-output"))
    assert trial.tensor("layer4.0.relu_input_0").value(0, mode=modes.TRAIN).std() > 0


def test_step_numbers_go_on_after_an_interruption(tmp_path: Path) -> None:
    """So that rules which look at the first steps do not take later ones for them."""
    module, criterion = nn.Sequential(nn.Linear(4, 3)), nn.CrossEntropyLoss()
    hook = debugger.create(CONFIG, tmp_path / "debug-output", module, criterion)
    hook.go_on_after(training_steps=30, evaluation_steps=6)
    for mode in ("TRAIN", "EVAL"):
        hook.phase(mode)
        criterion(module(torch.randn(5, 4)), torch.zeros(5).long()).backward()
    hook.finish()
    loss = create_trial(str(tmp_path / "debug-output")).tensor("CrossEntropyLoss_output_0")
    assert (loss.steps(mode=modes.TRAIN), loss.steps(mode=modes.EVAL)) == ([30], [6])
