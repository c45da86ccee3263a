"""Where a person finds things: pages of Airflow's web UI, ours in it, and SageMaker's console."""

from urllib.parse import quote, urlsplit

from airflow.providers.amazon.aws.links.base_aws import BaseAwsLink
from airflow.providers.common.compat.sdk import conf

PREFIX = "/evergreen"
# What SageMaker's console calls the kinds of jobs.
CONSOLE = {
    "training": "jobs",
    "tuning": "hyper-tuning-jobs",
    "processing": "processing-jobs",
    "transform": "transform-jobs",
    "endpoint": "endpoints",
}


def ui(path: str) -> str:
    """The whole address of a page of the web UI."""
    return f"{str(conf.get('api', 'base_url', fallback='')).rstrip('/')}{path}"


def href(path: str) -> str:
    """The same without the host, for links within the UI, which may be served below a path of its host."""
    return urlsplit(ui(path)).path


def run_page(dag_id: str, run_id: str) -> str:
    return ui(f"/dags/{quote(dag_id)}/runs/{quote(run_id, safe='')}")


def report_tab(dag_id: str, run_id: str) -> str:
    return f"{run_page(dag_id, run_id)}/plugin/report"


def report_page(dag_id: str, run_id: str) -> str:
    """A run's report without the UI around it."""
    return f"{PREFIX}/reports/{quote(dag_id)}/{quote(run_id, safe='')}/report.html"


def job_page(dag_id: str, run_id: str, task_id: str) -> str:
    """Our page of a task's job; on AWS it leads on to the console."""
    return f"{PREFIX}/jobs/{quote(dag_id)}/{quote(run_id, safe='')}/{quote(task_id)}"


def is_local(sagemaker_url: str | None) -> bool:
    """Whether a connection's address of SageMaker's API is not AWS's; AWS's own may be named too, of a VPC endpoint."""
    host = urlsplit(sagemaker_url or "").hostname
    return host is not None and not host.endswith((".amazonaws.com", ".amazonaws.com.cn"))


def console(kind: str, name: str, region: str, partition: str) -> str:
    """SageMaker's console page of a job or endpoint, in the form of the provider's own links."""
    host = f"{region}.console.{BaseAwsLink.get_aws_domain(partition)}"
    return f"https://{host}/sagemaker/home?region={region}#/{CONSOLE[kind]}/{quote(name)}"
