"""report.json's numbers once more, from the stored predictions alone, by scikit-learn, SciPy and pandas."""

import json
import math
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats
from sklearn import metrics as sk
from sklearn.dummy import DummyClassifier

from report.formats import measure, money, number, percent, points, seconds, size


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def wilson(successes: int, count: int, confidence: float) -> list[float]:
    """The closed form: https://www.itl.nist.gov/div898/handbook/prc/section2/prc241.htm"""
    z = stats.norm.ppf((1 + confidence) / 2)
    share = successes / count
    middle, half = (
        share + z**2 / (2 * count),
        z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)),
    )
    return [(middle - half) / (1 + z**2 / count), (middle + half) / (1 + z**2 / count)]


def check_metrics(rows: list[dict[str, Any]], metrics: dict[str, Any], train: dict[str, int]) -> None:
    """`metrics` of report.json or of its champion, as far as they are there, from predictions.jsonl's rows."""
    labels, predictions = ([row[key] for row in rows] for key in ("label", "prediction"))
    classes = list(rows[0]["probabilities"])
    probabilities = np.array([[row["probabilities"][name] for name in classes] for row in rows])
    right = [label == guess for label, guess in zip(labels, predictions, strict=True)]
    several = {
        f"{mean}_{name}": value
        for mean in ("macro", "micro")
        for name, value in zip(
            ("precision", "recall", "f1"),
            sk.precision_recall_fscore_support(labels, predictions, average=mean, zero_division=0),
            strict=False,
        )
    }
    bins = pd.cut(probabilities.max(axis=1), np.linspace(0, 1, 16))
    table = pd.DataFrame({"right": right, "sure": probabilities.max(axis=1)}).groupby(bins, observed=False)
    found = table.agg(count=("right", "size"), accuracy=("right", "mean"), confidence=("sure", "mean"))
    expected = {
        "count": len(rows),
        "correct": sum(right),
        "accuracy": sk.accuracy_score(labels, predictions),
        "accuracy_interval": wilson(sum(right), len(rows), metrics["confidence"]),
        "log_loss": sk.log_loss(labels, probabilities, labels=classes),
        "top_5_accuracy": sk.top_k_accuracy_score(labels, probabilities, k=5, labels=classes),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, predictions),
        "expected_calibration_error": (found["count"] * (found["accuracy"] - found["confidence"]).abs()).sum()
        / len(rows),
        **several,
    }
    for name, value in expected.items():
        if name in metrics:
            assert metrics[name] == pytest.approx(value), name
    for one in metrics["per_class"]:
        of_class = [hit for hit, label in zip(right, labels, strict=True) if label == one["class"]]
        assert one["recall"] == pytest.approx(sum(of_class) / len(of_class))
        assert one["recall_interval"] == pytest.approx(
            wilson(sum(of_class), len(of_class), metrics["confidence"])
        )
    if "reliability" in metrics:
        stored = pd.DataFrame(metrics["reliability"])
        for name in ("count", "accuracy", "confidence"):
            assert stored[name].tolist() == pytest.approx(found[name].tolist(), nan_ok=True)
        check_baselines(metrics["baselines"], labels, train)


def check_baselines(found: dict[str, Any], labels: list[str], train: dict[str, int]) -> None:
    known = [name for name, count in train.items() for _ in range(count)]
    blind = np.zeros((len(labels), 1))
    majority, prior = (
        DummyClassifier(strategy=strategy).fit(np.zeros((len(known), 1)), known)
        for strategy in ("most_frequent", "prior")
    )
    assert found["prior"] == "train"
    assert found["majority"]["accuracy"] == pytest.approx(majority.score(blind, labels))
    shares = prior.predict_proba(blind)
    assert found["stratified"]["log_loss"] == pytest.approx(
        sk.log_loss(labels, shares, labels=prior.classes_)
    )
    drawn = DummyClassifier(strategy="stratified", random_state=np.random.RandomState(0)).fit(
        np.zeros((len(known), 1)), known
    )
    accuracy = np.mean([drawn.score(blind, labels) for _ in range(400)])
    assert found["stratified"]["accuracy"] == pytest.approx(accuracy, abs=0.01)


