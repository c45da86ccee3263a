"""Hyperparameter tuning jobs: a search that starts ordinary training jobs."""

import logging
import secrets
import threading
import time
from typing import Any

from local_sagemaker.api.protocol import ApiError, Document, invalid
from local_sagemaker.api.resources import Resources, paged
from local_sagemaker.cloud import ClosedError, Cloud
from local_sagemaker.jobs.training import TrainingJobs
from local_sagemaker.tuning.client import Searches
from local_sagemaker.tuning.request import check, child_request
from local_sagemaker.tuning.summaries import best, child_names, counters, final_value, summaries
from local_sagemaker.tuning.tuner import KIND, Tuner
from local_sagemaker.tuning.warm_start import check_parents, is_identical, parent_names

log = logging.getLogger(__name__)

# As the API reference has it for both lists.
PAGE = {"MaxResults": 10}


class TuningJobs(Resources):
    """CreateHyperParameterTuningJob and its kin."""

    def __init__(self, cloud: Cloud, training: TrainingJobs) -> None:
        super().__init__(cloud.store, KIND)
        self._cloud = cloud
        self._training = training
        self._searches = Searches(cloud)
        self._lock = threading.Lock()
        self._stops: dict[str, threading.Event] = {}

    def create_job(self, request: Document, region: str) -> Document:
        """CreateHyperParameterTuningJob. Raises ApiError."""
        self._add_metrics(request)
        self._check(request)
        name = request[self.name_key]
        seed = request["HyperParameterTuningJobConfig"].get("RandomSeed", secrets.randbits(32))
        document = {
            **request,
            self.status_key: "InProgress",
            "Region": region,
            "Seed": seed,
            "Trials": [],
            "TuningJobCompletionDetails": {"NumberOfTrainingJobsObjectiveNotImproving": 0},
        }
        with self._lock:
            identifier = self.create(name, region, document)
            self._start(name)
        log.info("tuning job %s: started", name)
        return {self.arn_key: identifier}

    def describe(self, request: Document, region: str) -> Document:
        return self._view(self.get(request[self.name_key], region))

    def list_jobs(self, request: Document, region: str) -> Document:
        output = "HyperParameterTuningJobSummaries"
        answer = self.page({**PAGE, **request}, output, self.store.all(self.kind))
        answer[output] = [self._view(job) for job in answer[output]]
        return answer

    def list_training_jobs(self, request: Document, region: str) -> Document:
        """ListTrainingJobsForHyperParameterTuningJob."""
        children = summaries(self._training, self.get(request[self.name_key], region))
        status = request.get("StatusEquals")
        kept = [child for child in children if status in {None, child["TrainingJobStatus"]}]
        sort_by = request.get("SortBy", "Name")
        if sort_by == "FinalObjectiveMetricValue":
            # "Any training jobs that did not return an objective metric are not listed."
            kept = [child for child in kept if child["ObjectiveStatus"] == "Succeeded"]
        descending = request.get("SortOrder") == "Descending"
        kept.sort(key=lambda child: _sort_key(child, sort_by), reverse=descending)
        return paged({**PAGE, **request}, "TrainingJobSummaries", kept)

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
        """After a restart: tuning jobs go on. The training jobs have been recovered before."""
        for job in self.store.all(self.kind):
            if job[self.status_key] in {"InProgress", "Stopping"}:
                log.info("tuning job %s: goes on", job[self.name_key])
                self._start(job[self.name_key], stopping=job[self.status_key] == "Stopping")

    def _add_metrics(self, request: Document) -> None:
        """A built-in algorithm has metrics of its own."""
        several = request.get("TrainingJobDefinitions", [])
        for definition in several or filter(None, [request.get("TrainingJobDefinition")]):
            algorithm = definition["AlgorithmSpecification"]
            if "MetricDefinitions" not in algorithm and "TrainingImage" in algorithm:
                image = self._cloud.images.find(algorithm["TrainingImage"])
                algorithm["MetricDefinitions"] = [*image.metric_definitions]

    def _check(self, request: Document) -> None:
        definitions = check(request)
        for definition in definitions:
            self._training.check(child_request(request, definition, "x", {}))
        if "WarmStartConfig" in request:
            parents = [self.get(name) for name in parent_names(request)]
            check_parents(request, definitions[0], parents)

    def _start(self, name: str, *, stopping: bool = False) -> None:
        stop = self._stops[name] = threading.Event()
        if stopping:
            stop.set()
        tuner = Tuner(self._cloud, self._training, self._searches, name, stop)
        thread = threading.Thread(target=self._run, args=(name, tuner), name=f"tuning {name}", daemon=True)
        thread.start()

    def _run(self, name: str, tuner: Tuner) -> None:
        """The tuning job's own thread. Never raises: what goes wrong is the job's FailureReason."""
        status: str
        reason: str | None
        try:
            status, reason = tuner.run()
        except ClosedError:
            return
        except Exception as error:
            if self._cloud.closing.is_set():
                return
            log.exception("tuning job %s", name)
            message = error.message if isinstance(error, ApiError) else f"{type(error).__name__}: {error}"
            status, reason = "Failed", f"InternalServerError: {message}"
            for child in child_names(self.get(name)):
                self._training.stop_job(child)
        self._end(name, status, reason)

    def _end(self, name: str, status: str, reason: str | None) -> None:
        with self._lock:
            stopped = self._stops.pop(name).is_set()
            # It may have been asked to stop at the very end.
            if stopped and status == "Completed":
                status = "Stopped"
            changes: dict[str, Any] = {self.status_key: status, "HyperParameterTuningEndTime": time.time()}
            self.set(name, **changes, **({"FailureReason": reason} if reason else {}))
        log.info("tuning job %s: %s", name, status)

    def _view(self, job: Document) -> Document:
        """The document with what follows from its training jobs."""
        children = summaries(self._training, job)
        config = job["HyperParameterTuningJobConfig"]
        end = job.get("HyperParameterTuningEndTime", time.time())
        job |= {
            **counters(children),
            "Strategy": config["Strategy"],
            "ResourceLimits": config["ResourceLimits"],
            "ConsumedResources": {"RuntimeInSeconds": int(end - job["CreationTime"])},
            "BestTrainingJob": best(children),
        }
        if is_identical(job):
            parents = (self.store.get(self.kind, name) for name in parent_names(job))
            others = [child for parent in parents if parent for child in summaries(self._training, parent)]
            job["OverallBestTrainingJob"] = best([*others, *children])
        return job


def _sort_key(child: Document, sort_by: str) -> Any:
    if sort_by == "FinalObjectiveMetricValue":
        return final_value(child)
    return child[{"Name": "TrainingJobName", "Status": "TrainingJobStatus"}.get(sort_by, sort_by)]
