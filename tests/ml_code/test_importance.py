"""Importance of hyperparameters where the truth is planted, and recomputed by scikit-learn and SciPy."""

from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance

from report.importance import importance


def tuning(jobs: int, kind: str = "Minimize") -> dict[str, Any]:
    """The objective is the distance of lr from 0.01 on a log scale, and a little noise; nothing else matters."""
    drawn = np.random.default_rng(0)
    sign = 1 if kind == "Minimize" else -1
    made = []
    for _ in range(jobs):
        rate, decay = 10 ** drawn.uniform(-2, 0), 10 ** drawn.uniform(-4, 0)
        objective = sign * (np.log10(rate / 0.01) + 0.05 * drawn.normal())
        made.append({"objective": objective, "hyperparameters": {
            "lr": f'"{rate}"', "weight-decay": decay, "batch-size": int(drawn.choice([32, 64])), "epochs": 5,
            "optimizer": "adamw",
        }})  # fmt: skip
    return {"objective": {"MetricName": "loss", "Type": kind}, "jobs": [*made, {"objective": None}]}


@pytest.mark.parametrize("kind", ["Minimize", "Maximize"])
@pytest.mark.parametrize("jobs", [8, 40])
def test_what_matters_comes_first(jobs: int, kind: str) -> None:
    found = importance(tuning(jobs, kind))
    assert found["jobs"] == jobs
    assert {one["name"] for one in found["parameters"]} == {"lr", "weight-decay", "batch-size"}
    first, second, _ = found["parameters"]
    assert first["name"] == "lr"
    assert first["importance"] > 0.8 > second["importance"]
    assert first["correlation"] < -0.8  # smaller rates did better, whichever way the objective goes
    assert first["p"] < 0.05
    assert found["method"] == ("rank correlation" if jobs < 20 else "random forest")


def columns(document: dict[str, Any]) -> tuple[dict[str, list[float]], list[float]]:
    finished = [job for job in document["jobs"] if job["objective"] is not None]
    names = ("batch-size", "lr", "weight-decay")
    return {
        name: [float(str(job["hyperparameters"][name]).strip('"')) for job in finished] for name in names
    }, [job["objective"] for job in finished]


def test_few_jobs_are_ranked_by_scipys_correlation() -> None:
    document = tuning(8)
    values, objective = columns(document)
    for one in importance(document)["parameters"]:
        expected = stats.spearmanr(values[one["name"]], objective)
        assert one["importance"] == pytest.approx(abs(expected.statistic))
        assert one["p"] == pytest.approx(expected.pvalue)


def test_many_jobs_are_ranked_by_scikit_learns_forest() -> None:
    document = tuning(40)
    values, objective = columns(document)
    table = np.column_stack(list(values.values()))
    forest = RandomForestRegressor(200, random_state=0).fit(table, objective)
    means = np.maximum(
        permutation_importance(forest, table, objective, n_repeats=20, random_state=0).importances_mean, 0
    )
    expected = dict(zip(values, means / means.sum(), strict=True))
    found = {one["name"]: one["importance"] for one in importance(document)["parameters"]}
    assert found == pytest.approx(expected)
    assert sum(found.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (None, "0 finished jobs are too few: it takes 4."),
        (tuning(3), "3 finished jobs are too few: it takes 4."),
        (
            {"jobs": [{"objective": i, "hyperparameters": {"lr": 1}} for i in range(5)]},
            "No numeric hyperparameter",
        ),
        (
            {"jobs": [{"objective": 1, "hyperparameters": {"lr": i}} for i in range(5)]},
            "No objective differs",
        ),
    ],
)
def test_what_cannot_be_said_has_its_reason(document: Any, reason: str) -> None:
    found = importance(document)
    assert found["reason"].startswith(reason)
    assert found["parameters"] == []
