"""A task's SageMaker job or endpoint, as a page shows it; on AWS the console has a better one."""

from dataclasses import dataclass
from typing import Any

from airflow.providers.amazon.aws.hooks.logs import AwsLogsHook
from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from botocore.config import Config
from botocore.exceptions import ClientError

from evergreen import addresses, debugger, durable, endpoints, names, tasks, trials

# task → the kind of its job.
KINDS = {
    "stage_weights": durable.PROCESSING,
    "extract_features": durable.PROCESSING,
    "tune": durable.TUNING,
    "retrain": durable.TRAINING,
    "assess": durable.PROCESSING,
    "batch_predict": durable.TRANSFORM,
}
ENDPOINT_TASK = "deploy.endpoint"
LOG_LINES = 100
MOST_TRIALS = 100


@dataclass(frozen=True)
class Job:
    name: str
    kind: durable.JobKind
    description: dict[str, Any]

    @property
    def status(self) -> str:
        return str(self.description[self.kind.status_key])


def hook() -> SageMakerHook:
    # A person waits for the page.
    quick = Config(connect_timeout=3, read_timeout=10, retries={"total_max_attempts": 2})
    return SageMakerHook(aws_conn_id=tasks.AWS_CONN_ID, config=quick)


def find(sagemaker: SageMakerHook, dag_id: str, pipeline: str, run_id: str, task_id: str) -> Job | None:
    """The task's newest job, by the names that its tries give them; None before the first.

    So a page shows the jobs of a run that its reader may see, and no others.
    """
    kind, found = KINDS[task_id], None
    for attempt in range(durable.MAX_REPLACEMENTS):
        name = names.resource(
            names.job(pipeline, task_id, kind.name_length),
            dag_id,
            run_id,
            task_id,
            -1,
            length=kind.name_length,
            attempt=attempt,
        )
        try:
            found = Job(name, kind, kind.describe(sagemaker, name))
        except ClientError as error:
            if error.response["Error"]["Code"] in {"ValidationException", "ResourceNotFound"}:
                break
            raise
    return found


def console(sagemaker: SageMakerHook, kind: str, name: str) -> str | None:
    """The page of SageMaker's console; None for the local cloud, which has none."""
    if addresses.is_local(sagemaker.conn_config.get_service_endpoint_url("sagemaker")):
        return None
    return addresses.console(kind, name, sagemaker.conn_region_name, sagemaker.conn_partition)


def facts(sagemaker: SageMakerHook, job: Job) -> dict[str, Any]:
    """What `job.html.j2` shows."""
    described = job.description
    started = described.get("TrainingStartTime") or described.get("ProcessingStartTime")
    ended = next(
        (
            described[key]
            for key in (
                "TrainingEndTime",
                "ProcessingEndTime",
                "HyperParameterTuningEndTime",
                "TransformEndTime",
            )
            if described.get(key)
        ),
        None,
    )
    started = started or described.get("TransformStartTime") or described["CreationTime"]
    until = ended or described.get("LastModifiedTime")
    return {
        "name": job.name,
        "kind": job.kind.trigger_type,
        "status": job.status,
        "detail": described.get("SecondaryStatus"),
        "failure": described.get("FailureReason"),
        "running": job.status in durable.RUNNING,
        "times": {"created": described["CreationTime"], "started": started, "ended": ended},
        "seconds": (until - started).total_seconds() if until else None,
        "metrics": described.get("FinalMetricDataList", []),
        "hyperparameters": described.get("HyperParameters", {}),
        "rules": debugger.statuses(described),
        "tuning": _tuning(sagemaker, described) if job.kind is durable.TUNING else None,
        "log": _log(job),
    }


def endpoint(sagemaker: SageMakerHook, name: str) -> dict[str, Any] | None:
    """What `endpoint.html.j2` and the overview show; None when there is no such endpoint."""
    described = endpoints.describe(sagemaker, name)
    if described is None:
        return None
    serving = endpoints.champion(sagemaker, name) or {}
    return {
        "name": name,
        "status": described["EndpointStatus"],
        "failure": described.get("FailureReason"),
        "changed": described["LastModifiedTime"],
        "endpoint_config": described["EndpointConfigName"],
        "previous_endpoint_config": serving.get("previous_endpoint_config"),
        "model": serving.get("model"),
        "model_data": serving.get("model_data"),
    }


def _tuning(sagemaker: SageMakerHook, described: dict[str, Any]) -> dict[str, Any]:
    objective = described["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]
    found = trials.listed(sagemaker, described["HyperParameterTuningJobName"])
    sign = 1 if objective["Type"] == "Minimize" else -1
    found.sort(key=lambda trial: (trial["objective"] is None, sign * (trial["objective"] or 0)))
    return {
        "objective": objective["MetricName"],
        "type": objective["Type"].lower(),
        "count": len(found),
        "trials": found[:MOST_TRIALS],
        "parameters": sorted({name for trial in found for name in trial["hyperparameters"]}),
    }


def _log(job: Job) -> list[str] | None:
    """The log's last lines; None for a kind of job without a log of its own."""
    if job.kind.log_group is None:
        return None
    logs = AwsLogsHook(aws_conn_id=tasks.AWS_CONN_ID).conn
    try:
        streams = logs.describe_log_streams(
            logGroupName=job.kind.log_group, logStreamNamePrefix=f"{job.name}/", limit=1
        )["logStreams"]
        if not streams:
            return []
        events = logs.get_log_events(
            logGroupName=job.kind.log_group, logStreamName=streams[0]["logStreamName"], limit=LOG_LINES,
            startFromHead=False,
        )["events"]  # fmt: skip
    except ClientError as error:
        # The group appears with the first job's first line.
        if error.response["Error"]["Code"] == "ResourceNotFoundException":
            return []
        raise
    return [event["message"] for event in events]
