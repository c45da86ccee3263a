"""Metrics and comparison against scikit-learn, scipy and direct counting."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from report.answers import Answers
from report.calibration import expected_calibration_error, reliability
from report.comparison import compare, compare_classes, mcnemar, paired_bootstrap
from report.metrics import classification_metrics, wilson_interval

CLASSES = [f"class {i}" for i in range(7)]


@pytest.fixture(scope="module")
def answers() -> tuple[Any, Any]:
    random = np.random.default_rng(3)
    labels = random.integers(0, 6, size=400)  # the last class has no image
    logits = random.normal(size=(400, 7))
    logits[np.arange(400), labels] += 1.5
    shares = np.exp(logits)
    return labels, shares / shares.sum(axis=1, keepdims=True)


def test_metrics_are_scikit_learns(answers: tuple[Any, Any]) -> None:
    labels, probabilities = answers
    found = classification_metrics(Answers.of(labels, probabilities), CLASSES)
    predictions = probabilities.argmax(axis=1)
    report = sk.classification_report(
        labels, predictions, labels=range(7), target_names=CLASSES, output_dict=True, zero_division=0
    )
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(labels, predictions))
    assert found["log_loss"] == pytest.approx(sk.log_loss(labels, probabilities, labels=range(7)))
    assert found["top_5_accuracy"] == pytest.approx(
        sk.top_k_accuracy_score(labels, probabilities, k=5, labels=range(7))
    )
    present = sorted(set(labels.tolist()))
    assert found["macro_f1"] == pytest.approx(
        sk.f1_score(labels, predictions, labels=present, average="macro")
    )
    for row in found["per_class"]:
        expected = report[row["class"]]
        assert row["count"] == expected["support"]
        assert (row["precision"], row["recall"], row["f1"]) == pytest.approx(
            (expected["precision"], expected["recall"], expected["f1-score"])
        )
    assert np.array_equal(found["confusion"], sk.confusion_matrix(labels, predictions, labels=range(7)))
    assert sum(map(sum, found["confusion"])) == found["count"] == 400


def test_most_confused_pairs_are_the_largest_errors(answers: tuple[Any, Any]) -> None:
    labels, probabilities = answers
    found = classification_metrics(Answers.of(labels, probabilities), CLASSES)
    errors = [
        (found["confusion"][i][j], CLASSES[i], CLASSES[j]) for i, j in itertools.permutations(range(7), 2)
    ]
    counts = [pair["count"] for pair in found["most_confused"]]
    assert counts == sorted((count for count, *_ in errors if count), reverse=True)[:10]
    assert all(
        (pair["count"], pair["label"], pair["prediction"]) in errors for pair in found["most_confused"]
    )


def test_top_5_of_five_classes_is_said_to_mean_nothing() -> None:
    found = classification_metrics(Answers.of(np.array([0, 1]), np.eye(5)[[0, 2]]), CLASSES[:5])
    assert found["top_5_accuracy"] is None
    assert "always" in found["top_5_reason"]


def test_a_certain_wrong_answer_keeps_the_log_loss_finite() -> None:
    assert math.isfinite(
        classification_metrics(Answers.of(np.array([1]), np.array([[1.0, 0.0]])), CLASSES[:2])["log_loss"]
    )


def test_without_images_there_is_no_metric() -> None:
    with pytest.raises(ValueError, match="no image"):
        classification_metrics(Answers.of(np.array([], dtype=int), np.empty((0, 2))), CLASSES[:2])


@pytest.mark.parametrize(("correct", "count"), [(0, 10), (345, 360), (10, 10)])
def test_wilson_interval_solves_its_equation(correct: int, count: int) -> None:
    low, high = wilson_interval(correct, count, 0.95)
    z = stats.norm.ppf(0.975)
    share = correct / count
    for bound in (low, high):
        assert abs(share - bound) == pytest.approx(z * math.sqrt(bound * (1 - bound) / count), abs=1e-9)
    assert low <= share <= high


def test_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.95, 0.05], [0.95, 0.05], [0.55, 0.45]])
    # The bin of 0.95 holds two, one right: |0.95 - 0.5|; that of 0.55 holds one, right: |0.55 - 1|.
    expected = (2 * 0.45 + 0.45) / 3
    bins = reliability(Answers.of(np.array([0, 1, 0]), probabilities))
    assert expected_calibration_error(bins) == pytest.approx(expected)
    assert {one["count"] for one in bins[:8]} == {0}
    assert (bins[8]["count"], bins[8]["confidence"], bins[8]["accuracy"]) == (1, 0.55, 1.0)


def test_bootstrap_agrees_with_resampling_the_images() -> None:
    random = np.random.default_rng(0)
    challenger, champion = random.random(360) < 0.95, random.random(360) < 0.93
    found = compare(challenger, champion, 0.95)
    differences = challenger.astype(float) - champion.astype(float)
    drawn = differences[random.integers(0, 360, size=(10_000, 360))].mean(axis=1)
    assert found["difference"] == pytest.approx(differences.mean())
    assert found["difference_interval"] == pytest.approx(
        np.quantile(drawn, [0.025, 0.975]).tolist(), abs=0.004
    )
    assert compare(challenger, champion, 0.95) == found


def test_bootstrap_interval_covers_the_true_difference() -> None:
    random = np.random.default_rng(1)
    hits, trials = 0, 300
    for seed in range(trials):
        wins, losses, _ = random.multinomial(500, [0.06, 0.04, 0.9])
        low, high = paired_bootstrap(wins, losses, 500, 0.95, seed)
        hits += low <= 0.02 <= high
    assert 0.90 <= hits / trials <= 0.99


def test_more_confidence_widens_the_interval_and_agreement_closes_it() -> None:
    narrow, wide = (paired_bootstrap(20, 10, 300, confidence) for confidence in (0.8, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    assert paired_bootstrap(0, 0, 300, 0.95) == [0.0, 0.0]


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (5, 5), (9, 1), (1, 9), (0, 6)])
def test_mcnemar_is_the_exact_binomial(wins: int, losses: int) -> None:
    n, k = wins + losses, min(wins, losses)
    tail = sum(math.comb(n, i) for i in range(k + 1)) / 2**n
    assert mcnemar(wins, losses) == pytest.approx(min(1.0, 2 * tail))


def test_unpaired_answers_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot pair"):
        compare(np.array([True]), np.array([True, False]), 0.95)


def test_wins_and_losses_of_each_class_add_up_to_the_difference() -> None:
    random = np.random.default_rng(2)
    labels = random.integers(0, 3, size=200)
    challenger, champion = random.random(200) < 0.8, random.random(200) < 0.7
    rows = compare_classes(challenger, champion, labels, ["a", "b", "c", "d"])
    assert [row["count"] for row in rows] == [*np.bincount(labels).tolist(), 0]
    for i, row in enumerate(rows):
        gained = challenger[labels == i].sum() - champion[labels == i].sum()
        assert row["only_challenger_right"] - row["only_champion_right"] == gained
    assert sum(row["only_challenger_right"] for row in rows) == (challenger & ~champion).sum()
