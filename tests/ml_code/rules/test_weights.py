"""WeightUpdateRatio and UnchangedTensor against numpy."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.ml_code.rules.recording import Net, Recorded, run


def updates(recorded: Recorded, apart: int = 1) -> dict[tuple[int, str], float]:
    """|w(s) - w(r)| / (|w(r)| + epsilon) by step and weight."""
    return {
        (step, name): float(
            np.linalg.norm(values[step] - values[step - apart])
            / (np.linalg.norm(values[step - apart]) + 1e-9)
        )
        for name, values in recorded.tensors.items()
        if name.startswith("Net_") and name.endswith("weight")
        for step in range(apart, len(values))
    }


def test_the_update_is_taken_over_training_steps(healthy: Recorded) -> None:
    ratios = updates(healthy)
    high = healthy.verdict("WeightUpdateRatio", large_threshold=str(max(ratios.values()) / 1.01))
    (step, name), value = max(ratios.items(), key=lambda item: item[1])
    assert (high.status, high.step, high.tensor) == ("IssuesFound", step, name)
    assert high.value == pytest.approx(value, rel=1e-4)
    low = healthy.verdict("WeightUpdateRatio", small_threshold=str(min(ratios.values()) * 1.01))
    below = {at: value for at, value in ratios.items() if value < min(ratios.values()) * 1.01}
    (step, name), value = min(below.items())
    assert (low.status, low.step, low.tensor) == ("IssuesFound", step, name)
    assert low.value == pytest.approx(value, rel=1e-3)
    assert healthy.verdict("WeightUpdateRatio").status == "NoIssuesFound"


def test_num_steps_reaches_further_back(healthy: Recorded) -> None:
    # Steps 1 to 4 have no weight 5 steps back, and are compared with the earliest there is.
    ratios = updates(healthy, 5)
    (step, name), value = max(ratios.items(), key=lambda item: item[1])
    verdict = healthy.verdict("WeightUpdateRatio", num_steps="5", large_threshold=str(value / 1.0001))
    assert (verdict.step, verdict.tensor) == (step, name)
    assert verdict.value == pytest.approx(value, rel=1e-4)


def test_a_learning_rate_of_100_is_found(tmp_path: Path) -> None:
    recorded = run(tmp_path / "out", epochs=4, lr=100)
    ratios = updates(recorded)
    verdict = recorded.verdict("WeightUpdateRatio")
    first = {name: value for (step, name), value in ratios.items() if step == 1}
    worst = max(first, key=lambda name: first[name])
    assert first[worst] > 10
    assert (verdict.status, verdict.step, verdict.tensor) == ("IssuesFound", 1, worst)
    assert verdict.value == pytest.approx(first[worst], rel=1e-4)
    assert "Lower the learning rate" in verdict.recommendation


def test_a_weight_that_the_optimizer_does_not_have_is_found(tmp_path: Path) -> None:
    recorded = run(tmp_path / "out", epochs=6, lr=0.1, frozen=["second.linear.weight"])
    ratio = recorded.verdict("WeightUpdateRatio")
    assert (ratio.status, ratio.step, ratio.tensor, ratio.value) == (
        "IssuesFound", 1, "Net_second.linear.weight", 0.0,
    )  # fmt: skip
    unchanged = recorded.verdict("UnchangedTensor", collection_names="weights")
    assert (unchanged.status, unchanged.step, unchanged.tensor, unchanged.value) == (
        "IssuesFound", 2, "Net_second.linear.weight", 0.0,
    )  # fmt: skip
    values = recorded.tensors["Net_second.linear.weight"]
    assert np.allclose(values[0], values[2])


def test_weights_that_are_frozen_on_purpose_are_left_out(tmp_path: Path) -> None:
    def freeze(net: Net) -> None:
        net.first.requires_grad_(False)

    recorded = run(tmp_path / "out", epochs=4, lr=0.1, prepare=freeze)
    for rule, parameters in (("WeightUpdateRatio", {}), ("UnchangedTensor", {"collection_names": "weights"})):
        verdict = recorded.verdict(rule, **parameters)
        assert verdict.status == "NoIssuesFound", verdict.detail
        assert "Frozen weights are left out (1)" in verdict.detail


def test_a_weight_that_starts_at_zero_has_no_ratio_yet(tmp_path: Path) -> None:
    def zero(net: Net) -> None:
        torch.nn.init.zeros_(net.first.get_parameter("linear.weight"))

    recorded = run(tmp_path / "out", epochs=3, lr=0.1, prepare=zero)
    assert recorded.tensors["Net_first.linear.weight"][1].any()
    assert recorded.verdict("WeightUpdateRatio").status == "NoIssuesFound"


@pytest.mark.parametrize(("num_steps", "rtol"), [(2, 1e-3), (3, 1e-2), (4, 5e-2)])
def test_unchanged_is_numpys_allclose(healthy: Recorded, num_steps: int, rtol: float) -> None:
    same = [
        (step, name)
        for name, values in healthy.tensors.items()
        if name.startswith("Net_") and name.endswith("weight")
        for step in range(num_steps - 1, len(values))
        if all(
            np.allclose(values[step - back], values[step], rtol=rtol, atol=1e-3)
            for back in range(1, num_steps)
        )
    ]
    parameters = {
        "collection_names": "weights",
        "atol": "1e-3",
        "rtol": str(rtol),
        "num_steps": str(num_steps),
    }
    verdict = healthy.verdict("UnchangedTensor", **parameters)
    assert verdict.status == ("IssuesFound" if same else "NoIssuesFound")
    if same:
        assert verdict.step == min(same)[0]
        assert (verdict.step, verdict.tensor) in same
    assert verdict.value is not None
    assert (verdict.value <= 1) == bool(same)


def test_num_steps_is_cut_where_two_steps_were_saved(tmp_path: Path) -> None:
    recorded = run(tmp_path / "out", epochs=2, lr=0.1, frozen=["fc.weight"])
    verdict = recorded.verdict("UnchangedTensor", collection_names="weights")
    assert (verdict.status, verdict.step, verdict.tensor) == ("IssuesFound", 1, "Net_fc.weight")
    assert "num_steps 3 cut to 2: the run has 2 saved steps" in verdict.detail


def test_it_must_be_said_what_to_look_at(healthy: Recorded) -> None:
    assert "collection_names" in healthy.verdict("UnchangedTensor").detail
    assert healthy.verdict("UnchangedTensor").status == "NotEvaluated"
