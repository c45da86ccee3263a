"""The DAG's operators up to the report: the provider's, extended to be safe to retry.

Each takes `inputs`: which earlier task returned which argument of the request builder in `requests.py` that it calls
when it runs. They are task ids and not XComArgs, so that the graph shows the order of the steps and not an arrow for
each value; the DAG's chain runs every one of them before.
"""

import hashlib
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.amazon.aws.operators.sagemaker import (
    SageMakerBaseOperator,
    SageMakerProcessingOperator,
    SageMakerTrainingOperator,
    SageMakerTuningOperator,
)
from airflow.providers.common.compat.sdk import AirflowFailException

from evergreen import (
    assess_context,
    debugger,
    durable,
    endpoints,
    features,
    lineage,
    lineage_events,
    metrics,
    names,
    requests,
    trials,
)
from evergreen.plan import Plan
from evergreen.source_code import local_path

if TYPE_CHECKING:
    from airflow.sdk import Context

# Rules that SageMaker evaluates end minutes after the training: how long they are waited for, and how often looked at.
RULES_LIMIT_S, RULES_PAUSE_S = 1800, 5


# What SageMaker's ARNs call it.
TUNING_JOB = "hyper-parameter-tuning-job"


class FromPlan(SageMakerBaseOperator):
    """An operator whose configuration is built when it runs, from what earlier tasks returned.

    :param inputs: argument → task id; the plan is always the task `plan`.
    """

    # URIs of what the task has read and written, set when it has.
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()

    def __init__(self, *, inputs: dict[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(config={}, **kwargs)
        self.inputs = inputs or {}

    def pull(self, context: "Context") -> dict[str, Any]:
        """Set `self.plan`; return what the tasks of `inputs` returned."""
        instance = context["ti"]
        self.plan = Plan.model_validate(instance.xcom_pull(task_ids="plan"))
        return {argument: instance.xcom_pull(task_ids=task_id) for argument, task_id in self.inputs.items()}

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        return lineage_events.facets(self.reads, self.writes)

    @property
    def s3(self) -> S3Hook:
        return S3Hook(aws_conn_id=self.aws_conn_id, extra_args=self.plan.s3_arguments)


class PlannedJob(durable.DurableJob, FromPlan):
    """A job of the plan: named after the pipeline and the task, limited by the pipeline's time limit."""

    def run_job(self, context: "Context", rounds: int = 1) -> dict[str, Any]:
        """:param rounds: how many jobs, one after another, the time limit is for."""
        plan = self.plan
        base_name = names.job(plan.pipeline_name, self.task_id, self.kind.name_length)
        # The limit is on the script; getting a machine, the data and the archives comes on top.
        return self.execute_job(context, base_name, rounds * (plan.pipeline.compute.time_limit_seconds + 900))

    def execute_complete(self, context: "Context", event: dict[str, Any] | None = None) -> dict[str, Any]:
        self.pull(context)
        return super().execute_complete(context, event)


class StageWeightsOperator(PlannedJob, SageMakerProcessingOperator):
    """Pretrained weights → S3, once: no training, feature or endpoint container downloads any.

    Returns `{"name", "uri"}`, or None for random weights. `name` is torchvision's, or the URI of somebody's own.
    """

    kind = durable.PROCESSING

    def execute(self, context: "Context") -> dict[str, Any] | None:
        inputs = self.pull(context)
        wanted = self.plan.pipeline.model.weights
        if wanted == "none":
            self.log.info("model.weights is 'none': they are drawn from the seed")
            return None
        if wanted.startswith("s3://"):
            if not self.s3.check_for_key(wanted):
                raise AirflowFailException(f"model.weights: there is no object {wanted}")
            return {"name": wanted, "uri": wanted}
        if (file := local_path(wanted)).is_file():
            return self._upload(file)
        if self.s3.check_for_key(f"{self.uri}/weights.json"):
            self.log.info("found the weights that an earlier run has fetched: %s", self.uri)
            self.writes = (self.uri,)
            return self._staged()
        self.config = requests.fetch_weights(self.plan, inputs["code"], self.uri)
        return self.run_job(context)

    def pull(self, context: "Context") -> dict[str, Any]:
        inputs = super().pull(context)
        model = self.plan.pipeline.model
        # Of no pipeline: the next one with the same network finds them. DEFAULT may mean others in another image.
        address = names.digest(model.arch, model.weights, self.plan.training_image)
        folder = f"{names.slug(f'{model.arch}-{model.weights}')}-{address}"
        self.uri = f"s3://{self.plan.bucket}/{self.plan.pipeline.compute.prefix}/weights/{folder}"
        return inputs

    def _upload(self, file: Path) -> dict[str, Any]:
        with file.open("rb") as opened:
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
        uri = f"{self.uri.rpartition('/')[0]}/{sha256[:16]}/{file.name}"
        if not self.s3.check_for_key(uri):
            bucket, key = self.s3.parse_s3_url(uri)
            self.s3.load_file(file, key, bucket)
        return {"name": uri, "uri": uri}

    def _result(self, description: dict[str, Any]) -> dict[str, Any]:
        return self._staged()

    def _staged(self) -> dict[str, Any]:
        return {"name": self.plan.pipeline.model.weights, "uri": f"{self.uri}/weights.safetensors"}


class ExtractFeaturesOperator(PlannedJob, SageMakerProcessingOperator):
    """The frozen trunk's output for each image, once per content address; only what is missing is computed.

    Returns `{"uri", "computed", "unreadable", "job": {"name", "seconds", "instances"} | None}`, or None where nothing
    is frozen.
    """

    kind = durable.PROCESSING

    def execute(self, context: "Context") -> dict[str, Any] | None:
        inputs = self.pull(context)
        if self.plan.pipeline.model.tail == "all":
            self.log.info("model.tail is 'all': nothing is frozen, so there is nothing to compute once")
            return None
        if found := features.find(self.s3, self.uri):
            self.log.info("found the features of an earlier run: %s", self.uri)
            self.reads, self.writes = (self.dataset["dataset_uri"],), (self.uri,)
            return {"uri": self.uri, "computed": False, "unreadable": found["unreadable"], "job": None}
        manifests = features.missing(self.s3, self.uri, self.dataset["manifests"])
        if not manifests and features.has_trunk(self.s3, self.uri):
            self.log.info("found every part of the features of a run that did not end: %s", self.uri)
            self.reads, self.writes = (self.dataset["dataset_uri"],), (self.uri,)
            return self._finish(None)
        self.config = requests.extract_features(
            self.plan, **inputs, manifests=manifests, features_uri=self.uri
        )
        return self.run_job(context)

    def pull(self, context: "Context") -> dict[str, Any]:
        inputs = super().pull(context)
        self.dataset = inputs["dataset"]
        self.uri = features.address(self.plan, **inputs)
        return inputs

    def _result(self, description: dict[str, Any]) -> dict[str, Any]:
        job = {
            "name": description["ProcessingJobName"],
            "seconds": trials.seconds(description["ProcessingStartTime"], description["ProcessingEndTime"]),
            "instances": description["ProcessingResources"]["ClusterConfig"]["InstanceCount"],
        }
        return self._finish(job)

    def _finish(self, job: dict[str, Any] | None) -> dict[str, Any]:
        limit = self.plan.pipeline.dataset.max_unreadable
        try:
            summary = features.finish(self.s3, self.uri, self.dataset, limit, self.job_name)
        except features.FeaturesError as error:
            raise AirflowFailException(str(error)) from error
        return {"uri": self.uri, "computed": True, "unreadable": summary["unreadable"], "job": job}


class TuneOperator(PlannedJob, SageMakerTuningOperator):
    """Returns the provider's `{"Tuning": …}` and, as `TrainingJobs`, every trial."""

    kind = durable.TUNING

    def execute(self, context: "Context") -> dict[str, Any]:
        inputs = self.pull(context)
        self.config = requests.tune(self.plan, **inputs)
        tuning = self.plan.pipeline.tuning
        return self.run_job(context, rounds=math.ceil(tuning.max_jobs / tuning.max_parallel_jobs))

    def progress(self, description: dict[str, Any]) -> str:
        counters = description["TrainingJobStatusCounters"]
        text = f"{counters['Completed']} of {self.plan.pipeline.tuning.max_jobs} trials completed"
        text += f", {counters['InProgress']} running" if counters["InProgress"] else ""
        best = description.get("BestTrainingJob")
        if best:
            metric = best["FinalHyperParameterTuningJobObjectiveMetric"]
            text += f", best {metric['MetricName']} {metric['Value']:.4f} with {best['TunedHyperParameters']}"
        return text

    def _log_lines(self) -> Iterator[str | None]:
        """A tuning job has no log of its own; what its trials come to is what a person waits for."""
        assert self.job_name
        objective = self.plan.pipeline.tuning.objective
        minimize = requests.OBJECTIVES[objective] == "Minimize"
        return trials.lines(self.hook, self.job_name, objective, minimize=minimize)

    def _result(self, description: dict[str, Any]) -> dict[str, Any]:
        assert self.job_name
        self.writes = (*self.writes, lineage_events.sagemaker(self.plan, TUNING_JOB, self.job_name))
        return {**super()._result(description), "TrainingJobs": trials.listed(self.hook, self.job_name)}


def _rules_limit(training_job: dict[str, Any]) -> float:
    """When the rules of a training job that has ended are given up on, an epoch time."""
    return float(training_job["TrainingEndTime"].timestamp()) + RULES_LIMIT_S


class RetrainTrigger(durable.DurableSageMakerTrigger):
    """Which also waits for the rules that SageMaker evaluates beside the training."""

    def is_over(self, description: dict[str, Any]) -> bool:
        return super().is_over(description) and (
            not debugger.pending(description) or time.time() >= _rules_limit(description)
        )


class RetrainOperator(PlannedJob, SageMakerTrainingOperator):
    """The best trial's hyperparameters again, under debugger and profiler. Returns `{"Training": …}`.

    Where SageMaker evaluates the rules, the task ends when they have ended too.
    """

    kind, trigger = durable.TRAINING, RetrainTrigger

    def __init__(self, **kwargs: Any) -> None:
        # The provider's own log streaming waits 30 s between two looks at the job; DurableJob streams instead.
        super().__init__(print_log=False, check_if_job_exists=False, **kwargs)

    def execute(self, context: "Context") -> dict[str, Any]:
        inputs = self.pull(context)
        try:
            self.config = requests.retrain(self.plan, **inputs)
        except ValueError as error:
            raise AirflowFailException(str(error)) from error
        return self.run_job(context)

    def pull(self, context: "Context") -> dict[str, Any]:
        inputs = super().pull(context)
        self.tuning_name = inputs["tuning"]["Tuning"]["HyperParameterTuningJobName"]
        return inputs

    def _create(self, context: "Context") -> None:
        if debugger.is_managed(self.plan):
            assert self.job_name
            self.config |= debugger.managed(self.plan, self.job_name, str(self.hook.conn_region_name))
        super()._create(context)

    def _ended(self, description: dict[str, Any]) -> dict[str, Any]:
        result = super()._ended(self._after_rules(description, _rules_limit(description)))
        self.reads = (*self.reads, lineage_events.sagemaker(self.plan, TUNING_JOB, self.tuning_name))
        return result

    def _after_rules(self, description: dict[str, Any], limit: float) -> dict[str, Any]:
        """The job when none of its rules is being evaluated, or when it is `limit`, an epoch time."""
        while (names := debugger.pending(description)) and time.time() < limit:
            self.log.info("%s: rules are still evaluated: %s", self.job_name, ", ".join(names))
            time.sleep(RULES_PAUSE_S)
            description = self.kind.describe(self.hook, description["TrainingJobName"])
        for status in debugger.statuses(description):
            self.log.info("rule %s: %s %s", status["name"], status["status"], status["details"])
        return description


class AssessOperator(PlannedJob, SageMakerProcessingOperator):
    """Rules, test-set evaluation, report. Returns where they are, the verdict, and what served before."""

    kind = durable.PROCESSING

    def __init__(self, **kwargs: Any) -> None:
        # export_report takes three of the values by their keys.
        super().__init__(multiple_outputs=True, **kwargs)

    def execute(self, context: "Context") -> dict[str, Any]:
        inputs = self.pull(context)
        plan = self.plan
        champion = endpoints.champion(self.hook, plan.endpoint_name)
        context_uri = f"{plan.run_uri}/context.json"
        previous = lineage.previous(self.s3, plan, champion)
        document = assess_context.build(plan, champion=champion, previous=previous, **inputs)
        self.s3.load_string(json.dumps(document, indent=1), context_uri, replace=True)
        self.config = requests.assess(
            plan, inputs["dataset"], inputs["code"], inputs["training"], self._archive(champion), context_uri,
            self._train_sample(inputs["dataset"]), self._platform_outputs(inputs["training"]["Training"]),
        )  # fmt: skip
        return self.run_job(context)

    def is_current(self, description: dict[str, Any]) -> bool:
        """A job that compared the model with another champion than the one that serves now is none to adopt."""
        return _champion(description) == _champion(self.config)

    def _train_sample(self, dataset: dict[str, Any]) -> str:
        uri = f"{self.plan.run_uri}/train-sample.manifest"
        manifest = json.loads(self.s3.read_key(dataset["manifests"]["train"]))
        self.s3.load_string(json.dumps(requests.train_sample(manifest)), uri, replace=True)
        return uri

    def _archive(self, champion: dict[str, Any] | None) -> str | None:
        """The champion's archive, when it is there: an input that is not would fail the job, and the report be lost."""
        if champion is None:
            return None
        model_data: str = champion["model_data"]
        if self.s3.check_for_key(model_data):
            return model_data
        self.log.warning("the archive of what serves is not there, so nothing is compared: %s", model_data)
        return None

    def _platform_outputs(self, training: dict[str, Any]) -> dict[str, str]:
        """What SageMaker uploaded for debugger and profiler, where there is any: an empty input fails a job."""
        if not debugger.is_managed(self.plan):
            return {}
        uris = {
            name: f"{self.plan.run_uri}/{training['TrainingJobName']}/{name}"
            for name in ("debug-output", "profiler-output")
        }
        places = {name: self.s3.parse_s3_url(uri) for name, uri in uris.items()}
        return {
            name: uris[name]
            for name, (bucket, key) in places.items()
            if self.s3.list_keys(bucket, prefix=f"{key}/", max_items=1)
        }

    def _result(self, description: dict[str, Any]) -> dict[str, Any]:
        plan = self.plan
        report = json.loads(self.s3.read_key(f"{requests.assess_uri(plan)}/report.json"))
        context = json.loads(self.s3.read_key(f"{plan.run_uri}/context.json"))
        verdict = report["verdict"]
        self.log.info("%s: %s", verdict["decision"], " ".join(verdict["reasons"]))
        metrics.of_report(plan.pipeline_name, report)
        return {
            "uri": requests.assess_uri(plan),
            "report_uri": plan.report_uri,
            "kms_key_id": plan.pipeline.compute.output_kms_key_id,
            "verdict": verdict,
            "accuracy": report["metrics"]["accuracy"],
            # The archive to deploy where it is not the training job's own: the quantised model.
            "archive": f"{requests.assess_uri(plan)}/{archive}"
            if (archive := report["int8"]["archive"])
            else None,
            "model_version": report["model"]["version"],
            "champion": context["champion"],
        }


def _champion(job: dict[str, Any]) -> str | None:
    """The archive that an assess job compares with."""
    uris = {given["InputName"]: given["S3Input"]["S3Uri"] for given in job["ProcessingInputs"]}
    return uris.get("champion")
