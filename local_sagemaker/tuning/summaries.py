"""What a tuning job tells of its training jobs: HyperParameterTrainingJobSummary, counters, the best one."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from local_sagemaker.api.protocol import Document
from local_sagemaker.jobs.base import Jobs

LOST = "InternalServerError"
"""How the FailureReason begins of a training job that failed through no fault of its own."""


def is_lost(child: Document) -> bool:
    """Whether a training job failed for a reason for which it is tried again."""
    return child["TrainingJobStatus"] == "Failed" and str(child.get("FailureReason")).startswith(LOST)


def is_over(child: Document) -> bool:
    return child["TrainingJobStatus"] not in {"InProgress", "Stopping"}


def objective_value(child: Document) -> float | None:
    """A training job's final objective: of one that completed, or was stopped, and has logged it."""
    if child["TrainingJobStatus"] not in {"Completed", "Stopped"}:
        return None
    metrics = {item["MetricName"]: item["Value"] for item in child.get("FinalMetricDataList", [])}
    return metrics.get(child["Objective"]["MetricName"])


def child_names(job: Document) -> list[str]:
    """The training jobs of a tuning job in the order of their numbers."""
    return sorted(name for trial in job.get("Trials", []) for name in trial["Children"])


def summaries(training: Jobs, job: Document) -> list[Document]:
    """The training jobs as HyperParameterTrainingJobSummary."""
    # A child is written down before it is created, so the last ones may not be there yet.
    found = (training.store.get(training.kind, name) for name in child_names(job))
    return [_summary(child) for child in found if child]


def _summary(child: Document) -> Document:
    value = objective_value(child)
    status = "Succeeded" if value is not None else "Failed" if is_over(child) else "Pending"
    summary = {**child, "ObjectiveStatus": status}
    if value is not None:
        summary["FinalHyperParameterTuningJobObjectiveMetric"] = {**child["Objective"], "Value": value}
    return summary


def counters(children: Iterable[Document]) -> Document:
    """TrainingJobStatusCounters and ObjectiveStatusCounters."""
    children = list(children)
    jobs = Counter(_counter(child) for child in children)
    objectives = Counter(child["ObjectiveStatus"] for child in children)
    names = ("Completed", "InProgress", "RetryableError", "NonRetryableError", "Stopped")
    return {
        "TrainingJobStatusCounters": {name: jobs[name] for name in names},
        "ObjectiveStatusCounters": {name: objectives[name] for name in ("Succeeded", "Pending", "Failed")},
    }


def _counter(child: Document) -> str:
    if not is_over(child):
        return "InProgress"
    if child["TrainingJobStatus"] == "Failed":
        return "RetryableError" if is_lost(child) else "NonRetryableError"
    return str(child["TrainingJobStatus"])


def best(children: Iterable[Document]) -> Document | None:
    """The training job with the best objective; the first of several."""
    succeeded = [child for child in children if child["ObjectiveStatus"] == "Succeeded"]
    if not succeeded:
        return None
    choose: Any = max if succeeded[0]["Objective"]["Type"] == "Maximize" else min
    return dict(choose(succeeded, key=final_value))


def final_value(child: Document) -> float:
    return float(child["FinalHyperParameterTuningJobObjectiveMetric"]["Value"])
