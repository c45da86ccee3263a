"""Uploading: the dataset (only what changed) and the source code (only when it is new)."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException
from airflow.sdk import BaseOperator

from evergreen import freshness, lineage_events, names, source_code
from evergreen.dataset import DatasetError
from evergreen.plan import Plan
from evergreen.transfer import CLIENT_CONFIG, Sync

if TYPE_CHECKING:
    from airflow.sdk import Context

# botocore keeps 10 connections per client unless told otherwise.
CONCURRENCY = 10
WARNINGS = {
    "ignored": "files are no images in a class folder",
    "doubtful": "files do not look like images inside",
    "duplicates": "contents lie in more than one split, which makes the test look better than it is",
}


class SyncDatasetOperator(BaseOperator):
    """Dataset folder or S3 prefix → S3, only what changed. Returns version, counts and manifests.

    Nothing is sent before the whole folder has been looked at. A run that no person asked for and that would learn
    nothing new ends as skipped, unless it is forced; so does a dry run, with what it would have done in the XCom
    `dry_run`.
    """

    def __init__(self, *, aws_conn_id: str = "aws_default", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.aws_conn_id = aws_conn_id

    def execute(self, context: "Context") -> dict[str, Any]:
        plan = Plan.model_validate(context["ti"].xcom_pull(task_ids="plan"))
        hook = S3Hook(aws_conn_id=self.aws_conn_id)
        settings = plan.pipeline.dataset
        source = (
            settings.source
            if settings.source.startswith("s3://")
            else source_code.local_path(settings.source)
        )
        client = _client(hook)
        splits = settings.splits.model_dump()
        try:
            with Sync(
                client, source, splits, plan.bucket, plan.root, facts_file(plan), plan.s3_arguments
            ) as sync:
                result = self._look(sync)
                if plan.dry_run:
                    self._preview(context, sync, delete=settings.delete_removed)
                if not plan.by_hand and not plan.force:
                    self._learn_or_skip(plan, hook, result["version"])
                sent = sync.send()
                # A file that changed meanwhile makes another version.
                result = {
                    **sync.found,
                    "uri": sync.uri,
                    "sent": sent,
                    **sync.publish(anew=sent > 0),
                    "deleted": sync.delete_removed() if settings.delete_removed else 0,
                }
        except DatasetError as error:
            raise AirflowFailException(str(error)) from error
        for asset in self.outlets:
            context["outlet_events"][asset].extra = {key: result[key] for key in ("version", "counts", "uri")}
        self.source, self.result = source if isinstance(source, str) else source.as_uri(), result
        return result

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        images = sum(sum(classes.values()) for classes in self.result["counts"].values())
        return lineage_events.facets([self.source], [self.result["dataset_uri"]], images)

    def _look(self, sync: Sync) -> dict[str, Any]:
        """What the report and the log say of the dataset."""
        found = sync.look()
        for split, classes in found["counts"].items():
            self.log.info("%s: %d images in %d classes", split, sum(classes.values()), len(classes))
        for name, what in WARNINGS.items():
            if found[name]["count"]:
                self.log.warning("%d %s: %s", found[name]["count"], what, found[name]["examples"][:10])
        return found

    def _learn_or_skip(self, plan: Plan, hook: S3Hook, version: str) -> None:
        """:raises AirflowSkipException: when the run would change nothing."""
        sagemaker = SageMakerHook(aws_conn_id=self.aws_conn_id)
        known = freshness.nothing_new(hook, sagemaker, plan, version, source_code.read().hash)
        if known is None:
            return
        if plan.drift is None:
            raise AirflowSkipException(f"nothing new to learn from: {known}")
        raise AirflowSkipException(
            f"there is drift ({plan.drift}), and nothing new to learn from: {known}. Label pictures like those and add "
            "them to the dataset; a run triggered by hand, or with force, trains in any case"
        )

    def _preview(self, context: "Context", sync: Sync, *, delete: bool) -> None:
        """:raises AirflowSkipException: always; a dry run ends here."""
        preview = sync.preview()
        if not delete:
            preview["delete"] = {"count": 0, "bytes": 0, "examples": []}
        for verb, what in preview.items():
            self.log.info(
                "would %s %d files, %d bytes: %s", verb, what["count"], what["bytes"], what["examples"]
            )
        context["ti"].xcom_push(key="dry_run", value=preview)
        raise AirflowSkipException(
            f"dry run: {preview['send']['count']} files to send, {preview['delete']['count']} to delete"
        )


def _client(hook: S3Hook) -> Any:
    """The hook's client, for many requests at once.

    Not by its `get_client_type`: for the user agent that has `inspect.stack()` look through every module there is for
    the source of what is on the stack, which takes as long as making the client. Until that is `inspect.stack(0)`:
    https://github.com/apache/airflow/blob/main/providers/amazon/src/airflow/providers/amazon/aws/hooks/base_aws.py
    """
    return hook.get_session().client(
        "s3",
        endpoint_url=hook.conn_config.get_service_endpoint_url("s3"),
        config=hook.config.merge(CLIENT_CONFIG),
        verify=hook.verify,
    )


def upload_source(plan: Plan, aws_conn_id: str = "aws_default") -> dict[str, str]:
    """`ml_code/` → S3 under its hash: an archive for training jobs, files for processing jobs."""
    hook = S3Hook(aws_conn_id=aws_conn_id, extra_args=plan.s3_arguments)
    code = source_code.read()
    archive_key = f"{plan.root}/code/{code.hash}/sourcedir.tar.gz"
    # The archive is written last: where it is, the files are.
    if not hook.check_for_key(archive_key, plan.bucket):
        client = hook.get_conn()

        def send(file: tuple[str, bytes]) -> None:
            key = f"{plan.root}/code/{code.hash}/src/{file[0]}"
            client.put_object(Bucket=plan.bucket, Key=key, Body=file[1], **plan.s3_arguments)

        with ThreadPoolExecutor(CONCURRENCY) as pool:
            list(pool.map(send, code.files))
        hook.load_bytes(code.archive(), archive_key, plan.bucket, replace=True)
    return {
        "hash": code.hash,
        "features_hash": code.features_hash,
        "archive": f"s3://{plan.bucket}/{archive_key}",
        "source": plan.uri("code", code.hash, "src/"),
    }


def facts_file(plan: Plan) -> Path:
    """Where this worker keeps what it knows of the pipeline's dataset; it may be deleted at any time."""
    home = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()
    return home / "evergreen/sync" / f"{plan.pipeline_name}-{names.digest(plan.uri('dataset'))}.sqlite"
