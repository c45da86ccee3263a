"""Which of the tuned hyperparameters mattered, as far as the jobs can say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance

LEAST_JOBS = 4
FOREST_JOBS = 20
"""From here on a random forest has enough to learn from."""
TREES, REPEATS, SEED = 200, 20, 0

Values = npt.NDArray[np.float64]


def importance(tuning: Mapping[str, Any] | None) -> dict[str, Any]:
    """report.json's `importance`, from its `tuning`; `reason` says why there is none.

    From 4 finished jobs on it is the absolute rank correlation of a numeric hyperparameter with the objective
    (Spearman), from 20 on the permutation importance of a random forest, as shares of one: how much worse the forest
    predicts the objective with that hyperparameter shuffled. That is not fANOVA's share of variance (Hutter et al.,
    2014), but it too counts what a hyperparameter does together with others.
    """
    objective, values = numbers(tuning)
    if len(objective) < LEAST_JOBS:
        return _none(len(objective), f"{len(objective)} finished jobs are too few: it takes {LEAST_JOBS}.")
    varied = {name: column for name, column in values.items() if len(set(column.tolist())) > 1}
    if not varied or len(set(objective.tolist())) == 1:
        what = "objective" if varied else "numeric hyperparameter"
        return _none(len(objective), f"No {what} differs between the jobs.")
    better = -1 if _minimised(tuning) else 1
    correlations = {name: spearmanr(column, objective) for name, column in varied.items()}
    forest = len(objective) >= FOREST_JOBS
    shares = (
        _forest(varied, objective)
        if forest
        else {name: abs(float(found.statistic)) for name, found in correlations.items()}
    )
    parameters = [
        {
            "name": name,
            "importance": shares[name],
            "correlation": better * float(found.statistic),
            "p": float(found.pvalue),
        }
        for name, found in correlations.items()
    ]
    return {
        "reason": None,
        "method": "random forest" if forest else "rank correlation",
        "jobs": len(objective),
        "parameters": sorted(parameters, key=lambda one: -one["importance"]),
    }


def numbers(tuning: Mapping[str, Any] | None) -> tuple[Values, dict[str, Values]]:
    """The objective of the finished jobs, [N], and every hyperparameter that is a number in all of them."""
    jobs = [job for job in (tuning or {}).get("jobs", []) if job.get("objective") is not None]
    columns = {
        name: [_number(job.get("hyperparameters", {}).get(name)) for job in jobs]
        for name in sorted({name for job in jobs for name in job.get("hyperparameters", {})})
    }
    return np.array([float(job["objective"]) for job in jobs]), {
        name: np.array(column) for name, column in columns.items() if not np.isnan(column).any()
    }


def _minimised(tuning: Mapping[str, Any] | None) -> bool:
    return bool((tuning or {}).get("objective", {}).get("Type", "Minimize") == "Minimize")


def _number(value: Any) -> float:
    """SageMaker hands hyperparameters on as strings, some in quotes."""
    try:
        return float(str(value).strip('"'))
    except ValueError:
        return float("nan")


def _forest(varied: Mapping[str, Values], objective: Values) -> dict[str, float]:
    columns = np.column_stack(list(varied.values()))
    forest = RandomForestRegressor(TREES, random_state=SEED).fit(columns, objective)
    found = permutation_importance(forest, columns, objective, n_repeats=REPEATS, random_state=SEED)
    shares = np.maximum(found.importances_mean, 0)
    return dict(zip(varied, (shares / (shares.sum() or 1)).tolist(), strict=True))


def _none(jobs: int, reason: str) -> dict[str, Any]:
    return {"reason": reason, "method": None, "jobs": jobs, "parameters": []}
