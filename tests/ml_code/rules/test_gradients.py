"""VanishingGradient against numpy."""

from pathlib import Path

import numpy as np
import pytest
from torch import nn

from tests.ml_code.rules.recording import Net, Recorded, run


def means(recorded: Recorded) -> dict[tuple[str, int], float]:
    return {
        (name, step): float(np.abs(gradient).mean())
        for name, steps in recorded.tensors.items()
        if name.startswith("gradient/")
        for step, gradient in enumerate(steps)
    }


def test_the_smallest_mean_is_reported(healthy: Recorded) -> None:
    (name, step), smallest = min(means(healthy).items(), key=lambda item: item[1])
    verdict = healthy.verdict("VanishingGradient")
    assert (verdict.status, verdict.tensor, verdict.step) == ("NoIssuesFound", name, step)
    assert verdict.value == pytest.approx(smallest, rel=1e-5)
    raised = healthy.verdict("VanishingGradient", threshold=str(2 * smallest))
    below = [(step, mean, name) for (name, step), mean in means(healthy).items() if mean < 2 * smallest]
    assert (raised.status, raised.step, raised.tensor) == ("IssuesFound", min(below)[0], min(below)[2])


def test_a_layer_that_is_cut_off_is_found(tmp_path: Path) -> None:
    def cut(net: Net) -> None:
        nn.init.zeros_(net.fc.weight)
        net.fc.weight.requires_grad_(False)

    recorded = run(tmp_path / "out", epochs=2, lr=0.1, prepare=cut)
    verdict = recorded.verdict("VanishingGradient")
    assert verdict.status == "IssuesFound"
    assert (verdict.value, verdict.step) == (0.0, 0)
    assert verdict.tensor is not None
    assert not recorded.tensors[verdict.tensor][0].any()
    assert "cut off" in verdict.recommendation
    assert "cut off" not in verdict.detail


def test_a_gradient_that_is_zeroed_later_is_found_at_its_step(tmp_path: Path) -> None:
    def zero(net: Net) -> None:
        steps = iter(range(100))
        net.second.get_parameter("linear.weight").register_hook(  # before smdebug's own
            lambda gradient: gradient * 0 if next(steps) >= 3 else gradient
        )

    verdict = run(tmp_path / "out", epochs=5, lr=0.1, prepare=zero).verdict("VanishingGradient")
    assert (verdict.status, verdict.step, verdict.tensor, verdict.value) == (
        "IssuesFound", 3, "gradient/Net_second.linear.weight", 0.0,
    )  # fmt: skip


def test_the_plot_has_the_worst_gradients(healthy: Recorded) -> None:
    plot = healthy.verdict("VanishingGradient").plot
    assert plot is not None
    (name, _), _ = min(means(healthy).items(), key=lambda item: item[1])
    assert plot.series[0].name == name
    expected = [(step, mean) for (other, step), mean in means(healthy).items() if other == name]
    np.testing.assert_allclose(plot.series[0].points, expected, rtol=1e-5)
    assert plot.threshold == pytest.approx(1e-7)


def test_the_reduction_abs_mean_is_enough(reduced: Recorded) -> None:
    (name, step), smallest = min(means(reduced).items(), key=lambda item: item[1])
    verdict = reduced.verdict("VanishingGradient")
    assert (verdict.status, verdict.tensor, verdict.step) == ("NoIssuesFound", name, step)
    assert verdict.value == pytest.approx(smallest, rel=1e-5)


def test_gradients_that_are_not_finite_cannot_be_judged(exploding: Recorded) -> None:
    verdict = exploding.verdict("VanishingGradient")
    assert verdict.status == "NotEvaluated"
    assert "not finite at step" in verdict.detail
