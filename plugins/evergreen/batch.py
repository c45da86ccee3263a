"""Batch prediction: a transform job, whose answers are counted and held against those of the report."""

import base64
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.amazon.aws.operators.sagemaker import SageMakerTransformOperator, serialize
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException

from evergreen import deployment_requests, durable, smoke
from evergreen.operators import PlannedJob
from evergreen.plan import Plan

if TYPE_CHECKING:
    from airflow.sdk import Context

THREADS, AT_ONCE = 16, 256
# Of a file of JSON lines: several of them keep several instances busy.
LINES_BYTES = 32 << 20


class BatchError(ValueError):
    """A transform job's answers are not what they must be; the sentence says how."""


class BatchPredictOperator(PlannedJob, SageMakerTransformOperator):
    """A transform job, when the pipeline asks for it: over the test split, or a prefix of one's own.

    Returns the provider's `{"Transform"}` and `{"batch": {"images", "output", "largest_difference"}}`. Fails when an
    image of the test split has no answer, or another one than the report has; a prefix's objects are counted.
    """

    kind = durable.TRANSFORM

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(check_if_job_exists=False, **kwargs)

    def execute(self, context: "Context") -> dict[str, Any]:
        inputs = self.pull(context)
        plan = self.plan
        if not plan.pipeline.deployment.batch_predict:
            raise AirflowSkipException("deployment.batch_predict is off")
        self.config = deployment_requests.batch_predict(plan, inputs["model_name"], self._source())
        return self.run_job(context)

    def pull(self, context: "Context") -> dict[str, Any]:
        inputs = super().pull(context)
        self.dataset, self.assessment = inputs["dataset"], inputs["assessment"]
        return inputs

    def _source(self) -> dict[str, str]:
        """Where the job reads; what it reads of the test split is written here first."""
        settings = self.plan.pipeline.deployment.transform
        if settings.s3_uri:
            return {"S3DataType": "S3Prefix", "S3Uri": settings.s3_uri}
        files, folder = list(expected(self.s3, self.assessment["uri"])), f"{self.dataset['uri']}/test/"
        if settings.split_type == "Line":
            prefix = f"{self.plan.run_uri}/batch-input/"
            write_lines(self.s3, folder, files, prefix)
            return {"S3DataType": "S3Prefix", "S3Uri": prefix}
        # Without the images that the report set apart as unreadable.
        manifest = f"{self.plan.run_uri}/batch.manifest"
        self.s3.load_string(json.dumps([{"prefix": folder}, *files]), manifest, replace=True)
        return {"S3DataType": "ManifestFile", "S3Uri": manifest}

    def _result(self, description: dict[str, Any]) -> dict[str, Any]:
        try:
            batch = check(self.s3, self.plan, self.assessment["uri"])
        except (BatchError, smoke.AnswerError) as error:
            raise AirflowFailException(f"{self.job_name}: {error}") from error
        self.log.info("%d answers in %s", batch["images"], batch["output"])
        return {"Transform": serialize(description), "batch": batch}


def expected(s3: S3Hook, assess_uri: str) -> dict[str, tuple[str, float]]:
    """What the model answered offline: file → label, probability."""
    body = s3.get_key(f"{assess_uri}/predictions.jsonl").get()["Body"]
    rows = (json.loads(line) for line in body.iter_lines())
    return {row["file"]: (row["prediction"], row["probability"]) for row in rows}


def write_lines(s3: S3Hook, folder: str, files: list[str], prefix: str) -> None:
    """Images below `folder` → files of JSON lines below `prefix`, {"file", "b64"} each."""
    lines: list[bytes] = []
    size = number = 0

    def write() -> None:
        s3.load_bytes(b"".join(lines), *_place(s3, f"{prefix}part-{number:05d}.jsonl"), replace=True)

    for file, image in zip(files, _read(s3, (f"{folder}{file}" for file in files)), strict=True):
        lines.append(json.dumps({"file": file, "b64": base64.b64encode(image).decode()}).encode() + b"\n")
        size += len(lines[-1])
        if size >= LINES_BYTES:
            write()
            lines, size, number = [], 0, number + 1
    if lines:
        write()


def check(s3: S3Hook, plan: Plan, assess_uri: str) -> dict[str, Any]:
    """`{"images", "output", "largest_difference"}`, the last None where the report has no answers to the images.

    :raises BatchError: see `BatchPredictOperator`.
    """
    settings, output = plan.pipeline.deployment.transform, f"{plan.run_uri}/batch"
    if settings.s3_uri:
        asked, answered = _count(s3, settings.s3_uri), _count(s3, output)
        if asked != answered:
            raise BatchError(f"{answered} of {asked} objects below {settings.s3_uri} are answered")
        return {"images": answered, "output": output, "largest_difference": None}
    offline = expected(s3, assess_uri)
    answers = _lines(s3, output) if settings.split_type == "Line" else _files(s3, output, offline)
    seen: set[str] = set()
    largest = 0.0
    for file, body in answers:
        if file in seen or file not in offline:
            raise BatchError(
                f"{file} is answered twice" if file in seen else f"{file} is answered and was not asked"
            )
        seen.add(file)
        (label, probability), answer = offline[file], smoke.parse(body)
        difference = abs(answer.probability - probability)
        largest = max(largest, difference)
        if answer.label != label or difference > smoke.TOLERANCE:
            raise BatchError(
                f"{file} is {answer.label} ({answer.probability:.4f}) to the transform job, {label} "
                f"({probability:.4f}) in the report"
            )
    if missing := [file for file in offline if file not in seen]:
        raise BatchError(f"{len(missing)} of {len(offline)} images have no answer; the first is {missing[0]}")
    return {"images": len(seen), "output": output, "largest_difference": largest}


def _files(s3: S3Hook, output: str, files: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    bucket, key = s3.parse_s3_url(output)
    there = set(s3.list_keys(bucket, prefix=f"{key}/") or [])
    answered = [file for file in files if f"{key}/{file}.out" in there]
    yield from zip(answered, _read(s3, (f"{output}/{file}.out" for file in answered)), strict=True)


def _lines(s3: S3Hook, output: str) -> Iterator[tuple[str, bytes]]:
    bucket, key = s3.parse_s3_url(output)
    for name in s3.list_keys(bucket, prefix=f"{key}/") or []:
        for line in s3.get_key(name, bucket).get()["Body"].iter_lines():
            row = json.loads(line)
            yield row["file"], json.dumps(row["SageMakerOutput"]).encode()


def _count(s3: S3Hook, uri: str) -> int:
    bucket, key = s3.parse_s3_url(uri.rstrip("/") + "/")
    return len(s3.list_keys(bucket, prefix=key) or [])


def _read(s3: S3Hook, uris: Iterable[str]) -> Iterator[bytes]:
    """The objects in their order, so many at once that they fit in memory."""
    client, left = s3.conn, iter(uris)

    def one(uri: str) -> bytes:
        bucket, key = s3.parse_s3_url(uri)
        return bytes(client.get_object(Bucket=bucket, Key=key)["Body"].read())

    with ThreadPoolExecutor(THREADS) as pool:
        while some := list(islice(left, AT_ONCE)):
            yield from pool.map(one, some)


def _place(s3: S3Hook, uri: str) -> tuple[str, str]:
    bucket, key = s3.parse_s3_url(uri)
    return key, bucket
