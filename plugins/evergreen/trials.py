"""A tuning job's trials: what each came to, and a line for each as it ends."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook

ENDED = frozenset({"Completed", "Failed", "Stopped"})


def listed(hook: SageMakerHook, tuning_job: str) -> list[dict[str, Any]]:
    """Every trial, by name: `{"name", "status", "objective", "hyperparameters", "seconds"}`.

    `seconds` are those that SageMaker bills, from start to end; None for a trial that has not both.
    """
    pages = hook.conn.get_paginator("list_training_jobs_for_hyper_parameter_tuning_job").paginate(
        HyperParameterTuningJobName=tuning_job
    )
    found = [
        {
            "name": trial["TrainingJobName"],
            "status": trial["TrainingJobStatus"],
            "objective": trial.get("FinalHyperParameterTuningJobObjectiveMetric", {}).get("Value"),
            "hyperparameters": trial["TunedHyperParameters"],
            "seconds": seconds(trial.get("TrainingStartTime"), trial.get("TrainingEndTime")),
        }
        for page in pages
        for trial in page["TrainingJobSummaries"]
    ]
    return sorted(found, key=lambda trial: str(trial["name"]))


def lines(hook: SageMakerHook, tuning_job: str, metric: str, *, minimize: bool) -> Iterator[str | None]:
    """One line for each trial that has ended since the last look; None when there are no more for now."""
    told: set[str] = set()
    best: float | None = None
    while True:
        for trial in listed(hook, tuning_job):
            if trial["name"] in told or trial["status"] not in ENDED:
                continue
            told.add(trial["name"])
            if (value := trial["objective"]) is not None:
                best = value if best is None else min(best, value) if minimize else max(best, value)
            yield _line(trial, metric, best)
        yield None


def _line(trial: dict[str, Any], metric: str, best: float | None) -> str:
    value = trial["objective"]
    said = "reported no objective" if value is None else f"{metric}={value:.4f}"
    settings = " ".join(
        f"{name}={significant(given)}" for name, given in sorted(trial["hyperparameters"].items())
    )
    so_far = "" if best is None else f", the best so far is {best:.4f}"
    took = "" if trial["seconds"] is None else f" after {trial['seconds']:.0f} s"
    return f"trial {trial['name']} {trial['status']}{took}: {said} with {settings}{so_far}"


def seconds(start: datetime | None, end: datetime | None) -> float | None:
    return (end - start).total_seconds() if start and end else None


def significant(value: str) -> str:
    """A hyperparameter as people read it: numbers with 4 significant digits, other texts without SageMaker's quotes."""
    try:
        return f"{float(value):.4g}"
    except ValueError:
        return value.strip('"')
