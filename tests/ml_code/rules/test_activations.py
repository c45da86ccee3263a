"""DeadRelu and SaturatedActivation against numpy."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from rules.debug.activations import by_unit
from tests.ml_code.rules.recording import Net, Recorded, run


def shares(recorded: Recorded, name: str, active: Callable[[np.ndarray], np.ndarray]) -> list[float]:
    """% of units active in less than 1 % of a step's images (512, so that every step is judged alone)."""
    return [100 * float(np.mean(100 * active(value).mean(axis=0) < 1)) for value in recorded.tensors[name]]


def add(name: str, value: float, units: int) -> Callable[[Net], None]:
    def change(net: Net) -> None:
        with torch.no_grad():
            net.get_parameter(name)[:units] += value

    return change


def test_dead_relus_are_counted_as_documented(healthy: Recorded) -> None:
    layers = ("first.relu_output_0", "second.relu_output_0")
    dead = {name: shares(healthy, name, lambda value: value > 0) for name in layers}
    verdict = healthy.verdict("DeadRelu")
    assert verdict.status == "NoIssuesFound"
    assert verdict.value == pytest.approx(max(max(of) for of in dead.values()))
    low = healthy.verdict("DeadRelu", threshold_layer="1", threshold_inactivity="20")
    often = {
        name: [float(100 * np.mean((value > 0).mean(axis=0) < 0.2)) for value in healthy.tensors[name]]
        for name in layers
    }
    first = min((step, name) for name in layers for step, share in enumerate(often[name]) if share > 1)
    assert (low.status, low.step, low.tensor) == ("IssuesFound", *first)


def test_a_layer_whose_relus_die_is_found_at_that_step(tmp_path: Path) -> None:
    def kill(net: Net, step: int) -> None:
        if step == 3:
            add("second.linear.bias", -1000, 18)(net)

    recorded = run(tmp_path / "out", epochs=6, lr=0.01, each_step=kill)
    expected = shares(recorded, "second.relu_output_0", lambda value: value > 0)
    verdict = recorded.verdict("DeadRelu")
    assert (verdict.status, verdict.step, verdict.tensor) == ("IssuesFound", 3, "second.relu_output_0")
    assert verdict.value == pytest.approx(expected[3])
    assert expected[3] >= 75 > 50 > expected[2]
    assert "LeakyReLU" in verdict.recommendation


def test_saturated_nodes_are_counted_as_documented(tmp_path: Path) -> None:
    recorded = run(tmp_path / "out", epochs=3, lr=0.01, prepare=add("third.linear.bias", 40, 15))
    expected = shares(recorded, "third.tanh_input_0", lambda value: (value >= -9.4999) & (value <= 9.4999))
    verdict = recorded.verdict("SaturatedActivation")
    assert (verdict.status, verdict.step, verdict.tensor) == ("IssuesFound", 0, "third.tanh_input_0")
    assert verdict.value == pytest.approx(expected[0])
    assert verdict.value == pytest.approx(100 * 15 / 24)
    assert recorded.verdict("SaturatedActivation", threshold_tanh_max="1000").status == "NoIssuesFound"
    named = recorded.verdict("SaturatedActivation", tensor_regex="nothing", collection_names="activations")
    assert (named.tensor, named.value) == (verdict.tensor, verdict.value)


def test_activations_that_are_neither_are_not_judged(healthy: Recorded) -> None:
    verdict = healthy.verdict("SaturatedActivation", tensor_regex="relu_input")
    assert verdict.status == "NotEvaluated"
    assert "first.relu_input_0, second.relu_input_0 is neither" in verdict.detail


def test_small_batches_are_put_together(tmp_path: Path) -> None:
    recorded = run(tmp_path / "out", epochs=2, lr=0.01, images=60, batches=4)
    # 15 images to a step: 100 values of each ReLU are there after seven steps, and one step is left over.
    together = np.concatenate(recorded.tensors["first.relu_output_0"][:7])
    verdict = recorded.verdict("DeadRelu", tensor_regex="first.relu_output")
    assert verdict.step == 6
    assert verdict.value == pytest.approx(100 * np.mean(100 * (together > 0).mean(axis=0) < 1))
    alone = run(tmp_path / "short", epochs=1, lr=0.01, images=60, batches=4).verdict("DeadRelu")
    assert alone.status == "NotEvaluated"
    assert "too short: 60 values of each of the ReLUs were saved, 100 are needed" in alone.detail


@pytest.mark.parametrize("shape", [(4, 3, 5, 5), (4, 3), (4, 7, 3)])
def test_units_are_channels_or_features(shape: tuple[int, ...]) -> None:
    value = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    axis = 2 if len(shape) == 3 else 1
    expected = [set(np.take(value, unit, axis=axis).ravel()) for unit in range(3)]
    assert [set(column) for column in by_unit(value).T] == expected
