"""Rules that end a training, in real trainings."""

import json
from pathlib import Path

import pytest

from debugger import stopping
from model.artifact import load_model
from model.hyperparameters import HyperparameterError, parse
from tests.ml_code.conftest import Job
from tests.ml_code.test_distributed import job_of_two

INTERVALS = {"train.save_interval": "1", "eval.save_interval": "1"}
HOOK = {"CollectionConfigurations": [{"CollectionName": "losses", "CollectionParameters": INTERVALS}]}
STALLED = {"LossNotDecreasing": {"num_steps": "5", "mode": "TRAIN"}}
ARGUMENTS = ("--batch-size", "32", "--debug-hook-config", json.dumps(HOOK), "--stop-rules")


def test_a_rules_issue_ends_the_training_early(
    run_job: Job, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "SHARE", 0)
    status, result = run_job("--epochs", "40", "--lr", "1e-12", *ARGUMENTS, json.dumps(STALLED))
    assert status == 0
    history = json.loads((result.output / "history.json").read_text())
    assert history["stopped_by"]["rule"] == "LossNotDecreasing"
    assert history["hook_errors"] == []
    *epochs, sentence, best = capsys.readouterr().out.splitlines()
    assert 2 <= len(epochs) == len(history["epochs"]) <= 4
    detail = history["stopped_by"]["detail"].rstrip(".")
    assert (
        sentence == f"rule LossNotDecreasing found an issue: {detail}; the training stops, as its action asks"
    )
    assert best.startswith("best epoch=1 ")
    assert load_model(result.model).manifest["validation"]["epoch"] == 1


def test_a_healthy_training_ends_when_it_should(run_job: Job) -> None:
    rules = {"ExplodingTensor": {}, "VanishingGradient": {}}  # of the second there is no tensor
    _, result = run_job("--epochs", "4", *ARGUMENTS, json.dumps(rules))
    history = json.loads((result.output / "history.json").read_text())
    assert (len(history["epochs"]), history["stopped_by"]) == (4, None)


def test_the_next_evaluation_waits_for_many_times_the_last_ones_cost(
    run_job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here for ever: after the first epoch, which is too short to judge, there is none."""
    monkeypatch.setattr(stopping, "SHARE", 1e9)
    _, result = run_job("--epochs", "12", "--lr", "1e-12", *ARGUMENTS, json.dumps(STALLED))
    history = json.loads((result.output / "history.json").read_text())
    assert (len(history["epochs"]), history["stopped_by"]) == (12, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*ARGUMENTS, '{"Overheating": {}}'], "stop-rules: there is no rule Overheating; there are Vanish"),
        ([*ARGUMENTS, '{"Overfit": {"patients": "3"}}'], "Overfit has no parameter 'patients'"),
        (["--stop-rules", '{"Overfit": {}}'], "stop-rules needs saved tensors: give debug-hook-config too"),
        (["--stop-rules", '{"Overfit": 3}'], "stop-rules must be {RULE: {PARAMETER: STRING}}"),
    ],
)
def test_mistakes_are_one_sentence(run_job: Job, tmp_path: Path, arguments: list[str], message: str) -> None:
    status, _ = run_job("--epochs", "2", *arguments)
    failure = (tmp_path / "job" / "failure").read_text()
    assert status == 1
    assert message in failure
    assert len(failure.splitlines()) == 1


def test_rules_survive_the_training_toolkit() -> None:
    """As the hook's configuration does."""
    environment = {"SM_HPS": json.dumps({"stop-rules": STALLED})}
    assert parse(["--stop-rules", "LossNotDecreasing={}"], environment).stop_rules == STALLED
    with pytest.raises(HyperparameterError, match="stop-rules is not JSON"):
        parse(["--stop-rules", "LossNotDecreasing={}"], {})


def test_several_processes_end_together(tmp_path: Path, extracted: Path) -> None:
    arguments = ("--epochs", "40", "--lr", "1e-12", *ARGUMENTS, json.dumps(STALLED))
    places, statuses, printed = job_of_two(tmp_path, extracted, *arguments)
    assert statuses == [0, 0], printed
    history = json.loads((places[0].root / "output" / "history.json").read_text())
    assert history["stopped_by"]["rule"] == "LossNotDecreasing"
    assert len(history["epochs"]) < 40
    assert printed[0].count("the training stops, as its action asks") == 1
