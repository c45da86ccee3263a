"""Retry-safe SageMaker jobs: the provider's operators, made to describe before they create.

The provider's operators create a job at each try, so a worker that dies while a job runs pays for two. Here a
job's name derives from the task instance, and a try first looks for it:

- running or completed: adopted,
- failed, stopped or stopping: replaced, under the next name (`-1`, `-2`, …),
- absent: created.

A killed task stops its job, a job that ends `Stopped` fails its task, and in deferrable mode the trigger waits as
long as the job may run.

https://github.com/apache/airflow/issues/42423 is one of the reports on the provider's behaviour; this module can go
when its operators adopt jobs and implement `on_kill`.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.hooks.logs import AwsLogsHook
from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from airflow.providers.amazon.aws.operators.sagemaker import SageMakerBaseOperator, serialize
from airflow.providers.amazon.aws.triggers.sagemaker import SageMakerTrigger
from airflow.providers.common.compat.sdk import AirflowException
from botocore.exceptions import ClientError

from evergreen import lineage_events, names

if TYPE_CHECKING:
    from airflow.sdk import Context

RUNNING = frozenset({"InProgress"})
REPLACED = frozenset({"Failed", "Stopped", "Stopping"})
# Names tried before giving up: more failed jobs of one task instance than this is no accident.
MAX_REPLACEMENTS = 20


@dataclass(frozen=True)
class JobKind:
    """How one kind of job is called in SageMaker's API and in the provider."""

    trigger_type: str
    name_key: str
    status_key: str
    result_key: str
    describe: Callable[[SageMakerHook, str], dict[str, Any]]
    stop: str
    log_group: str | None = None
    name_length: int = names.JOB_NAME_LENGTH


TRAINING = JobKind(
    "training", "TrainingJobName", "TrainingJobStatus", "Training",
    SageMakerHook.describe_training_job, "stop_training_job", "/aws/sagemaker/TrainingJobs",
)  # fmt: skip
TUNING = JobKind(
    "tuning", "HyperParameterTuningJobName", "HyperParameterTuningJobStatus", "Tuning",
    SageMakerHook.describe_tuning_job, "stop_hyper_parameter_tuning_job",
    name_length=names.TUNING_JOB_NAME_LENGTH,
)  # fmt: skip
PROCESSING = JobKind(
    "processing", "ProcessingJobName", "ProcessingJobStatus", "Processing",
    SageMakerHook.describe_processing_job, "stop_processing_job", "/aws/sagemaker/ProcessingJobs",
)  # fmt: skip
TRANSFORM = JobKind(
    "transform", "TransformJobName", "TransformJobStatus", "Transform",
    SageMakerHook.describe_transform_job, "stop_transform_job",
)  # fmt: skip


@contextmanager
def without_waiting(operator: Any) -> Generator[None]:
    """Have one of the provider's operators start its work and neither wait nor defer: we do, in our own way."""
    waits, defers = operator.wait_for_completion, operator.deferrable
    operator.wait_for_completion = operator.deferrable = False
    try:
        yield
    finally:
        operator.wait_for_completion, operator.deferrable = waits, defers


class DurableSageMakerTrigger(SageMakerTrigger):
    """The provider's trigger, which also stops the job when a user ends the deferred task."""

    async def on_kill(self) -> None:
        kind = next(
            kind for kind in (TRAINING, TUNING, PROCESSING, TRANSFORM) if kind.trigger_type == self.job_type
        )
        async with await self.hook().get_async_conn() as client:
            try:
                await getattr(client, kind.stop)(**{kind.name_key: self.job_name})
            except ClientError as error:
                # A job that has just ended cannot be stopped: there is nothing left to do.
                self.log.warning("stopping %s: %s", self.job_name, error)


