"""The debugger hook in a real training, read back by smdebug."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from smdebug import modes
from smdebug.core.tfevent.proto.event_pb2 import Event
from smdebug.core.tfrecord.record_reader import RecordReader
from smdebug.exceptions import TensorUnavailableForStep
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


def test_the_hook_needs_nothing_of_what_smdebug_pins() -> None:
    """pyinstrument does not load on Python 3.13, distutils has left Python, jobs are without both."""
    hidden = "import sys; sys.modules.update(dict.fromkeys(('pyinstrument', 'distutils')))"
    command = [sys.executable, "-W", "error", "-c", f"{hidden}; import debugger.hook; import smdebug.trials"]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": "ml_code"}, check=True)


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


@pytest.fixture(autouse=True)
def _no_wait_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """smdebug looks once more a second after the mark of the end."""
    monkeypatch.setenv("SMDEBUG_TRAINING_END_DELAY_REFRESH", "0")


def hooked(config: dict[str, Any], folder: Path, steps: int = 4, **more: Any) -> Any:
    """smdebug's trial over a small network's training and evaluation steps."""
    torch.manual_seed(0)
    module, criterion = (
        nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 3)),
        nn.CrossEntropyLoss(),
    )
    module[0].requires_grad_(False)
    hook = debugger.create(config, folder, module, criterion, **more)
    for step in range(steps):
        for mode in ("TRAIN", "EVAL"):
            hook.phase(mode)
            inputs, labels = torch.full((5, 4), float(step)), torch.arange(5) % 3
            with torch.set_grad_enabled(mode == "TRAIN"):
                loss = criterion(module(inputs), labels)
            if mode == "TRAIN":
                loss.backward()
    hook.finish()
    assert hook.errors == []
    return create_trial(str(folder))


def collections(**parameters: dict[str, str]) -> dict[str, Any]:
    configured = [{"CollectionName": name, "CollectionParameters": of} for name, of in parameters.items()]
    return {"CollectionConfigurations": configured}


def test_each_mode_has_its_interval_and_a_hooks_default_its_collections(tmp_path: Path) -> None:
    own = {
        "include_regex": "[Ll]oss.*output",
        "train.save_steps": "1,3",
        "eval.start_step": "2",
        "eval.save_interval": "1",
    }
    config = collections(weights={"train.save_interval": "1"}, mine=own) | {
        "HookParameters": {"train.save_interval": "2", "eval.save_interval": "3"}
    }
    trial = hooked(config, tmp_path / "out", steps=5)
    weight, loss = trial.tensor("Sequential_0.weight"), trial.tensor("CrossEntropyLoss_output_0")
    assert weight.steps(mode=modes.TRAIN) == [0, 1, 2, 3, 4]
    assert weight.steps(mode=modes.EVAL) == [0, 3]
    # In `losses` too, which is always on and has the hook's intervals.
    assert loss.steps(mode=modes.TRAIN) == [0, 1, 2, 3, 4]
    assert loss.steps(mode=modes.EVAL) == [0, 2, 3, 4]


def test_frozen_parameters_have_weights_and_no_gradients(tmp_path: Path) -> None:
    trial = hooked(
        collections(weights={"save_interval": "1"}, gradients={"save_interval": "1"}), tmp_path / "out"
    )
    assert trial.tensor_names(collection="weights") == ["Sequential_0.weight", "Sequential_2.weight"]
    assert set(trial.tensor_names(collection="gradients")) == {
        "gradient/Sequential_2.weight",
        "gradient/Sequential_2.bias",
    }


@pytest.mark.parametrize("level", ["HookParameters", "CollectionParameters"])
def test_reductions_take_the_place_of_tensors(tmp_path: Path, level: str) -> None:
    names = ("min", "max", "mean", "std", "variance", "sum", "prod", "l1_norm", "l2_norm")
    given = {"reductions": ",".join([*names, *(f"abs_{name}" for name in names)])}
    config = collections(gradients={"save_interval": "1"}, weights={"save_interval": "1"})
    if level == "HookParameters":
        config["HookParameters"] = given
    else:
        config["CollectionConfigurations"][1]["CollectionParameters"] |= given
    whole = hooked(collections(weights={"save_interval": "1"}), tmp_path / "whole").tensor(
        "Sequential_0.weight"
    )
    reduced = hooked(config, tmp_path / "reduced")
    weight, values = reduced.tensor("Sequential_0.weight"), whole.value(0, mode=modes.TRAIN)
    assert weight.reduction_value(0, "mean", mode=modes.TRAIN) == pytest.approx(values.mean(), rel=1e-4)
    assert weight.reduction_value(0, "max", mode=modes.TRAIN, abs=True) == pytest.approx(abs(values).max())
    assert weight.reduction_value(0, "l2", mode=modes.TRAIN) == pytest.approx(
        (values**2).sum() ** 0.5, rel=1e-4
    )
    assert len(weight.reduction_values(0, mode=modes.TRAIN)) == 2 * len(names)
    with pytest.raises(TensorUnavailableForStep):
        weight.value(0, mode=modes.TRAIN)
    gradient = reduced.tensor("gradient/Sequential_2.weight")
    assert bool(gradient.reduction_values(0, mode=modes.TRAIN)) == (level == "HookParameters")


def records(folder: Path) -> list[Any]:
    """The values of TensorBoard's event files, whose checksums are checked."""
    found = []
    for file in sorted(folder.glob("*.tfevents")):
        reader = RecordReader(str(file))
        while reader.has_data():
            event = Event()
            event.ParseFromString(reader.read_record(check="full"))
            found += [(event.step, value) for value in event.summary.value]
        reader.close()
    return found


