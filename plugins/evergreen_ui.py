"""Evergreen in Airflow's web UI: an overview in the navigation, the report as a tab of each run, links on its tasks.

What the pages are is in `evergreen/web/`.
"""

from typing import Any, ClassVar

from airflow.plugins_manager import AirflowPlugin
from airflow.sdk import BaseOperatorLink

from evergreen.addresses import PREFIX, href, job_page, report_page
from evergreen.batch import BatchPredictOperator
from evergreen.deployment import EndpointOperator
from evergreen.monitoring import CompareOperator
from evergreen.operators import (
    AssessOperator,
    ExtractFeaturesOperator,
    RetrainOperator,
    StageWeightsOperator,
    TuneOperator,
)
from evergreen.verification import VerifyEndpointOperator


async def app(scope: Any, receive: Any, send: Any) -> None:
    """The pages. Airflow loads plugins in every task's process too, where importing its API server takes a second."""
    from evergreen.web.app import app as pages

    await pages(scope, receive, send)


class ReportLink(BaseOperatorLink):
    name = "Report"
    # Airflow compares classes exactly: a subclass would have to be listed too.
    operators: ClassVar[list[type]] = [AssessOperator, VerifyEndpointOperator, CompareOperator]

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        return href(report_page(ti_key.dag_id, ti_key.run_id))


class SageMakerLink(BaseOperatorLink):
    """The task's job or endpoint; it works while the task runs."""

    name = "SageMaker"
    operators: ClassVar[list[type]] = [
        StageWeightsOperator, ExtractFeaturesOperator, TuneOperator, RetrainOperator, AssessOperator,
        EndpointOperator, BatchPredictOperator,
    ]  # fmt: skip

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        return href(job_page(ti_key.dag_id, ti_key.run_id, ti_key.task_id))


class EvergreenPlugin(AirflowPlugin):
    name = "evergreen"
    operator_extra_links: ClassVar[list[Any]] = [ReportLink(), SageMakerLink()]
    fastapi_apps: ClassVar[list[Any]] = [{"app": app, "url_prefix": PREFIX, "name": "Evergreen"}]
    external_views: ClassVar[list[Any]] = [
        {
            "name": "Report",
            "href": href(f"{PREFIX}/reports/{{DAG_ID}}/{{RUN_ID}}/report.html"),
            "destination": "dag_run",
            "url_route": "report",
        },
        {
            "name": "Evergreen",
            "href": href(f"{PREFIX}/overview"),
            "destination": "nav",
            "url_route": "evergreen",
            "nav_top_level": True,
        },
    ]
