"""The routes, with the UI's own login and permissions: Airflow mounts a plugin's application without any."""

import logging
from collections.abc import Callable
from typing import Annotated

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from botocore.exceptions import BotoCoreError, ClientError
from fastapi import Depends, FastAPI
from fastapi.responses import RedirectResponse, Response

from evergreen import addresses, names
from evergreen.web import jobs, overview, reports
from evergreen.web.pages import page, sentence

log = logging.getLogger(__name__)

app = FastAPI(title="Evergreen", docs_url=None, redoc_url=None, openapi_url=None)
may_see_run = Depends(requires_access_dag(method="GET", access_entity=DagAccessEntity.RUN))


def readable_dags(user: GetUserDep) -> set[str]:
    return set(get_auth_manager().get_authorized_dag_ids(user=user, method="GET"))


@app.get("/overview")
def show_overview(session: SessionDep, readable: Annotated[set[str], Depends(readable_dags)]) -> Response:
    return page("overview", pipelines=overview.facts(session, jobs.hook(), readable), addresses=addresses)


@app.get("/reports/{dag_id}/{run_id}/{name:path}", dependencies=[may_see_run])
def report(dag_id: str, run_id: str, name: str) -> Response:
    return reports.read(dag_id, run_id, name)


@app.get("/jobs/{dag_id}/{run_id}/{task_id}", dependencies=[may_see_run])
def job(dag_id: str, run_id: str, task_id: str) -> Response:
    """The task's job or endpoint: a page for the local cloud, SageMaker's console on AWS."""
    if not dag_id.startswith(reports.DAG_PREFIX) or task_id not in {*jobs.KINDS, jobs.ENDPOINT_TASK}:
        return sentence("There is no such job.", 404)
    pipeline = dag_id.removeprefix(reports.DAG_PREFIX)
    if task_id == jobs.ENDPOINT_TASK:
        return _or_sentence(lambda: _endpoint(names.endpoint(pipeline)))
    return _or_sentence(lambda: _job(dag_id, pipeline, run_id, task_id))


def _job(dag_id: str, pipeline: str, run_id: str, task_id: str) -> Response:
    sagemaker = jobs.hook()
    found = jobs.find(sagemaker, dag_id, pipeline, run_id, task_id)
    if found is None:
        return sentence(
            f"The task {task_id} of this run has started no job: it has not got there, or had nothing to do.",
            404,
        )
    if url := jobs.console(sagemaker, found.kind.trigger_type, found.name):
        return RedirectResponse(url)
    report = addresses.href(addresses.report_page(dag_id, run_id))
    return page("job", job=jobs.facts(sagemaker, found), task_id=task_id, report=report)


def _endpoint(name: str) -> Response:
    sagemaker = jobs.hook()
    if url := jobs.console(sagemaker, "endpoint", name):
        return RedirectResponse(url)
    found = jobs.endpoint(sagemaker, name)
    if found is None:
        return sentence(
            f"There is no endpoint {name} (yet): no model of this pipeline has been deployed.", 404
        )
    return page("endpoint", endpoint=found)


def _or_sentence(answer: Callable[[], Response]) -> Response:
    try:
        return answer()
    except ClientError as error:
        log.exception("asking SageMaker")
        return sentence(f"SageMaker does not say: {error.response['Error']['Code']}.", 502)
    except BotoCoreError as error:
        log.exception("asking SageMaker")
        return sentence(f"SageMaker does not answer: {type(error).__name__}.", 502)
