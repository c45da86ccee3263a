"""Folders that smdebug's own example scripts write, judged as they are."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from smdebug import modes
from smdebug.trials import create_trial

from rules import Outputs, Verdict, evaluate
from rules.debug.catalogue import DEBUG_RULES

EXAMPLE = Path(__file__).with_name("smdebug_example.py")
MORE = {
    "AllZero": {"collection_names": "weights,gradients"},
    "UnchangedTensor": {"collection_names": "weights"},
    "TensorVariance": {"collection_names": "weights", "max_threshold": "10"},
    "DeadRelu": {"tensor_regex": r".*relu\d_output"},
    "PoorWeightInitialization": {"activation_inputs_regex": r".*relu\d_input"},
    "CheckInputImages": {"regex": "Net_input_0"},
}


def example(folder: Path, *arguments: str) -> dict[str, Verdict]:
    """Run the script in a process of its own, and every rule over what it wrote."""
    # Only so that smdebug can be imported at all: the script itself has no line of ours.
    command = [
        sys.executable,
        "-c",
        "import debugger, runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')",
    ]
    code = Path(__file__).parents[3] / "ml_code"
    subprocess.run(
        [*command, EXAMPLE, "--smdebug_path", folder, *arguments],
        env={**os.environ, "PYTHONPATH": str(code)},
        check=True,
    )
    rules = {rule.__name__: {"parameters": MORE.get(rule.__name__, {})} for rule in DEBUG_RULES}
    return {verdict.name: verdict for verdict in evaluate(Outputs(folder), rules)}


def statuses(verdicts: dict[str, Verdict]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, verdict in verdicts.items():
        found.setdefault(verdict.status, set()).add(name)
    return found


NO_LOSS = {"LossNotDecreasing", "Overfit", "Overtraining"}
NO_LABELS = {"ClassImbalance", "Confusion"}
NO_TANH = {"SaturatedActivation"}


def test_all_tensors_without_modes(tmp_path: Path) -> None:
    verdicts = example(tmp_path / "out")
    assert verdicts["CheckInputImages"].status == "NotEvaluated"
    assert "32 images" in verdicts["CheckInputImages"].detail
    found = statuses(verdicts)
    assert found["NotEvaluated"] == NO_LOSS | NO_LABELS | NO_TANH | {"CheckInputImages"}
    # torch's default initialisation, with which the layers' variances differ.
    assert found["IssuesFound"] == {"PoorWeightInitialization"}
    trial = create_trial(str(tmp_path / "out"))
    assert trial.steps() == [0, 3, 6, 9]  # save_steps, and the default interval of 500
    variances = [
        [trial.tensor(f"relu{layer}_input_0").value(step).astype(float).var() for layer in range(3)]
        for step in trial.steps()
    ]
    ratio = max(max(step) / min(step) for step in variances)
    assert verdicts["PoorWeightInitialization"].value == pytest.approx(ratio, rel=1e-4)
    assert ratio > 10
    smallest = min(
        (float(np.abs(trial.tensor(name).value(step)).mean()), step, name)
        for name in trial.tensor_names(collection="gradients")
        for step in trial.steps()
    )
    vanishing = verdicts["VanishingGradient"]
    assert (vanishing.step, vanishing.tensor) == smallest[1:]
    assert vanishing.value == pytest.approx(smallest[0], rel=1e-5)
    assert "save the `losses` collection" in verdicts["LossNotDecreasing"].detail


def test_a_learning_rate_of_a_million_explodes(tmp_path: Path) -> None:
    verdicts = example(tmp_path / "out", "--lr", "1000000", "--save-frequency", "1", "--steps", "6")
    trial = create_trial(str(tmp_path / "out"))
    first = min(
        step
        for name in trial.tensor_names()
        for step in trial.tensor(name).steps()
        if not np.isfinite(trial.tensor(name).value(step)).all()
    )
    exploding = verdicts["ExplodingTensor"]
    assert (exploding.status, exploding.step) == ("IssuesFound", first)
    assert not np.isfinite(trial.tensor(exploding.tensor).value(first)).all()


def test_modes_and_a_recorded_loss(tmp_path: Path) -> None:
    verdicts = example(tmp_path / "out", "--mode", "--hook-type", "weights-bias-gradients")
    found = statuses(verdicts)
    assert found["NotEvaluated"] >= NO_LABELS | NO_TANH | {"VanishingGradient", "WeightUpdateRatio"}
    assert "`gradients` collection" in verdicts["VanishingGradient"].detail
    losses = create_trial(str(tmp_path / "out")).tensor("nll_loss_output_0")
    values = [float(losses.value(step, mode=modes.TRAIN)) for step in (0, 3, 6, 9)]
    falling = verdicts["LossNotDecreasing"]
    assert (falling.tensor, falling.step) == ("nll_loss_output_0", 6)
    assert falling.value == pytest.approx(100 * (1 - values[2] / values[0]), rel=1e-4)
    assert "num_steps 10 cut to 5: the run has 9 TRAIN steps" in falling.detail
    # Of EVAL, step 0 was saved, after four training steps of which 0 and 3 were.
    validation = float(losses.value(0, mode=modes.EVAL))
    assert verdicts["Overfit"].value == pytest.approx(validation / np.mean(values[:2]) - 1, rel=1e-3)
    assert "too short: 1 evaluation passes" in verdicts["Overtraining"].detail


def test_reductions_alone(tmp_path: Path) -> None:
    verdicts = example(tmp_path / "out", "--hook-type", "reductions")
    trial = create_trial(str(tmp_path / "out"))
    smallest = min(
        (float(trial.tensor(name).reduction_value(step, "mean", abs=True)), step, name)
        for name in trial.tensor_names(collection="gradients")
        for step in trial.steps()
    )
    vanishing = verdicts["VanishingGradient"]
    assert (vanishing.status, vanishing.step, vanishing.tensor) == ("NoIssuesFound", *smallest[1:])
    assert verdicts["ExplodingTensor"].status == "NoIssuesFound"
    for name in ("WeightUpdateRatio", "UnchangedTensor", "AllZero"):
        assert verdicts[name].status == "NotEvaluated"
        assert "saved as reductions only" in verdicts[name].detail
        assert "save_raw_tensor" in verdicts[name].detail
    assert "variance not among them" in verdicts["TensorVariance"].detail
