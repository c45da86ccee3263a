"""A run's report out of S3, local or AWS's: of a retraining, and of a monitor's look."""

import logging
from pathlib import Path

from airflow.configuration import conf
from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from botocore.exceptions import BotoCoreError, ClientError
from fastapi.responses import Response

from evergreen import names, settings, tasks
from evergreen.web.pages import HEADERS, sentence

log = logging.getLogger(__name__)

DAG_PREFIX, MONITOR_PREFIX = "retrain_", "monitor_"
# What may be asked for: the report, the profiler's that it has a link to, and the machine's versions of it.
FILES = {
    "report.html": "text/html",
    "rule-output/ProfilerReport/profiler-output/profiler-report.html": "text/html",
    "report.json": "application/json",
    "rules.json": "application/json",
    "model_card.md": "text/markdown; charset=utf-8",
    "predictions.jsonl": "application/x-ndjson",
    "champion-predictions.jsonl": "application/x-ndjson",
}
LARGEST_REPORT = 20 * 1024 * 1024


def read(dag_id: str, run_id: str, name: str) -> Response:
    """A file of a run's report, or a sentence that says why there is none."""
    looks = dag_id.startswith(MONITOR_PREFIX) and name == "report.html"
    if name not in FILES or not (looks or dag_id.startswith(DAG_PREFIX)):
        return sentence("There is no such report.", 404)
    folder, file, task = ("monitor", "drift.html", "compare") if looks else ("reports", name, "export_report")
    try:
        bucket, prefix = place(dag_id.partition("_")[2])
        key = f"{prefix}/{folder}/{names.run_folder(dag_id, run_id)}/{file}"
        stored = S3Hook(aws_conn_id=tasks.AWS_CONN_ID).get_conn().get_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error.response["Error"]["Code"] in {"NoSuchKey", "404"}:
            return sentence(
                f"This run has no report yet. It is here once the task {task} has run; a run that fails or is "
                "skipped before that has none.",
                404,
            )
        log.exception("reading the report of %s %s", dag_id, run_id)
        return sentence(f"The report cannot be read: {error.response['Error']['Code']}.", 502)
    except (BotoCoreError, settings.SettingsError) as error:
        log.exception("reading the report of %s %s", dag_id, run_id)
        return sentence(f"The report cannot be read: {type(error).__name__}.", 502)
    if stored["ContentLength"] > LARGEST_REPORT:
        stored["Body"].close()
        return sentence(
            f"The report has {stored['ContentLength'] / 2**20:.0f} MiB, too much for a page: s3://{bucket}/{key}",
            413,
        )
    return Response(stored["Body"].read(), media_type=FILES[name], headers=HEADERS)


def pipelines() -> list[str]:
    """Names of the pipeline files, whatever state they are in."""
    return sorted(file.stem for file in _folder().glob("*.yaml"))


def pipeline(name: str) -> settings.Pipeline:
    """:raises SettingsError: when there is no such file, or it is wrong."""
    file = _folder() / f"{name}.yaml"
    return settings.validate(settings.read(file), file.name)


def place(name: str) -> tuple[str, str]:
    """(bucket, key prefix) of a pipeline."""
    compute = pipeline(name).compute
    bucket = compute.bucket or S3Hook(aws_conn_id=tasks.AWS_CONN_ID).service_config["bucket_name"]
    return str(bucket), f"{compute.prefix}/{name}"


def _folder() -> Path:
    return Path(conf.get("core", "dags_folder")) / "pipelines"
