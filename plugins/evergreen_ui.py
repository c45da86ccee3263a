"""The report in Airflow's web UI: a tab on each run, a link on the tasks that make or use it.

The page comes from S3 (AWS or local) through the API server, with the UI's own login and permissions.
"""

import logging
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin
from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.sdk import BaseOperatorLink
from botocore.exceptions import BotoCoreError, ClientError
from fastapi import Depends, FastAPI
from fastapi.responses import HTMLResponse, Response

from evergreen import names, settings, tasks
from evergreen.operators import AssessOperator, VerifyEndpointOperator

log = logging.getLogger(__name__)

PREFIX = "/evergreen"
DAG_PREFIX = "retrain_"
# What may be asked for: the report, the profiler's that it has a link to, and the machine's versions of it.
FILES = {
    "report.html": "text/html",
    "rule-output/ProfilerReport/profiler-output/profiler-report.html": "text/html",
    "report.json": "application/json",
    "rules.json": "application/json",
    "predictions.jsonl": "application/x-ndjson",
}
LARGEST_REPORT = 20 * 1024 * 1024
HEADERS = {
    # The report runs on the UI's origin: it may carry its own styles and pictures, and nothing else.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}

app = FastAPI(title="Evergreen", docs_url=None, redoc_url=None, openapi_url=None)
may_see_run = Depends(requires_access_dag(method="GET", access_entity=DagAccessEntity.RUN))


@app.get("/reports/{dag_id}/{run_id}/{name:path}", dependencies=[may_see_run])
def report(dag_id: str, run_id: str, name: str) -> Response:
    """A file of a run's report, or a sentence that says why there is none."""
    if name not in FILES or not dag_id.startswith(DAG_PREFIX):
        return _sentence("There is no such report.", 404)
    try:
        bucket, prefix = _place(dag_id.removeprefix(DAG_PREFIX))
        key = f"{prefix}/reports/{names.run_folder(dag_id, run_id)}/{name}"
        stored = S3Hook(aws_conn_id=tasks.AWS_CONN_ID).get_conn().get_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error.response["Error"]["Code"] in {"NoSuchKey", "404"}:
            return _sentence(
                "This run has no report yet. It is here once the task export_report has run; a run that fails "
                "before that has none.",
                404,
            )
        log.exception("reading the report of %s %s", dag_id, run_id)
        return _sentence(f"The report cannot be read: {error.response['Error']['Code']}.", 502)
    except (BotoCoreError, settings.SettingsError) as error:
        log.exception("reading the report of %s %s", dag_id, run_id)
        return _sentence(f"The report cannot be read: {type(error).__name__}.", 502)
    if stored["ContentLength"] > LARGEST_REPORT:
        return _sentence(
            f"The report has {stored['ContentLength'] / 2**20:.0f} MiB, too much for a page: s3://{bucket}/{key}",
            413,
        )
    return Response(stored["Body"].read(), media_type=FILES[name], headers=HEADERS)


def _place(pipeline: str) -> tuple[str, str]:
    """(bucket, key prefix) of a pipeline."""
    file = Path(conf.get("core", "dags_folder")) / "pipelines" / f"{pipeline}.yaml"
    compute = settings.validate(settings.read(file), file.name).compute
    bucket = compute.bucket or S3Hook(aws_conn_id=tasks.AWS_CONN_ID).service_config["bucket_name"]
    return str(bucket), f"{compute.prefix}/{pipeline}"


def _sentence(text: str, status: int) -> HTMLResponse:
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Report</title>'
        "<style>:root{color-scheme:light dark}body{font:1rem/1.5 system-ui;margin:3rem auto;max-width:40rem;"
        f"padding:0 1rem}}</style><p>{text}</p></html>"
    )
    return HTMLResponse(page, status_code=status, headers=HEADERS)


def _href(path: str) -> str:
    # Airflow may be served below a path of its host.
    base = urlsplit(str(conf.get("api", "base_url", fallback=""))).path.rstrip("/")
    return f"{base}{PREFIX}{path}"


class ReportLink(BaseOperatorLink):
    name = "Report"
    # Airflow compares classes exactly: a subclass would have to be listed too.
    operators: ClassVar[list[type]] = [AssessOperator, VerifyEndpointOperator]

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        return _href(f"/reports/{ti_key.dag_id}/{ti_key.run_id}/report.html")


class EvergreenPlugin(AirflowPlugin):
    name = "evergreen"
    operator_extra_links: ClassVar[list[Any]] = [ReportLink()]
    fastapi_apps: ClassVar[list[Any]] = [{"app": app, "url_prefix": PREFIX, "name": "Evergreen"}]
    external_views: ClassVar[list[Any]] = [
        {
            "name": "Report",
            "href": _href("/reports/{DAG_ID}/{RUN_ID}/report.html"),
            "destination": "dag_run",
            "url_route": "report",
        }
    ]
