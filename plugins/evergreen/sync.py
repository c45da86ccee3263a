"""Uploading: the dataset (only what changed) and the source code (only when it is new)."""

import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException
from airflow.sdk import BaseOperator

from evergreen import dataset, names, source_code
from evergreen.plan import Plan

if TYPE_CHECKING:
    from airflow.sdk import Context

# Requests in flight; botocore keeps 10 connections per client unless told otherwise.
CONCURRENCY = 10
SECONDS_BETWEEN_PROGRESS = 2


class SyncDatasetOperator(BaseOperator):
    """Dataset folder or S3 prefix → S3, only what changed. Returns version, counts and manifests.

    Nothing is sent before the whole folder has been looked at. A scheduled run whose dataset and settings were
    assessed before ends as skipped, unless it is forced.
    """

    def __init__(self, *, aws_conn_id: str = "aws_default", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.aws_conn_id = aws_conn_id

    def execute(self, context: "Context") -> dict[str, Any]:
        plan = Plan.model_validate(context["ti"].xcom_pull(task_ids="plan"))
        hook = S3Hook(aws_conn_id=self.aws_conn_id)
        snapshot = self._look(plan, hook)
        counts = snapshot.counts
        for split, classes in counts.items():
            self.log.info("%s: %d images in %d classes", split, sum(classes.values()), len(classes))
        if snapshot.ignored:
            self.log.warning(
                "%d files are no images in a class folder: %s", len(snapshot.ignored), snapshot.ignored[:10]
            )
        freshness = names.digest(snapshot.version, plan.pipeline.model_dump_json())
        if plan.run_type != "manual" and not plan.force and freshness == _last_assessed(plan, hook):
            raise AirflowSkipException(f"dataset {snapshot.version} and these settings were assessed before")
        sent = self._send(plan, hook, snapshot)
        result = {
            "version": snapshot.version,
            "freshness": freshness,
            "uri": plan.uri("dataset"),
            "counts": counts,
            "ignored": list(snapshot.ignored),
            "sent": sent,
            "manifests": _write_manifests(plan, hook, snapshot),
        }
        for asset in self.outlets:
            context["outlet_events"][asset].extra = {key: result[key] for key in ("version", "counts", "uri")}
        return result

    def _look(self, plan: Plan, hook: S3Hook) -> dataset.Snapshot:
        source, splits = plan.pipeline.dataset.source, plan.pipeline.dataset.splits
        try:
            if source.startswith("s3://"):
                bucket, prefix = S3Hook.parse_s3_url(source)
                snapshot = dataset.scan_listing(_listing(hook, bucket, prefix), splits, source)
            else:
                snapshot = dataset.scan_folder(local_folder(source), splits)
            dataset.check(snapshot, source)
        except dataset.DatasetError as error:
            raise AirflowFailException(str(error)) from error
        return snapshot

    def _send(self, plan: Plan, hook: S3Hook, snapshot: dataset.Snapshot) -> int:
        prefix = f"{plan.root}/dataset"
        state_key = f"{prefix}/state.json"
        sent_before = _read_json(hook, plan.bucket, state_key) or {}
        there = {key: size for key, size, _ in _listing(hook, plan.bucket, f"{prefix}/")}
        changed = [
            file
            for file in snapshot.files
            if there.get(file.path) != file.size or sent_before.get(file.path) != file.checksum
        ]
        self.log.info("%d of %d files changed", len(changed), len(snapshot.files))
        client, source = hook.get_conn(), plan.pipeline.dataset.source

        def send(file: dataset.File) -> None:
            key = f"{prefix}/{file.path}"
            if source.startswith("s3://"):
                bucket, below = S3Hook.parse_s3_url(source)
                client.copy({"Bucket": bucket, "Key": f"{below.rstrip('/')}/{file.source}"}, plan.bucket, key)
            else:
                client.upload_file(file.source, plan.bucket, key)

        if not changed:
            return 0
        # What is about to be overwritten is forgotten first: a try that dies half-way leaves nothing that a later
        # one would take for sent.
        unchanged = {file.path: file.checksum for file in set(snapshot.files) - set(changed)}
        hook.load_string(json.dumps(unchanged), state_key, plan.bucket, replace=True)
        _in_parallel(send, changed, lambda done: self.log.info("%d of %d files sent", done, len(changed)))
        state = {file.path: file.checksum for file in snapshot.files}
        hook.load_string(json.dumps(state), state_key, plan.bucket, replace=True)
        return len(changed)


def upload_source(plan: Plan, aws_conn_id: str = "aws_default") -> dict[str, str]:
    """`ml_code/` → S3 under its hash: an archive for training jobs, files for processing jobs."""
    hook = S3Hook(aws_conn_id=aws_conn_id)
    code = source_code.read()
    archive_key = f"{plan.root}/code/{code.hash}/sourcedir.tar.gz"
    # The archive is written last: where it is, the files are.
    if not hook.check_for_key(archive_key, plan.bucket):
        client = hook.get_conn()
        _in_parallel(
            lambda file: client.put_object(
                Bucket=plan.bucket, Key=f"{plan.root}/code/{code.hash}/src/{file[0]}", Body=file[1]
            ),
            code.files,
        )
        hook.load_bytes(code.archive(), archive_key, plan.bucket, replace=True)
    return {
        "hash": code.hash,
        "archive": f"s3://{plan.bucket}/{archive_key}",
        "source": plan.uri("code", code.hash, "src/"),
    }


def local_folder(source: str) -> Path:
    """A folder as the pipeline file names it: absolute, or relative to the repository."""
    return source_code.REPOSITORY / Path(source).expanduser()


def _write_manifests(plan: Plan, hook: S3Hook, snapshot: dataset.Snapshot) -> dict[str, str]:
    """A ManifestFile per split: a prefix, then the keys below it."""
    manifests = {}
    for split in dataset.SPLITS:
        prefix = plan.uri("dataset", split, "")
        keys = [
            file.path.removeprefix(f"{split}/")
            for file in snapshot.files
            if file.path.startswith(f"{split}/")
        ]
        uri = plan.uri("dataset-versions", snapshot.version, f"{split}.manifest")
        hook.load_string(json.dumps([{"prefix": prefix}, *keys]), uri, replace=True)
        manifests[split] = uri
    return manifests


def _last_assessed(plan: Plan, hook: S3Hook) -> str | None:
    latest = _read_json(hook, plan.bucket, f"{plan.root}/reports/latest.json")
    return str(latest["freshness"]) if latest else None


def _read_json(hook: S3Hook, bucket: str, key: str) -> Any:
    return json.loads(hook.read_key(key, bucket)) if hook.check_for_key(key, bucket) else None


def _listing(hook: S3Hook, bucket: str, prefix: str) -> Iterable[tuple[str, int, str]]:
    """(key below the prefix, size, ETag) of every object."""
    prefix = prefix if not prefix or prefix.endswith("/") else f"{prefix}/"
    for page in hook.get_conn().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            yield item["Key"].removeprefix(prefix), item["Size"], item["ETag"]


def _in_parallel(
    work: Callable[[Any], Any], items: Iterable[Any], progress: Callable[[int], None] | None = None
) -> None:
    shown = time.monotonic()
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        for done, future in enumerate(as_completed([pool.submit(work, item) for item in items]), 1):
            future.result()
            if progress and time.monotonic() - shown > SECONDS_BETWEEN_PROGRESS:
                progress(done)
                shown = time.monotonic()
