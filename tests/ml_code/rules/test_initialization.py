"""PoorWeightInitialization against numpy."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.ml_code.rules.recording import Net, Recorded, run

RELUS = ("first.relu_input_0", "second.relu_input_0")


def scale(name: str, factor: float) -> Callable[[Net], None]:
    def change(net: Net) -> None:
        with torch.no_grad():
            net.get_parameter(name).mul_(factor)

    return change


def test_poor_initialization_compares_the_variances_of_trainable_layers(tmp_path: Path) -> None:
    recorded = run(tmp_path / "out", epochs=3, lr=0.01, prepare=scale("second.linear.weight", 20))
    variances = [[recorded.tensors[name][step].var() for name in RELUS] for step in range(3)]
    ratios = [max(step) / min(step) for step in variances]
    verdict = recorded.verdict("PoorWeightInitialization")
    assert verdict.status == "IssuesFound"
    assert verdict.value == pytest.approx(max(ratios), rel=1e-4)
    assert verdict.step == int(np.argmax(ratios))
    assert verdict.tensor == RELUS[int(np.argmin(variances[verdict.step or 0]))]
    assert "not evaluated: too short: 3 training losses in the first 10 steps" in verdict.detail
    assert "kaiming" in verdict.recommendation


def test_poor_initialization_ignores_frozen_layers(tmp_path: Path) -> None:
    def blow_up_and_freeze(net: Net) -> None:
        scale("second.linear.weight", 20)(net)
        net.second.requires_grad_(False)

    recorded = run(tmp_path / "out", epochs=12, lr=0.0001, prepare=blow_up_and_freeze)
    verdict = recorded.verdict("PoorWeightInitialization")
    assert verdict.threshold in {0.001, 5.0}
    assert "fewer than two trainable layers" in verdict.detail


def test_gradients_and_loss_are_looked_at_when_activations_are_missing(constant: Recorded) -> None:
    spreads = {
        (name, step): float(np.subtract(*np.percentile(gradient, [95, 5])))
        for name, steps in constant.tensors.items()
        if name.startswith("gradient/")
        for step, gradient in enumerate(steps[:10])
    }
    verdict = constant.verdict(
        "PoorWeightInitialization",
        activation_inputs_regex=".*nothing",
        distribution_range=str(2 * min(spreads.values())),
    )
    assert verdict.status == "IssuesFound"
    assert verdict.value == pytest.approx(min(spreads.values()), rel=1e-4)
    assert verdict.tensor in {
        name for (name, _), spread in spreads.items() if spread == min(spreads.values())
    }
    assert "not evaluated: fewer than two trainable layers" in verdict.detail
    stuck = constant.verdict("PoorWeightInitialization", distribution_range="0")
    assert (stuck.status, stuck.value, stuck.threshold) == ("IssuesFound", 9.0, 5.0)


def test_patience_is_cut_where_fewer_losses_were_saved(tmp_path: Path) -> None:
    recorded = run(tmp_path / "out", epochs=5, lr=0.0, collections={"losses": None})
    verdict = recorded.verdict("PoorWeightInitialization")
    assert (verdict.status, verdict.value, verdict.threshold) == ("IssuesFound", 4.0, 3.0)
    assert "patience 5 cut to 3: the run has 5 training losses in the first 10 steps" in verdict.detail
    kept = recorded.verdict("PoorWeightInitialization", patience="6")
    assert kept.status == "NotEvaluated"
    assert "5 training losses in the first 10 steps, patience 6 needs 7" in kept.detail


def test_a_loss_that_overshoots_at_first_and_then_falls_is_decreasing(tmp_path: Path) -> None:
    def overshoot(net: Net, step: int) -> None:
        if step in (1, 9):  # out, and back
            scale("fc.weight", 30 if step == 1 else 1 / 30)(net)

    recorded = run(tmp_path / "out", epochs=10, lr=0.001, each_step=overshoot, collections={"losses": None})
    assert min(recorded.train[1:9]) > recorded.train[0]
    verdict = recorded.verdict("PoorWeightInitialization", steps="9")
    assert (verdict.status, verdict.value, verdict.step) == ("IssuesFound", 8.0, 8)
    back = recorded.verdict("PoorWeightInitialization")
    assert back.status == "NoIssuesFound", recorded.train
    assert back.value is not None
    assert not back.value
