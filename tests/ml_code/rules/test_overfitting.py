"""Overfit and Overtraining against numpy."""

from pathlib import Path

import numpy as np
import pytest

from tests.ml_code.rules.recording import LOSS, Recorded, run


def longest_wait(losses: list[float], patience: int, delta: float = 0.01) -> tuple[int, int | None]:
    """Most steps without an optimum, and the index at which `patience` was reached."""
    longest, waited, best, fired = 0, 0, losses[0], None
    for i, value in enumerate(losses[1:], start=1):
        waited = 0 if best - value >= delta else waited + 1
        best = value if waited == 0 else best
        longest = max(longest, waited)
        fired = i if fired is None and waited >= patience else fired
    return longest, fired


def test_each_pass_is_compared_with_the_training_since_the_one_before(overfitted: Recorded) -> None:
    ratios = [
        (np.mean(batches) - train) / train
        for train, batches in zip(overfitted.train, overfitted.evaluation, strict=True)
    ]
    first = next(i for i, ratio in enumerate(ratios) if ratio > 0.1)
    verdict = overfitted.verdict("Overfit")
    assert (verdict.status, verdict.step, verdict.tensor) == ("IssuesFound", 2 * first + 1, LOSS)
    assert verdict.value == pytest.approx(ratios[first], rel=1e-4)
    patient = overfitted.verdict("Overfit", patience="3")
    third = next(i for i in range(2, len(ratios)) if min(ratios[i - 2 : i + 1]) > 0.1)
    assert patient.step == 2 * third + 1
    assert overfitted.verdict("Overfit", start_step="1000").status == "NotEvaluated"
    assert overfitted.verdict("Overfit", ratio_threshold="1e9").status == "NoIssuesFound"


def test_several_training_batches_to_a_pass_are_averaged(tmp_path: Path) -> None:
    recorded = run(tmp_path / "out", epochs=3, lr=0.1, batches=4, collections={"losses": None})
    means = np.array(recorded.train).reshape(3, 4).mean(axis=1)
    ratios = [np.mean(batches) / mean - 1 for mean, batches in zip(means, recorded.evaluation, strict=True)]
    verdict = recorded.verdict("Overfit", ratio_threshold="1e9")
    assert verdict.value == pytest.approx(max(ratios), rel=1e-4)
    assert verdict.plot is not None
    training = next(series for series in verdict.plot.series if series.name == "training loss")
    np.testing.assert_allclose(training.points, list(zip((4, 8, 12), means, strict=True)), rtol=1e-5)


def test_overtraining_waits_for_new_optima(overfitted: Recorded) -> None:
    longest, fired = longest_wait([float(np.mean(batches)) for batches in overfitted.evaluation], 10)
    assert fired is not None
    verdict = overfitted.verdict("Overtraining")
    assert (verdict.status, verdict.value, verdict.threshold) == ("IssuesFound", longest, 10)
    assert verdict.step == 2 * fired + 1
    patient = overfitted.verdict("Overtraining", patience_train="1000", patience_validation="1000")
    assert patient.status == "NotEvaluated"
    half = overfitted.verdict("Overtraining", patience_train="29", patience_validation="1000")
    assert half.status == "NoIssuesFound"
    assert (
        "not evaluated: too short: 30 evaluation passes, patience_validation 1000 needs 1001" in half.detail
    )


def test_a_training_step_is_a_pass_where_there_are_passes(tmp_path: Path) -> None:
    recorded = run(tmp_path / "out", epochs=7, lr=0.02, batches=8, collections={"losses": None})
    noisy, _ = longest_wait(recorded.train, 5)
    means = [float(mean) for mean in np.array(recorded.train).reshape(7, 8).mean(axis=1)]
    assert noisy >= 5 > longest_wait(means, 5)[0]
    verdict = recorded.verdict("Overtraining")
    assert verdict.status == "NoIssuesFound"
    assert (
        "the training loss did not improve by 0.01 for 0 evaluation passes in a row, patience 5"
        in verdict.detail
    )


def test_a_loss_below_delta_can_have_no_new_optimum(overfitted: Recorded) -> None:
    losses, delta = overfitted.train, 0.3
    optima = [losses[0]]
    for loss in losses[1:]:
        optima.append(loss if optima[-1] - loss >= delta else optima[-1])
    floor = next(i for i, optimum in enumerate(optima) if optimum < delta)
    before, _ = longest_wait(losses[: floor + 1], 6, delta)
    literal, _ = longest_wait(losses, 6, delta)
    assert literal >= 6 > before
    parameters = {"patience_train": "6", "patience_validation": "1000", "delta": "0.3"}
    verdict = overfitted.verdict("Overtraining", **parameters)
    assert (verdict.status, verdict.value) == ("NoIssuesFound", before)


def test_a_patience_is_cut_for_a_short_run_unless_the_user_set_it(tmp_path: Path) -> None:
    recorded = run(tmp_path / "out", epochs=5, lr=0.0, collections={"losses": None})
    verdict = recorded.verdict("Overtraining")
    assert (verdict.status, verdict.value, verdict.threshold, verdict.step) == ("IssuesFound", 4.0, 3.0, 7)
    assert "patience_validation 10 cut to 3: the run has 5 evaluation passes" in verdict.detail
    assert "patience_train 5 cut to 3" in verdict.detail
    kept = recorded.verdict("Overtraining", patience_validation="9", patience_train="9")
    assert kept.status == "NotEvaluated"
