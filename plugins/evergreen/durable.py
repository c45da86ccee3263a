"""Retry-safe SageMaker jobs: the provider's operators, made to describe before they create.

The provider's operators create a job at each try, so a worker that dies while a job runs pays for two. Here a
job's name derives from the task instance, and a try first looks for it:

- running or completed: adopted,
- failed, stopped or stopping: replaced, under the next name (`-1`, `-2`, …),
- absent: created.

A killed task stops its job, a job that ends `Stopped` fails its task, and in deferrable mode a trigger waits as long as
the job may run; the job's log is then in the task's when it has ended.

https://github.com/apache/airflow/issues/42423 is one of the reports on the provider's behaviour; this module can go
when its operators adopt jobs and implement `on_kill`.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.hooks.logs import AwsLogsHook
from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from airflow.providers.amazon.aws.operators.sagemaker import SageMakerBaseOperator, serialize
from airflow.providers.amazon.aws.triggers.sagemaker import SageMakerTrigger
from airflow.providers.common.compat.sdk import AirflowException
from airflow.triggers.base import TriggerEvent
from botocore.exceptions import ClientError

from evergreen import lineage_events, names

if TYPE_CHECKING:
    from airflow.sdk import Context

RUNNING = frozenset({"InProgress"})
REPLACED = frozenset({"Failed", "Stopped", "Stopping"})
ENDED = frozenset({"Completed", "Failed", "Stopped"})
# Names tried before giving up: more failed jobs of one task instance than this is no accident.
MAX_REPLACEMENTS = 20


@dataclass(frozen=True)
class JobKind:
    """How one kind of job is called in SageMaker's API and in the provider."""

    trigger_type: str
    api: str
    """As in `describe_API` and `stop_API` of a client."""
    name_key: str
    status_key: str
    result_key: str
    log_group: str | None = None
    name_length: int = names.JOB_NAME_LENGTH

    def describe(self, hook: SageMakerHook, name: str) -> dict[str, Any]:
        description: dict[str, Any] = getattr(hook.conn, f"describe_{self.api}")(**{self.name_key: name})
        return description


TRAINING = JobKind(
    "training",
    "training_job",
    "TrainingJobName",
    "TrainingJobStatus",
    "Training",
    "/aws/sagemaker/TrainingJobs",
)
TUNING = JobKind(
    "tuning", "hyper_parameter_tuning_job", "HyperParameterTuningJobName", "HyperParameterTuningJobStatus", "Tuning",
    name_length=names.TUNING_JOB_NAME_LENGTH,
)  # fmt: skip
PROCESSING = JobKind(
    "processing", "processing_job", "ProcessingJobName", "ProcessingJobStatus", "Processing",
    "/aws/sagemaker/ProcessingJobs",
)  # fmt: skip
TRANSFORM = JobKind("transform", "transform_job", "TransformJobName", "TransformJobStatus", "Transform")
KINDS = {kind.trigger_type: kind for kind in (TRAINING, TUNING, PROCESSING, TRANSFORM)}


def pause(waited: float, longest: float = 30) -> float:
    """Seconds between two looks at what has been waited for: what takes seconds is noticed within one, what takes hours
    is not asked for every second.
    """
    return min(max(waited / 10, 1), longest)


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
    """The provider's trigger, which looks more often at first, and stops the job when a user ends the deferred task.

    It fires when the job has ended, or when `waiter_max_attempts` times `waiter_delay` seconds are over.
    """

    async def run(self) -> AsyncIterator[TriggerEvent]:
        kind, began, shown = KINDS[self.job_type], time.monotonic(), ""
        async with await self.hook().get_async_conn() as client:
            while (waited := time.monotonic() - began) < self.waiter_delay * self.attempts:
                description = await getattr(client, f"describe_{kind.api}")(**{kind.name_key: self.job_name})
                if self.is_over(description):
                    break
                progress = str(description.get("SecondaryStatus") or description[kind.status_key])
                if progress != shown:
                    self.log.info("%s: %s (%.0f s)", self.job_name, progress, waited)
                    shown = progress
                await asyncio.sleep(pause(waited, self.waiter_delay))
        yield TriggerEvent({"job_name": self.job_name})

    def is_over(self, description: dict[str, Any]) -> bool:
        return description[KINDS[self.job_type].status_key] in ENDED

    async def on_kill(self) -> None:
        kind = KINDS[self.job_type]
        async with await self.hook().get_async_conn() as client:
            try:
                await getattr(client, f"stop_{kind.api}")(**{kind.name_key: self.job_name})
            except ClientError as error:
                # A job that has just ended cannot be stopped: there is nothing left to do.
                self.log.warning("stopping %s: %s", self.job_name, error)


class DurableJob(SageMakerBaseOperator):
    """Mixin before one of the provider's job operators; subclasses set `kind`.

    `self.config` must be complete but for the job's name when `execute_job` is called.
    """

    kind: JobKind
    trigger: type[DurableSageMakerTrigger] = DurableSageMakerTrigger
    job_name: str | None = None
    # URIs, when the job has ended.
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()

    # Set by the provider's operators that this is mixed into; check_interval is the longest pause of the deferred wait.
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
            getattr(self.hook.conn, f"stop_{self.kind.api}")(**{self.kind.name_key: self.job_name})
        except ClientError as error:
            self.log.warning("stopping %s: %s", self.job_name, error)

    def execute_complete(self, context: "Context", event: dict[str, Any] | None = None) -> dict[str, Any]:
        """After the deferred wait."""
        assert event
        self.job_name = event["job_name"]
        description = self.kind.describe(self.hook, event["job_name"])
        self._show(self._log_lines())
        if not self._completed(description):
            raise AirflowException(
                f"{self.job_name} is still {self.progress(description)}: it was given up on"
            )
        return self._ended(description)

    def _ended(self, description: dict[str, Any]) -> dict[str, Any]:
        self.reads, self.writes = lineage_events.of_job(description)
        return self._result(description)

    def is_current(self, description: dict[str, Any]) -> bool:
        """Whether a job that an earlier try made still does what is to be done."""
        return True

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
            if status not in REPLACED and self.is_current(description):
                self.log.info("adopting %s, which is %s", name, status)
                return name, description
            self.log.info("%s is %s: taking the next name", name, status)
        raise AirflowException(f"{MAX_REPLACEMENTS} jobs of this task came to nothing; the last is {name}")

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
            trigger=self.trigger(
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
            # The trigger says what it has given up on.
            timeout=timedelta(seconds=max_runtime + 60),
        )

    def _wait(self) -> dict[str, Any]:
        assert self.job_name
        started, shown, log = time.monotonic(), "", self._log_lines()
        while True:
            description = self.kind.describe(self.hook, self.job_name)
            self._show(log)
            progress = self.progress(description)
            if progress != shown:
                self.log.info("%s: %s (%.0f s)", self.job_name, progress, time.monotonic() - started)
                shown = progress
            if self._completed(description):
                return description
            time.sleep(pause(time.monotonic() - started))

    def _show(self, log: Iterator[str | None]) -> None:
        for line in log:
            if line is None:
                break
            self.log.info("  %s", line)

    def _completed(self, description: dict[str, Any]) -> bool:
        """:raises AirflowException: when the job has failed or was stopped."""
        status = description[self.kind.status_key]
        if status in REPLACED & ENDED:
            reason = (
                description.get("FailureReason") or description.get("SecondaryStatus") or "no reason given"
            )
            raise AirflowException(f"{self.job_name} ended {status}: {reason}")
        return bool(status == "Completed")

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
