"""ExplodingTensor, AllZero and TensorVariance against numpy."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.ml_code.rules.recording import FEATURES, WIDTH, Net, Recorded, run


def test_the_first_value_that_is_not_finite_is_found_where_it_arose(exploding: Recorded) -> None:
    # The step that follows the first update is the first of EVAL; the next of TRAIN has the same weights.
    assert np.isfinite(exploding.train[0])
    assert not np.isfinite(exploding.evaluation[0][0])
    # Parameters are noted before the forward pass, activations in its order, gradients after it.
    name = next(name for name, values in exploding.tensors.items() if not np.isfinite(values[1]).all())
    verdict = exploding.verdict("ExplodingTensor")
    assert (verdict.status, verdict.step, verdict.tensor) == ("IssuesFound", 0, name)
    assert f"of {name} are not finite at EVAL step 0" in verdict.detail


def test_infinity_is_not_nan(tmp_path: Path) -> None:
    def infinite(net: Net, step: int) -> None:
        if step == 2:
            with torch.no_grad():
                net.second.get_parameter("linear.bias")[3] = torch.inf

    recorded = run(tmp_path / "out", epochs=3, lr=0.1, each_step=infinite)
    verdict = recorded.verdict("ExplodingTensor", collection_names="weights,biases")
    assert (verdict.status, verdict.step, verdict.tensor, verdict.value) == (
        "IssuesFound", 2, "Net_second.linear.bias", 1.0,
    )  # fmt: skip
    only_nan = recorded.verdict("ExplodingTensor", tensor_regex="^Net_second.linear.bias", only_nan="True")
    assert only_nan.status == "NoIssuesFound"


def test_a_healthy_training_does_not_explode(healthy: Recorded, reduced: Recorded) -> None:
    verdict = healthy.verdict("ExplodingTensor")
    largest = max(float(np.abs(value).max()) for values in healthy.tensors.values() for value in values)
    assert (verdict.status, verdict.value) == ("NoIssuesFound", 0.0)
    assert verdict.plot is not None
    assert max(y for _, y in verdict.plot.series[0].points) >= largest * 0.999
    assert reduced.verdict("ExplodingTensor").status == "NoIssuesFound"


def test_zeros_are_counted_as_documented(healthy: Recorded) -> None:
    shares = {
        (step, name): 100 * float(np.mean(value == 0))
        for name, values in healthy.tensors.items()
        if "relu_output" in name
        for step, value in enumerate(values)
    }
    threshold = max(shares.values()) - 0.5
    verdict = healthy.verdict("AllZero", tensor_regex="relu_output", threshold=str(threshold))
    assert (verdict.status, verdict.tensor) == ("IssuesFound", "first.relu_output_0")
    assert verdict.step is not None
    found = shares[verdict.step, "first.relu_output_0"]
    assert verdict.value == pytest.approx(found)
    assert found >= threshold
    assert all(share < threshold for (step, _), share in shares.items() if step < verdict.step)
    assert healthy.verdict("AllZero", collection_names="weights,biases,gradients").status == "NoIssuesFound"
    assert "give it collection_names" in healthy.verdict("AllZero").detail


def test_a_tensor_of_zeros_is_found(tmp_path: Path) -> None:
    def zero(net: Net, step: int) -> None:
        if step == 2:
            torch.nn.init.zeros_(net.second.get_parameter("linear.weight"))

    recorded = run(tmp_path / "out", epochs=4, lr=0.1, each_step=zero)
    verdict = recorded.verdict("AllZero", collection_names="weights")
    assert (verdict.status, verdict.step, verdict.tensor, verdict.value) == (
        "IssuesFound", 2, "Net_second.linear.weight", 100.0,
    )  # fmt: skip


def test_variances_are_held_against_both_thresholds(healthy: Recorded) -> None:
    variances = {
        (step, name): float(value.var())
        for name, values in healthy.tensors.items()
        if name.startswith("Net_") and name.endswith("linear.weight")
        for step, value in enumerate(values)
    }
    # Kaiming: 2 / inputs.
    assert 1 / FEATURES < variances[0, "Net_first.linear.weight"] < 4 / FEATURES
    assert 1 / WIDTH < variances[0, "Net_second.linear.weight"] < 4 / WIDTH
    names = {"tensor_regex": "^Net.*linear.weight"}
    high = max(variances.values()) * 0.9999
    above = healthy.verdict("TensorVariance", max_threshold=str(high), **names)
    expected = min((step, name) for (step, name), value in variances.items() if value > high)
    assert (above.status, above.step, above.tensor) == ("IssuesFound", *expected)
    assert above.value == pytest.approx(variances[expected], rel=1e-5)
    low = min(variances.values()) * 1.0001
    below = healthy.verdict("TensorVariance", min_threshold=str(low), **names)
    expected = min((step, name) for (step, name), value in variances.items() if value < low)
    assert (below.status, below.step, below.tensor) == ("IssuesFound", *expected)
    both = healthy.verdict("TensorVariance", min_threshold="1e-4", max_threshold="10", **names)
    assert both.status == "NoIssuesFound"
    assert "max_threshold or min_threshold" in healthy.verdict("TensorVariance", **names).detail


def test_the_reduction_variance_is_enough(reduced: Recorded) -> None:
    variances = [value.var() for value in reduced.tensors["Net_second.linear.weight"]]
    verdict = reduced.verdict("TensorVariance", tensor_regex="second.linear.weight$", max_threshold="100")
    assert verdict.status == "NoIssuesFound"
    # torch divides by n - 1.
    assert verdict.value == pytest.approx(max(variances), rel=0.01)
