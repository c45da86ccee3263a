"""Retry-safe jobs, against a real local cloud with small real jobs."""

import asyncio
import json
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.amazon.aws.operators.sagemaker import SageMakerProcessingOperator
from airflow.providers.common.compat.sdk import AirflowException
from airflow.sdk.exceptions import TaskDeferred

from evergreen import durable
from scripts.local_stack import Cloud

IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-training:2.10.0-cpu-py313"

# An operator run without Airflow's task runner says so.
pytestmark = pytest.mark.filterwarnings("ignore:.*outside of the Task Runner")


class Job(durable.DurableJob, SageMakerProcessingOperator):
    """A processing job that runs one line of Python."""

    kind = durable.PROCESSING

    def __init__(self, *, program: str, **kwargs: Any) -> None:
        super().__init__(config={}, **kwargs)
        self.program = program

    def execute(self, context: Any) -> dict[str, Any]:
        self.config = {
            "AppSpecification": {"ImageUri": IMAGE, "ContainerEntrypoint": ["python3", "-c", self.program]},
            "ProcessingResources": {
                "ClusterConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 1}
            },
            "RoleArn": "arn:aws:iam::000000000000:role/EvergreenSageMakerRole",
        }
        return self.execute_job(context, "durable", 60)


def context(run_id: str) -> Any:
    return {"ti": SimpleNamespace(dag_id="d", run_id=run_id, task_id="t", map_index=-1)}


def started(cloud: Cloud, statuses: tuple[str, ...] = ()) -> list[str]:
    jobs = cloud.client("sagemaker").list_processing_jobs(NameContains="durable")["ProcessingJobSummaries"]
    return [
        job["ProcessingJobName"] for job in jobs if not statuses or job["ProcessingJobStatus"] in statuses
    ]


def job(program: str, **kwargs: Any) -> Job:
    return Job(program=program, task_id="t", **kwargs)


def test_a_second_try_adopts_the_finished_job(cloud: Cloud) -> None:
    before = len(started(cloud))
    first = job("print('once')").execute(context("finished"))
    second = job("print('once')").execute(context("finished"))
    assert first["Processing"]["ProcessingJobName"] == second["Processing"]["ProcessingJobName"]
    assert len(started(cloud)) == before + 1


def test_a_second_try_adopts_the_running_job(cloud: Cloud) -> None:
    before = len(started(cloud))
    tries = [
        threading.Thread(target=job("import time; time.sleep(4)").execute, args=[context("running")])
        for _ in range(2)
    ]
    tries[0].start()
    while len(started(cloud)) == before:
        time.sleep(0.1)
    tries[1].start()
    for thread in tries:
        thread.join()
    assert len(started(cloud)) == before + 1


def test_a_failed_job_is_replaced_under_the_next_name(cloud: Cloud) -> None:
    with pytest.raises(AirflowException, match=r"ended Failed: .*no luck"):
        job("raise SystemExit('no luck')").execute(context("failed"))
    done = job("print('better')").execute(context("failed"))
    assert done["Processing"]["ProcessingJobName"].endswith("-1")


def test_a_killed_task_stops_its_job_and_the_next_try_starts_anew(cloud: Cloud) -> None:
    operator = job("import time; time.sleep(60)")
    ended: list[BaseException] = []

    def run() -> None:
        try:
            operator.execute(context("killed"))
        except AirflowException as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while not started(cloud, ("InProgress",)):
        time.sleep(0.1)
    operator.on_kill()
    thread.join(timeout=30)
    assert "ended Stopped" in str(ended[0])
    done = job("print('anew')").execute(context("killed"))
    assert done["Processing"]["ProcessingJobName"].endswith("-1")


def deferral(operator: Job, run_id: str) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context(run_id))
    return deferred.value


def fired(trigger: Any) -> Any:
    """The payload of a trigger's event, as another process would run it."""
    path, arguments = trigger.serialize()
    assert path == f"{type(trigger).__module__}.{type(trigger).__name__}"
    again = type(trigger)(**json.loads(json.dumps(arguments)))

    async def wait() -> Any:
        return [event.payload async for event in again.run()]

    (payload,) = asyncio.run(wait())
    return json.loads(json.dumps(payload))


def test_the_deferred_wait_is_as_long_as_the_job_may_run(cloud: Cloud) -> None:
    operator = job("import time; time.sleep(20)", deferrable=True, check_interval=7)
    deferred = deferral(operator, "deferred")
    trigger = deferred.trigger
    assert trigger.attempts * trigger.waiter_delay >= 60
    assert deferred.timeout
    assert deferred.timeout.total_seconds() > trigger.attempts * trigger.waiter_delay
    trigger.attempts, trigger.waiter_delay = 1, 1
    with pytest.raises(AirflowException, match=r"is still InProgress: it was given up on"):
        operator.execute_complete(context("deferred"), fired(trigger))
    operator.on_kill()


def test_a_deferred_job_ends_as_one_that_is_waited_for(
    cloud: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    # The longest pause between two looks is the provider's 30 s: the first ones are shorter.
    deferred, began = deferral(job("print('all ' + 'well')", deferrable=True), "well"), time.monotonic()
    payload = fired(deferred.trigger)
    assert time.monotonic() - began < 20
    result = getattr(job(""), deferred.method_name)(context("well"), payload)
    assert result["Processing"]["ProcessingJobStatus"] == "Completed"
    assert "all well" in capsys.readouterr().out

    deferred = deferral(job("raise SystemExit('no luck')", deferrable=True), "ill")
    with pytest.raises(AirflowException, match=r"ended Failed: .*no luck"):
        job("").execute_complete(context("ill"), fired(deferred.trigger))


def test_a_job_that_is_out_of_date_is_not_adopted(cloud: Cloud) -> None:
    job("print('then')").execute(context("dated"))
    later = job("print('now')")
    later.is_current = lambda description: "now" in str(description["AppSpecification"])  # type: ignore[method-assign]
    assert later.execute(context("dated"))["Processing"]["ProcessingJobName"].endswith("-1")


def test_the_jobs_log_reaches_the_tasks_log(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    program = "import time; print('a line ' + 'from the job', flush=True); time.sleep(2)"
    job(program).execute(context("log"))
    assert "a line from the job" in capsys.readouterr().out
