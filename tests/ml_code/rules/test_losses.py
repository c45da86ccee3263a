"""LossNotDecreasing against numpy."""

from pathlib import Path

import numpy as np
import pytest

from tests.ml_code.rules.recording import LOSS, Recorded, run


def test_evaluation_passes_are_compared(healthy: Recorded) -> None:
    means = [float(np.mean(batches)) for batches in healthy.evaluation]
    # Two EVAL batches to a pass: 10 steps are 5 passes.
    falls = {2 * i + 1: 100 * (means[i - 5] - means[i]) / means[i - 5] for i in range(5, len(means), 5)}
    verdict = healthy.verdict("LossNotDecreasing")
    assert verdict.value == pytest.approx(min(falls.values()), rel=1e-4)
    assert (verdict.status, verdict.tensor) == ("NoIssuesFound", LOSS)
    strict = healthy.verdict("LossNotDecreasing", diff_percent=str(min(falls.values()) + 1))
    assert (strict.status, strict.step) == ("IssuesFound", min(falls, key=lambda step: falls[step]))


@pytest.mark.parametrize(
    "parameters",
    [
        {"collection_names": "losses"},
        {"collection_names": "metrics,losses", "tensor_regex": "nothing"},
        {"tensor_regex": "CrossEntropy.*output"},
        {"use_losses_collection": "False"},
        {},
    ],
)
def test_the_losses_can_be_named_in_every_way(healthy: Recorded, parameters: dict[str, str]) -> None:
    verdict = healthy.verdict("LossNotDecreasing", mode="TRAIN", **parameters)
    assert (verdict.status, verdict.tensor) == ("NoIssuesFound", LOSS)
    assert verdict.value == pytest.approx(100 * (1 - healthy.train[10] / healthy.train[0]), rel=1e-4)


def test_a_collection_that_was_not_saved_is_named(healthy: Recorded) -> None:
    verdict = healthy.verdict("LossNotDecreasing", collection_names="metrics")
    assert verdict.status == "NotEvaluated"
    assert "no saved tensor is in collection_names 'metrics'" in verdict.detail
    assert LOSS in verdict.detail


def test_a_constant_loss_is_found(constant: Recorded) -> None:
    verdict = constant.verdict("LossNotDecreasing")
    assert (verdict.status, verdict.value, verdict.step) == ("IssuesFound", 0.0, 11)
    assert "hardly learns" in verdict.recommendation
    train = constant.verdict("LossNotDecreasing", mode="TRAIN")
    assert (train.status, train.step) == ("IssuesFound", 10)


def test_num_steps_is_cut_for_a_short_run_unless_the_user_set_it(tmp_path: Path) -> None:
    recorded = run(tmp_path / "out", epochs=4, lr=0.0, batches=2, collections={"losses": None})
    cut = recorded.verdict("LossNotDecreasing")
    # The passes end at EVAL steps 1, 3, 5 and 7.
    assert (cut.status, cut.step, cut.value) == ("IssuesFound", 7, 0.0)
    assert (
        "num_steps 10 cut to 5: the run has 6 EVAL steps from the first saved loss to the last" in cut.detail
    )
    kept = recorded.verdict("LossNotDecreasing", num_steps="500")
    assert kept.status == "NotEvaluated"
    assert "num_steps 500 needs 500" in kept.detail


def test_a_loss_that_is_not_finite_is_an_issue(exploding: Recorded) -> None:
    verdict = exploding.verdict("LossNotDecreasing")
    assert (verdict.status, verdict.as_json()["value"]) == ("IssuesFound", None)
    assert "nan" in verdict.detail
    assert exploding.verdict("Overtraining").status == "NotEvaluated"
    assert exploding.verdict("Overfit").status == "NotEvaluated"
