"""train.py as the training job runs it: logs, artefacts, invariances and failures."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from data.images import ImageDataset, list_images
from model.artifact import load_model
from model.hyperparameters import HyperparameterError, parse
from tests.ml_code.conftest import Job, TrainedModel, extract

EPOCH = re.compile(
    r"^epoch=\d+ train_loss=\d+\.\d{4} train_accuracy=\d\.\d{4} "
    r"validation_loss=\d+\.\d{4} validation_accuracy=\d\.\d{4} seconds=\d+\.\d+$"
)


def sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_log_lines_and_the_best_epoch(run_job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    status, result = run_job("--epochs", "5", "--lr", "0.05")
    assert status == 0
    *epochs, best = capsys.readouterr().out.splitlines()
    assert len(epochs) == 5
    assert all(EPOCH.match(line) for line in epochs)
    history = json.loads((result.output / "history.json").read_text())
    lowest = min(history["epochs"], key=lambda epoch: epoch["validation_loss"])
    assert best == (
        f"best epoch={lowest['epoch']} validation_loss={lowest['validation_loss']:.4f} "
        f"validation_accuracy={lowest['validation_accuracy']:.4f}"
    )
    assert history["hook_errors"] == []
    assert not (result.output / "debug-output").exists()


def test_saved_network_has_the_best_epochs_metrics(digits: Path, trained: TrainedModel) -> None:
    """Through whitening folded, weights saved, loaded and images decoded again."""
    model = load_model(trained.model)
    root = digits / "validation"
    dataset = ImageDataset(root, list_images(root, model.classes), model.preprocessing)
    images, labels = zip(*(dataset[index] for index in range(len(dataset))), strict=True)
    probabilities = model.predict_proba(torch.stack(images))
    loss = nn.functional.nll_loss(probabilities.log(), torch.tensor(labels))
    assert loss.item() == pytest.approx(model.manifest["validation"]["validation_loss"], abs=1e-3)


def test_digits_are_learned(digits: Path, trained: TrainedModel) -> None:
    model = load_model(trained.model)
    dataset = ImageDataset(digits / "test", list_images(digits / "test", model.classes), model.preprocessing)
    images, labels = zip(*(dataset[index] for index in range(len(dataset))), strict=True)
    right = model.predict_proba(torch.stack(images)).argmax(1) == torch.tensor(labels)
    assert right.float().mean() > 0.7  # from 160 images at 32 pixels


def test_two_runs_give_the_same_weights(run_job: Job) -> None:
    _, first = run_job("--epochs", "3", name="first")
    _, second = run_job("--epochs", "3", name="second")
    _, other = run_job("--epochs", "3", "--seed", "1", name="other")
    assert sha256(first.model) == sha256(second.model) != sha256(other.model)


@pytest.mark.parametrize("tail", ["fc", "layer4", "all"])
def test_images_train_every_tail(run_job: Job, digits: Path, tail: str) -> None:
    status, result = run_job(
        "--epochs", "1", "--lr", "0.01", "--arch", "resnet18", "--tail", tail, "--weights", "none",
        "--image-size", "32", data=digits,
    )  # fmt: skip
    assert status == 0
    assert load_model(result.model).manifest["tail"] == tail


def test_images_and_cached_features_give_the_same_weights(run_job: Job, digits: Path) -> None:
    named = ("--arch", "resnet18", "--tail", "fc", "--weights", "none", "--image-size", "32")
    _, from_images = run_job("--epochs", "2", *named, data=digits, name="images")
    _, from_features = run_job("--epochs", "2", *named, name="features")
    assert sha256(from_images.model) == sha256(from_features.model)


def test_layer4_trains_on_cached_features(run_job: Job, digits: Path, tmp_path: Path) -> None:
    assert extract(digits, tmp_path / "layer3", "--tail", "layer4") == 0
    status, result = run_job("--epochs", "1", "--lr", "0.01", "--batch-size", "53", data=tmp_path / "layer3")
    assert status == 0
    assert load_model(result.model).manifest["arch"] == "resnet18"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lr", "0"], "hyperparameter --lr/--learning-rate/--learning_rate: must be a number above 0"),
        (["--learning_rate", "nan"], "must be a number above 0, got 'nan'"),
        (["--batch_size", "1.5"], "--batch-size/--batch_size: must be a whole number at least 1"),
        (["--optimizer", "lion"], "--optimizer: must be one of sgd, adamw, got 'lion'"),
        (["--label-smoothing", "1"], "must be a number at least 0 and below 1, got '1'"),
        (
            ["--warmup-epochs", "2", "--epochs", "2"],
            "warmup-epochs is 2 and epochs 2: the warm-up must end before",
        ),
        (["--dropout", "0.5"], "hyperparameter dropout is unknown"),
        (["--arch", "resnet50"], "arch is resnet50 and the features were computed with resnet18"),
        (["--image-size", "64"], "image-size is 64 and the features were computed with 32"),
        (["--debug-hook-config", "{"], "debug-hook-config is not JSON"),
        (["--lr", "1e38", "--epochs", "3"], "became (nan|inf) in epoch 1: the training diverged; lower lr"),
    ],
)
def test_failures_are_one_sentence_in_the_failure_file(
    run_job: Job, tmp_path: Path, arguments: list[str], message: str
) -> None:
    status, _ = run_job(*arguments)
    failure = (tmp_path / "job" / "failure").read_text()
    assert status == 1
    assert re.search(message, failure), failure
    assert len(failure.splitlines()) == 1


def test_missing_settings_and_damaged_features(run_job: Job, digits: Path, tmp_path: Path) -> None:
    run_job(data=digits)
    assert "hyperparameter arch is needed without a trunk channel" in (tmp_path / "job/failure").read_text()


@pytest.mark.parametrize(
    ("given", "flip"), [("false", False), ("False", False), ('"true"', True), ("True", True)]
)
def test_booleans_come_as_the_toolkit_spells_them(given: str, flip: bool) -> None:
    assert parse(["--flip", given], {}).flip is flip


def test_sagemakers_spellings_and_quotes() -> None:
    arguments = ["--batch_size", '"64"', "--learning-rate", "0.003", "--_tuning_objective_metric", "loss"]
    settings = parse([*arguments, "--sagemaker_job_name", "x"], {})
    assert (settings.batch_size, settings.lr) == (64, 0.003)


def test_hook_config_survives_the_training_toolkit() -> None:
    """Which turns JSON objects into k=v on the command line, and keeps them whole in SM_HPS."""
    config = {"S3OutputPath": "s3://b/p", "CollectionConfigurations": []}
    environment = {"SM_HPS": json.dumps({"debug-hook-config": config})}
    mangled = ["--debug-hook-config", "CollectionConfigurations=[],S3OutputPath=s3://b/p"]
    assert parse(mangled, environment).debug_hook_config == config
    assert parse(["--debug-hook-config", json.dumps(config)], {}).debug_hook_config == config
    with pytest.raises(HyperparameterError, match="must be a JSON object"):
        parse(["--debug-hook-config", "[1]"], {})


def test_model_archive_carries_the_code_that_serves_it(run_job: Job) -> None:
    _, result = run_job("--epochs", "1")
    code = result.model / "code"
    assert {path.name for path in code.iterdir()} == {"inference.py", "data", "model", "requirements.txt"}
    # It stands alone, as in AWS's inference image, which has no server of ours.
    program = (
        "import inference, sys; assert sys.argv[1] in inference.__file__; inference.model_fn(sys.argv[2])"
    )
    command = [sys.executable, "-B", "-c", program, str(code), str(result.model)]
    subprocess.run(command, cwd=code, check=True)
    assert not list(code.rglob("__pycache__"))
    steps = json.loads((result.output / "steps.json").read_text())
    assert {"data", "transfer", "forward", "backward", "optimizer", "evaluation"} <= set(steps)
