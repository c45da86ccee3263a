"""Trials repeated with further seeds are the trainings that those seeds give, and the report says what they show."""

import json
from pathlib import Path
from typing import Any

import pytest

from report.stability import NOT_MEASURED, stability
from tests.ml_code.conftest import job

TRIAL = {"name": "t-1", "lr": "0.05", "batch-size": "16", "epochs": "3"}
TUNING = {
    "objective": {"MetricName": "validation_loss", "Type": "Minimize"},
    "jobs": [{"name": f"t-{number}", "objective": value} for number, value in enumerate((0.2, 0.3, 0.4), 1)],
}


def test_a_repeated_trial_is_the_training_with_that_seed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, extracted: Path
) -> None:
    asked = {"seeds": 2, "trials": [TRIAL, {**TRIAL, "name": "t-2", "lr": "1e39"}]}
    hook = {"S3OutputPath": "s3://b/d", "CollectionConfigurations": [{"CollectionName": "losses"}]}
    status, repeated = job(
        monkeypatch, tmp_path / "all", extracted, "--epochs", "2", "--seed", "3", "--stability", json.dumps(asked),
        "--debug-hook-config", json.dumps(hook),
    )  # fmt: skip
    assert status == 0
    found = json.loads((repeated.output / "stability.json").read_text())
    assert found["seeds"] == [4, 5]
    assert [trial["name"] for trial in found["trials"]] == ["t-1", "t-2"]
    assert found["trials"][1]["values"] == [None, None], "it diverges"
    for seed, value in zip((4, 5), found["trials"][0]["values"], strict=True):
        settings = ("--lr", "0.05", "--batch-size", "16", "--epochs", "3", "--seed", str(seed))
        status, alone = job(monkeypatch, tmp_path / str(seed), extracted, *settings)
        assert status == 0
        epochs = json.loads((alone.output / "history.json").read_text())["epochs"]
        assert value == pytest.approx(min(epoch["validation_loss"] for epoch in epochs), abs=1e-6)


@pytest.mark.parametrize(
    "given", ['{"seeds": 2}', '{"seeds": "2", "trials": []}', '{"seeds": 1, "trials": [{"lr": 1}]}']
)
def test_what_cannot_be_repeated_is_one_sentence(
    given: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    extracted: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert job(monkeypatch, tmp_path, extracted, "--stability", given)[0] == 1
    assert "hyperparameter stability" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "stable"),
    [
        ({"t-1": [0.21, 0.22], "t-2": [0.3, 0.29]}, True),
        ({"t-1": [0.21, 0.31], "t-2": [0.3, 0.29]}, False),
        ({"t-1": [0.21, None], "t-2": [0.3, 0.29]}, False),
        ({"t-1": [0.21, 0.22], "t-2": [None, None]}, True),
    ],
)
def test_an_order_is_stable_where_ranges_lie_apart(values: dict[str, Any], stable: bool) -> None:
    trials = [{"name": name, "values": given} for name, given in values.items()]
    found = stability({"seeds": [1, 2], "trials": trials}, TUNING)
    assert found["stable"] is stable
    assert found["trials"][0]["values"][0] == pytest.approx(0.2), "the tuning's own value comes first"
    assert stability(None, TUNING)["reason"] == NOT_MEASURED
