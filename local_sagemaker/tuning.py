"""Hyperparameter tuning jobs: a search that starts ordinary training jobs."""

import hashlib
import logging
import threading
import time
from collections import Counter
from typing import Any

from optuna.trial import Trial

from local_sagemaker.cloud import ClosedError, Cloud
from local_sagemaker.jobs import RESTARTED, refuse
from local_sagemaker.protocol import ApiError, Document, invalid
from local_sagemaker.resources import Resources, paged
from local_sagemaker.search import STRATEGIES, Search
from local_sagemaker.toolkit import TUNING_METRIC
from local_sagemaker.training import TrainingJobs

log = logging.getLogger(__name__)

POLL_S = 0.1
# As on AWS: when this many jobs have failed and none has succeeded, the rest would fail too.
GIVE_UP_AFTER = 5
UNSUPPORTED = {
    "TrainingJobDefinitions": "more than one training job definition",
    "WarmStartConfig": "warm start",
    "Autotune": "Autotune",
    "HyperParameterTuningJobConfig.StrategyConfig": "strategy configurations",
    "HyperParameterTuningJobConfig.TrainingJobEarlyStoppingType=='Auto'": "early stopping of training jobs",
    "HyperParameterTuningJobConfig.TuningJobCompletionCriteria.BestObjectiveNotImproving": "this criterion",
    "HyperParameterTuningJobConfig.TuningJobCompletionCriteria.ConvergenceDetected": "this criterion",
    "TrainingJobDefinition.HyperParameterTuningResourceConfig": "a choice of instances",
    "TrainingJobDefinition.TuningObjective": "an objective in the training job definition",
    "TrainingJobDefinition.HyperParameterRanges": "ranges in the training job definition",
}
STATUSES = {"Completed": "Completed", "Failed": "NonRetryableError", "Stopped": "Stopped"}