@pytest.mark.parametrize("job", [False, True])
def test_tensorboard_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: bool) -> None:
    if job:
        monkeypatch.setenv("TRAINING_JOB_NAME", "retrain-0123456789")
    config = collections(weights={"save_interval": "2"}, losses={"save_interval": "1"})
    asking = {**config, "HookParameters": {"export_tensorboard": "true"}}
    trial = hooked(asking, tmp_path / "out")
    train = records(tmp_path / "out" / "tensorboard" / "TRAIN")
    losses = {step: value.simple_value for step, value in train if value.tag == "CrossEntropyLoss_output_0"}
    saved = trial.tensor("CrossEntropyLoss_output_0")
    assert list(losses.values()) == pytest.approx(
        [float(saved.value(step, mode=modes.TRAIN)) for step in range(4)]
    )
    histograms = [value for _, value in train if value.tag == "weights/Sequential_0.weight"]
    assert [value.histo.num for value in histograms] == [32, 32]
    assert records(tmp_path / "out" / "tensorboard" / "EVAL")
    hooked(config, tmp_path / "platform", tensorboard=tmp_path / "elsewhere")
    assert records(tmp_path / "elsewhere" / "TRAIN")
    hooked(config, tmp_path / "none")
    assert not (tmp_path / "none" / "tensorboard").exists()


def test_a_batchs_images_labels_and_predictions(run_job: Job, digits: Path) -> None:
    """What ClassImbalance, Confusion and CheckInputImages look at."""
    parameters = {"train.save_interval": "2", "eval.save_interval": "1"}
    config = collections(labels=parameters, predictions=parameters, input_image=parameters)
    status, result = run_job(
        "--epochs", "1", "--lr", "0.01", "--arch", "resnet18", "--tail", "all", "--weights", "none",
        "--batch-size", "40", "--image-size", "32", "--debug-hook-config", json.dumps(config), data=digits,
    )  # fmt: skip
    assert status == 0
    assert json.loads((result.output / "history.json").read_text())["hook_errors"] == []
    trial = create_trial(str(result.output / "debug-output"))
    shapes = {
        name: trial.tensor(name).value(0, mode=modes.TRAIN).shape
        for name in trial.tensor_names(regex="labels|predictions|input_image")
    }
    assert shapes == {"labels": (40,), "predictions": (40, 10), "input_image": (40, 3, 32, 32)}
    assert trial.tensor("labels").steps(mode=modes.TRAIN) == [0, 2]
    assert trial.tensor_names(collection="labels") == ["labels"]
    labels = [trial.tensor("labels").value(step, mode=modes.EVAL) for step in trial.steps(mode=modes.EVAL)]
    assert sorted(int(label) for batch in labels for label in batch) == sorted([*range(10)] * 5)


def test_the_platforms_configuration_counts_where_no_hyperparameter_asks(
    run_job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "config"
    folder.mkdir()
    monkeypatch.setenv("SM_INPUT_CONFIG_DIR", str(folder))
    monkeypatch.setenv("TRAINING_JOB_NAME", "retrain-0123456789")
    hook = {"S3OutputPath": "s3://bucket/out", "LocalPath": str(tmp_path / "Tensors"), "HookParameters": None}
    (folder / "debughookconfig.json").write_text(
        json.dumps(hook | collections(losses={"save_interval": "1"}))
    )
    (folder / "tensorboardoutputconfig.json").write_text(json.dumps({"LocalPath": str(tmp_path / "board")}))
    profiler = {
        "ProfilingIntervalInMilliseconds": 500,
        "ProfilingParameters": {
            "LocalPath": str(tmp_path / "Profiler"),
            "PythonProfilingConfig": "not Python",
        },
    }
    (folder / "profilerconfig.json").write_text(json.dumps(profiler))
    status, result = run_job("--epochs", "3", "--batch-size", "32", "--profiler-num-steps", "1")
    assert status == 0
    assert json.loads((result.output / "history.json").read_text())["hook_errors"] == []
    trial = create_trial(str(tmp_path / "Tensors"))
    assert trial.tensor_names() == ["CrossEntropyLoss_output_0"]
    assert records(tmp_path / "board" / "TRAIN")
    assert {path.name for path in (tmp_path / "Profiler").iterdir()} == {"framework"}  # the platform samples
    timelines = list((tmp_path / "Profiler" / "framework" / "pevents").glob("*/*"))
    assert len(timelines) == 1  # and smdebug writes none beside ours
    assert (tmp_path / "Profiler/framework/torch/operators.json").is_file()
    assert not {"debug-output", "profiler-output"} & {path.name for path in result.output.iterdir()}
    (folder / "profilerconfig.json").write_text(json.dumps({"DisableProfiler": True}))
    _, disabled = run_job("--epochs", "1", name="disabled")
    assert not (disabled.output / "profiler-output").exists()
    (folder / "profilerconfig.json").write_text(json.dumps(profiler))
    _, own = run_job(*ARGUMENTS, "--profiler-interval-ms", "100", name="own")
    assert (own.output / "profiler-output" / "system").is_dir()
    assert "Tail_fc.weight" in create_trial(str(own.output / "debug-output")).tensor_names()