def check_ranking(rows: list[dict[str, Any]], found: dict[str, Any]) -> None:
    """Average precision by scikit-learn, of probabilities that are equal where they share a bin."""
    classes = list(rows[0]["probabilities"])
    probabilities = np.array([[row["probabilities"][name] for name in classes] for row in rows])
    truth = np.array([[row["label"] == name for name in classes] for row in rows])
    binned = np.clip(np.floor((special.logit(probabilities) + 17) / 0.01), 0, found["bins"] - 1)
    values = [row["value"] for row in found["average_precision"]]
    for exact, scores in ((0.02, probabilities), (1e-9, binned)):
        expected = [sk.average_precision_score(truth[:, at], scores[:, at]) for at in range(len(classes))]
        assert values == pytest.approx(expected, abs=exact)
        together = sk.average_precision_score(truth.ravel(), scores.ravel())
        assert found["micro_average_precision"] == pytest.approx(together, abs=exact)
    assert found["macro_average_precision"] == pytest.approx(np.mean(values))


def check_comparison(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], found: dict[str, Any]) -> None:
    """report.json's `champion`, from both models' rows: images are resampled, not counts."""
    assert [row["file"] for row in ours] == [row["file"] for row in theirs]
    challenger, champion = (
        np.array([row["label"] == row["prediction"] for row in rows], dtype=float) for rows in (ours, theirs)
    )
    assert found["difference"] == pytest.approx(challenger.mean() - champion.mean())
    drawn = stats.bootstrap(
        (challenger, champion),
        lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
        paired=True,
        n_resamples=10_000,
        confidence_level=found["confidence"],
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    # Two images: what two draws of 10,000 may differ by.
    assert found["difference_interval"] == pytest.approx([drawn.low, drawn.high], abs=2 / len(ours))
    wins, losses = (challenger > champion).sum(), (challenger < champion).sum()
    exact = min(1.0, 2 * stats.binom.cdf(min(wins, losses), wins + losses, 0.5))
    assert found["mcnemar_p"] == pytest.approx(exact)
    assert (found["only_challenger_right"], found["only_champion_right"]) == (wins, losses)


def check_importance(tuning: dict[str, Any], found: dict[str, Any]) -> None:
    """Rank correlations of report.json's own jobs, by pandas."""
    jobs = pd.DataFrame(
        {"objective": job["objective"], **job["hyperparameters"]}
        for job in tuning["jobs"]
        if job["objective"] is not None
    ).astype(float)
    correlations = jobs.corr(method="spearman")["objective"].drop("objective")
    assert found["jobs"] == len(jobs)
    assert {one["name"] for one in found["parameters"]} == set(correlations.index)
    for one in found["parameters"]:
        assert one["importance"] == pytest.approx(abs(correlations[one["name"]]))
        assert one["correlation"] == pytest.approx(-correlations[one["name"]])  # the objective is minimised


def shown(report: dict[str, Any]) -> set[str]:
    """Every number of report.json in every way that the page writes one, and the two that it derives."""
    numbers = list(_numbers(report))
    numbers.append(sum(job["seconds"] for job in report["tuning"]["jobs"]))
    numbers += [1000 * one["seconds_per_image"] for one in (report["assessment"], report["champion"])]
    ways = [lambda x, d=digits: percent(x, d) for digits in (0, 1, 2)]
    ways += [lambda x, d=digits: number(x, d) for digits in (2, 3, 4, 6)]
    ways += [points, seconds, size, money, lambda x: measure(x, None)]
    return {way(value) for value in numbers for way in ways}


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value
    elif isinstance(value, str) and value.replace(".", "", 1).isdigit():
        yield float(value)  # a hyperparameter


class Figures(HTMLParser):
    """The texts of everything on the page that is a figure: cells of class `n` and of the confusion matrix, cards."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._inside: str | None = None
        self._confusion = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        kind = dict(attrs).get("class") or ""
        if tag == "table":
            self._confusion = kind == "confusion"
        if (tag == "td" and (kind == "n" or self._confusion)) or (tag == "p" and kind == "figure"):
            self._inside = tag
            self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.texts[-1] += data


def check_page(text: str, report: dict[str, Any]) -> int:
    """Every figure on the page is one of report.json; how many were looked at."""
    known, looked_at = shown(report), 0
    for cell in Figures(text).texts:
        for part in cell.split(" to "):
            figure = part.strip().lstrip("≥≤> ").removesuffix("\u00a0points").removesuffix(" points")
            for unit in (" nats", " ms", " /s", " of 1", " pixels"):
                figure = figure.removesuffix(unit)
            if figure not in {"\u2013", "·", ""}:
                bare = figure.partition("\u00a0")[0]  # a rule's value in its unit
                assert {figure, bare} & known, f"{cell!r}: {figure!r} is no number of report.json"
                looked_at += 1
    return looked_at