class TuningJobs(Resources):
    """CreateHyperParameterTuningJob and its kin."""

    def __init__(self, cloud: Cloud, training: TrainingJobs) -> None:
        super().__init__(cloud.store, "HyperParameterTuningJob")
        self._cloud = cloud
        self._training = training
        self._lock = threading.Lock()
        self._stops: dict[str, threading.Event] = {}

    def create_job(self, request: Document, region: str) -> Document:
        """CreateHyperParameterTuningJob. Raises ApiError."""
        search = self._check(request)
        name = request[self.name_key]
        document = {**request, self.status_key: "InProgress", "Region": region, "Children": []}
        with self._lock:
            identifier = self.create(name, region, document)
            self._stops[name] = threading.Event()
        threading.Thread(target=self._run, args=(name, search), name=f"tuning {name}", daemon=True).start()
        log.info("tuning job %s: started", name)
        return {self.arn_key: identifier}

    def describe(self, request: Document, region: str) -> Document:
        return self._view(self.get(request[self.name_key], region))

    def list_jobs(self, request: Document, region: str) -> Document:
        output = "HyperParameterTuningJobSummaries"
        answer = self.page(request, output, self.store.all(self.kind))
        answer[output] = [self._view(job) for job in answer[output]]
        return answer

    def list_training_jobs(self, request: Document, region: str) -> Document:
        """ListTrainingJobsForHyperParameterTuningJob."""
        children = self._children(self.get(request[self.name_key], region))
        status = request.get("StatusEquals")
        kept = [child for child in children if status in {None, child["TrainingJobStatus"]}]
        sort_by = request.get("SortBy", "Name")
        if sort_by == "FinalObjectiveMetricValue":
            kept = [child for child in kept if child["ObjectiveStatus"] == "Succeeded"]
        kept.sort(
            key=lambda child: _sort_key(child, sort_by), reverse=request.get("SortOrder") == "Descending"
        )
        return paged(request, "TrainingJobSummaries", kept)

    def stop(self, request: Document, region: str) -> Document:
        """StopHyperParameterTuningJob: also stops the training jobs in progress."""
        name = request[self.name_key]
        with self._lock:
            status = self.get(name, region)[self.status_key]
            if status == "InProgress":
                self.set(name, **{self.status_key: "Stopping"})
                self._stops[name].set()
        if status not in {"InProgress", "Stopping"}:
            raise invalid(f"The request was rejected because the tuning job {name} is in status {status}")
        return {}

    def recover(self) -> None:
        """After a restart. The training jobs have been recovered before."""
        for job in self.store.all(self.kind):
            if job[self.status_key] in {"InProgress", "Stopping"}:
                self._end(job[self.name_key], "Failed", RESTARTED)

    def _check(self, request: Document) -> Search:
        refuse(request, UNSUPPORTED)
        config, definition = request["HyperParameterTuningJobConfig"], request.get("TrainingJobDefinition")
        if not definition:
            raise invalid("TrainingJobDefinition is required")
        if config["Strategy"] not in STRATEGIES:
            raise invalid(
                f"local_sagemaker does not do the strategy {config['Strategy']}, only {', '.join(STRATEGIES)}"
            )
        if "HyperParameterTuningJobObjective" not in config:
            raise invalid("HyperParameterTuningJobConfig.HyperParameterTuningJobObjective is required")
        metric = config["HyperParameterTuningJobObjective"]["MetricName"]
        if metric not in {
            item["Name"] for item in definition["AlgorithmSpecification"].get("MetricDefinitions", [])
        }:
            raise invalid(f"The objective metric {metric} is not among the MetricDefinitions")
        if "MaxNumberOfTrainingJobs" not in config["ResourceLimits"] and config["Strategy"] != "Grid":
            raise invalid("ResourceLimits.MaxNumberOfTrainingJobs is required")
        search = Search(config)
        tuned = {item["Name"] for items in config["ParameterRanges"].values() for item in items}
        if both := tuned & definition.get("StaticHyperParameters", {}).keys():
            raise invalid(f"These hyperparameters are both tuned and static: {', '.join(sorted(both))}")
        self._training.check({"TrainingJobName": "x", **definition})
        return search

    def _run(self, name: str, search: Search) -> None:
        """The tuning job's own thread. Never raises: what goes wrong is the job's FailureReason."""
        status: str
        reason: str | None
        try:
            status, reason = self._tune(name, search)
        except ClosedError:
            return
        except Exception as error:
            if self._cloud.closing.is_set():
                return
            log.exception("tuning job %s", name)
            message = error.message if isinstance(error, ApiError) else f"{type(error).__name__}: {error}"
            status, reason = "Failed", f"InternalServerError: {message}"
        self._end(name, status, reason)
        log.info("tuning job %s: %s", name, status)

    def _tune(self, name: str, search: Search) -> tuple[str, str | None]:
        job = self.get(name)
        config, stop = job["HyperParameterTuningJobConfig"], self._stops[name]
        limits = config["ResourceLimits"]
        deadline = time.monotonic() + limits.get("MaxRuntimeInSeconds", float("inf"))
        running: dict[str, Trial] = {}
        values: list[float | None] = []
        total, done = limits["MaxNumberOfTrainingJobs"], False
        while True:
            stopped = stop.is_set() or time.monotonic() > deadline
            while not (stopped or done) and len(running) < limits["MaxParallelTrainingJobs"] and total:
                trial, tuned = search.ask()
                running[self._start_child(job, trial.number + 1, tuned)] = trial
                total -= 1
            if stopped or done:
                for child in running:
                    self._training.stop_job(child)
            if not running:
                break
            ended = self._next_end(
                list(running), ordered="RandomSeed" in config, interrupt=stopped, stop=stop, deadline=deadline
            )
            if ended:
                values.append(objective_value(self._training.get(ended)))
                search.tell(running.pop(ended), values[-1])
                done = _criterion_met(config, values[-1]) or _hopeless(values)
        if stopped:
            return "Stopped", None if stop.is_set() else "MaxRuntimeInSeconds exceeded"
        if all(value is None for value in values):
            return "Failed", (
                f"No training job succeeded after {len(values)} attempts. Please take a look at the training job "
                "failures to get more details."
            )
        return "Completed", None

    def _next_end(
        self, running: list[str], *, ordered: bool, interrupt: bool, stop: threading.Event, deadline: float
    ) -> str | None:
        """A training job that has ended, None when the tuning job is to stop first.

        With a seed the order is that of the start, whichever ends first: the search then learns the same
        things at the same moments each time, and proposes the same values.
        """
        candidates = running[:1] if ordered else running
        while True:
            for child in candidates:
                if self._training.wait(child, POLL_S / len(candidates)):
                    return child
            if self._cloud.closing.is_set():
                raise ClosedError
            if not interrupt and (stop.is_set() or time.monotonic() > deadline):
                return None

    def _start_child(self, job: Document, number: int, tuned: dict[str, str]) -> str:
        tuning = job[self.name_key]
        suffix = hashlib.sha256(f"{tuning}/{number}".encode()).hexdigest()[:8]
        definition = job["TrainingJobDefinition"]
        objective = job["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]
        request = {key: value for key, value in definition.items() if key != "StaticHyperParameters"}
        request["TrainingJobName"] = f"{tuning}-{number:03d}-{suffix}"
        static = definition.get("StaticHyperParameters", {})
        request["HyperParameters"] = {**static, **tuned, TUNING_METRIC: objective["MetricName"]}
        self._training.create_job(
            request,
            job["Region"],
            TuningJobArn=job[self.arn_key],
            TuningJobName=tuning,
            TunedHyperParameters=tuned,
            Objective=objective,
        )
        with self.store.change(self.kind, tuning) as document:
            document["Children"].append(request["TrainingJobName"])
        return str(request["TrainingJobName"])

    def _end(self, name: str, status: str, reason: str | None) -> None:
        changes: dict[str, Any] = {self.status_key: status, "HyperParameterTuningEndTime": time.time()}
        with self._lock:
            self.set(name, **changes, **({"FailureReason": reason} if reason else {}))

    def _children(self, job: Document) -> list[Document]:
        """The training jobs as HyperParameterTrainingJobSummary."""
        summaries = []
        for child in map(self._training.get, job["Children"]):
            value = objective_value(child)
            ended = child["TrainingJobStatus"] not in {"InProgress", "Stopping"}
            child["ObjectiveStatus"] = "Succeeded" if value is not None else "Failed" if ended else "Pending"
            if value is not None:
                child["FinalHyperParameterTuningJobObjectiveMetric"] = {**child["Objective"], "Value": value}
            child["TrainingJobDefinitionName"] = job["TrainingJobDefinition"].get("DefinitionName")
            summaries.append(child)
        return summaries

    def _view(self, job: Document) -> Document:
        """The document with what follows from its training jobs."""
        children = self._children(job)
        jobs = Counter(STATUSES.get(child["TrainingJobStatus"], "InProgress") for child in children)
        names = ("Completed", "InProgress", "RetryableError", "NonRetryableError", "Stopped")
        job["TrainingJobStatusCounters"] = {name: jobs[name] for name in names}
        objectives = Counter(child["ObjectiveStatus"] for child in children)
        job["ObjectiveStatusCounters"] = {
            name: objectives[name] for name in ("Succeeded", "Pending", "Failed")
        }
        config = job["HyperParameterTuningJobConfig"]
        job |= {"Strategy": config["Strategy"], "ResourceLimits": config["ResourceLimits"]}
        job["ConsumedResources"] = {
            "RuntimeInSeconds": sum(child.get("TrainingTimeInSeconds", 0) for child in children)
        }
        succeeded = [child for child in children if child["ObjectiveStatus"] == "Succeeded"]
        if succeeded:
            best = max if config["HyperParameterTuningJobObjective"]["Type"] == "Maximize" else min
            job["BestTrainingJob"] = best(
                succeeded, key=lambda child: _sort_key(child, "FinalObjectiveMetricValue")
            )
        return job


def objective_value(child: Document) -> float | None:
    """A training job's final objective; None while it runs, when it did not complete, or when it logged none."""
    if child["TrainingJobStatus"] != "Completed":
        return None
    metrics = {item["MetricName"]: item["Value"] for item in child.get("FinalMetricDataList", [])}
    return metrics.get(child["Objective"]["MetricName"])


def _sort_key(child: Document, sort_by: str) -> Any:
    if sort_by == "FinalObjectiveMetricValue":
        return child["FinalHyperParameterTuningJobObjectiveMetric"]["Value"]
    return child[{"Name": "TrainingJobName", "Status": "TrainingJobStatus"}.get(sort_by, sort_by)]


def _criterion_met(config: Document, value: float | None) -> bool:
    target = config.get("TuningJobCompletionCriteria", {}).get("TargetObjectiveMetricValue")
    if target is None or value is None:
        return False
    maximize = config["HyperParameterTuningJobObjective"]["Type"] == "Maximize"
    return bool(value >= target if maximize else value <= target)


def _hopeless(values: list[float | None]) -> bool:
    return len(values) >= GIVE_UP_AFTER and all(value is None for value in values)