class DurableJob(SageMakerBaseOperator):
    """Mixin before one of the provider's job operators; subclasses set `kind`.

    `self.config` must be complete but for the job's name when `execute_job` is called.
    """

    kind: JobKind
    job_name: str | None = None
    # URIs, when the job has ended.
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()

    # Set by the provider's operators that this is mixed into; check_interval is for the deferred wait.
    wait_for_completion: bool
    deferrable: bool
    check_interval: int

    def execute_job(self, context: "Context", base_name: str, max_runtime: int) -> dict[str, Any]:
        """Adopt or create the job, wait for its end, return the provider's result.

        :param base_name: readable part of the job's name.
        :param max_runtime: seconds which the job may take, for the deferred wait.
        :raises AirflowException: when the job fails or is stopped.
        """
        self.job_name, description = self._find(context, base_name)
        if description is None:
            self._create(context)
        if self.deferrable:
            self._defer(max_runtime)
        return self._ended(self._wait())

    def on_kill(self) -> None:
        if self.job_name is None:
            return
        self.log.warning("the task was killed: stopping %s", self.job_name)
        try:
            getattr(self.hook.conn, self.kind.stop)(**{self.kind.name_key: self.job_name})
        except ClientError as error:
            self.log.warning("stopping %s: %s", self.job_name, error)

    def execute_complete(self, context: "Context", event: dict[str, Any] | None = None) -> dict[str, Any]:
        if event is None or event["status"] != "success":
            raise AirflowException(f"{self.kind.result_key} job did not complete: {event}")
        self.job_name = event["job_name"]
        return self._ended(self.kind.describe(self.hook, event["job_name"]))

    def _ended(self, description: dict[str, Any]) -> dict[str, Any]:
        self.reads, self.writes = lineage_events.of_job(description)
        return self._result(description)

    def _find(self, context: "Context", base_name: str) -> tuple[str, dict[str, Any] | None]:
        instance = context["ti"]
        for attempt in range(MAX_REPLACEMENTS):
            name = names.resource(
                base_name, instance.dag_id, instance.run_id, instance.task_id, instance.map_index,
                length=self.kind.name_length, attempt=attempt,
            )  # fmt: skip
            description = self._describe(name)
            if description is None:
                return name, None
            status = description[self.kind.status_key]
            if status not in REPLACED:
                self.log.info("adopting %s, which is %s", name, status)
                return name, description
            self.log.info("%s is %s: taking the next name", name, status)
        raise AirflowException(f"{MAX_REPLACEMENTS} jobs of this task have failed; the last is {name}")

    def _describe(self, name: str) -> dict[str, Any] | None:
        try:
            return self.kind.describe(self.hook, name)
        except ClientError as error:
            # SageMaker's answer for a job that does not exist.
            if error.response["Error"]["Code"] in {"ValidationException", "ResourceNotFound"}:
                return None
            raise

    def _create(self, context: "Context") -> None:
        self.config.get("Transform", self.config)[self.kind.name_key] = self.job_name
        with without_waiting(self):
            super().execute(context)

    def _defer(self, max_runtime: int) -> None:
        self.defer(
            trigger=DurableSageMakerTrigger(
                job_name=self.job_name,
                job_type=self.kind.trigger_type,
                waiter_delay=self.check_interval,
                waiter_max_attempts=math.ceil(max_runtime / self.check_interval),
                aws_conn_id=self.aws_conn_id,
                region_name=self.region_name,
                verify=self.verify,
                botocore_config=self.botocore_config,
            ),
            method_name="execute_complete",
            timeout=timedelta(seconds=max_runtime),
        )

    def _wait(self) -> dict[str, Any]:
        assert self.job_name
        started, shown, log = time.monotonic(), "", self._log_lines()
        while True:
            description = self.kind.describe(self.hook, self.job_name)
            for line in log:
                if line is None:
                    break
                self.log.info("  %s", line)
            progress = self.progress(description)
            if progress != shown:
                self.log.info("%s: %s (%.0f s)", self.job_name, progress, time.monotonic() - started)
                shown = progress
            status = description[self.kind.status_key]
            if status == "Completed":
                return description
            if status in {"Failed", "Stopped"}:
                reason = (
                    description.get("FailureReason")
                    or description.get("SecondaryStatus")
                    or "no reason given"
                )
                raise AirflowException(f"{self.job_name} ended {status}: {reason}")
            # A job of seconds is noticed within one, a job of hours is not asked for every second.
            time.sleep(min(max((time.monotonic() - started) / 10, 1), 30))

    def progress(self, description: dict[str, Any]) -> str:
        """What to tell a person about a job that is under way."""
        return str(description.get("SecondaryStatus") or description[self.kind.status_key])

    def _log_lines(self) -> Iterator[str | None]:
        """The job's log lines as they come; None when there are no more for now."""
        if self.kind.log_group is None:
            return
        logs = AwsLogsHook(aws_conn_id=self.aws_conn_id, region_name=self.region_name)
        token = AwsLogsHook.ContinuationToken()
        stream = None
        while True:
            try:
                stream = stream or self._log_stream(logs)
                if stream:
                    for event in logs.get_log_events(self.kind.log_group, stream, continuation_token=token):
                        yield event["message"]
            except ClientError as error:
                # The group appears with the first job's first line.
                if error.response["Error"]["Code"] != "ResourceNotFoundException":
                    self.log.warning("reading the job's log: %s", error)
            yield None

    def _log_stream(self, logs: AwsLogsHook) -> str | None:
        found = logs.conn.describe_log_streams(
            logGroupName=self.kind.log_group, logStreamNamePrefix=f"{self.job_name}/", limit=1
        )["logStreams"]
        return found[0]["logStreamName"] if found else None

    def _result(self, description: dict[str, Any]) -> dict[str, Any]:
        return {self.kind.result_key: serialize(description)}
