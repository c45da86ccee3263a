"""`make report` against a real local cloud; with a whole training it is in tests/end_to_end/test_demo.py."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.local_stack import BUCKET, REPOSITORY, Cloud, Stack
from scripts.report import fetch_test, manifest_of_test, of_nothing
from scripts.storage import Storage, StorageError

IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-training:2.10.0-cpu-py313"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    made = Stack(tmp_path_factory.mktemp("report") / "var")
    yield made
    made.down()


@pytest.fixture(scope="module")
def cloud(stack: Stack) -> Cloud:
    return stack.cloud()


def train(
    cloud: Cloud, name: str, program: str, channels: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    sagemaker = cloud.client("sagemaker")
    sagemaker.create_training_job(
        TrainingJobName=name,
        AlgorithmSpecification={
            "TrainingImage": IMAGE, "TrainingInputMode": "File", "ContainerEntrypoint": ["python3", "-c", program],
        },
        RoleArn="arn:aws:iam::000000000000:role/EvergreenSageMakerRole",
        **({"InputDataConfig": channels} if channels else {}),
        OutputDataConfig={"S3OutputPath": f"s3://{BUCKET}/elsewhere"},
        ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        StoppingCondition={"MaxRuntimeInSeconds": 60},
    )  # fmt: skip
    while True:
        described: dict[str, Any] = sagemaker.describe_training_job(TrainingJobName=name)
        if described["TrainingJobStatus"] != "InProgress":
            return described
        time.sleep(0.05)


def run(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scripts.report", *arguments, "--var", str(stack.var)],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_what_keeps_a_job_from_a_report_is_one_sentence(stack: Stack, cloud: Cloud) -> None:
    done = run(stack, "no-such-job")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: {cloud.sagemaker} knows no training job no-such-job\n"

    train(cloud, "failing", "raise SystemExit('no luck')")
    done = run(stack, "failing")
    assert done.stderr.startswith("error: failing is Failed (AlgorithmError")
    assert "no luck" in done.stderr
    assert done.stderr.rstrip().endswith("a report needs a job that has completed")


def test_a_job_without_archives_or_test_split_says_what_is_missing(stack: Stack, cloud: Cloud) -> None:
    job = train(cloud, "bare", "pass")
    cloud.client("s3").delete_object(
        Bucket=BUCKET, Key=job["ModelArtifacts"]["S3ModelArtifacts"].removeprefix(f"s3://{BUCKET}/")
    )
    done = run(stack, "bare")
    assert "error: bare has left no s3://" in done.stderr

    job = train(cloud, "complete", "pass")
    s3 = cloud.client("s3")
    folder = job["ModelArtifacts"]["S3ModelArtifacts"].removeprefix(f"s3://{BUCKET}/").rpartition("/")[0]
    for name in ("model.tar.gz", "output.tar.gz"):
        s3.put_object(Bucket=BUCKET, Key=f"{folder}/{name}", Body=b"no archive")
    done = run(stack, "complete")
    assert "which images complete may be tested on cannot be told" in done.stderr
    done = run(stack, "complete", "--test", f"s3://{BUCKET}/nothing/here")
    assert (
        done.stderr == f"error: s3://{BUCKET}/nothing/here/ holds no file: name the test split with --test\n"
    )


def channel(uri: str) -> dict[str, Any]:
    return {
        "ChannelName": "train",
        "DataSource": {"S3DataSource": {"S3DataType": "ManifestFile", "S3Uri": uri}},
    }


def test_the_test_split_is_that_of_the_version_the_job_trained_on() -> None:
    job = {
        "TrainingJobName": "j",
        "InputDataConfig": [channel("s3://b/p/dataset-versions/v1/train.manifest")],
    }
    assert manifest_of_test(job, {}) == "s3://b/p/dataset-versions/v1/test.manifest"
    of_run = {"dataset": {"uri": "s3://b/p/dataset", "version": "v2"}}
    assert manifest_of_test(job, of_run) == "s3://b/p/dataset-versions/v2/test.manifest"


def test_a_manifest_is_fetched_and_none_leads_out_of_the_folder(cloud: Cloud, tmp_path: Path) -> None:
    s3, storage = cloud.client("s3"), Storage(cloud.client("s3"))
    job = {
        "TrainingJobName": "j",
        "InputDataConfig": [channel(f"s3://{BUCKET}/p/dataset-versions/v/train.manifest")],
    }
    s3.put_object(Bucket=BUCKET, Key="p/dataset/test/a/1.png", Body=b"1")
    manifest = f'[{{"prefix": "s3://{BUCKET}/p/dataset/test/"}}, "%s"]'
    s3.put_object(Bucket=BUCKET, Key="p/dataset-versions/v/test.manifest", Body=manifest % "a/1.png")
    fetch_test(storage, None, job, {}, tmp_path / "test")
    assert (tmp_path / "test/a/1.png").read_bytes() == b"1"
    fetch_test(storage, f"s3://{BUCKET}/p/dataset/test", job, {}, tmp_path / "given")
    assert (tmp_path / "given/a/1.png").is_file()
    for name, words in (("../../x", "leads out of any folder"), ("a/gone.png", "is not there")):
        s3.put_object(Bucket=BUCKET, Key="p/dataset-versions/v/test.manifest", Body=manifest % name)
        with pytest.raises(StorageError, match=words):
            fetch_test(storage, None, job, {}, tmp_path / "bad")


def test_a_job_of_nobody_is_judged_as_a_new_pipelines_would_be(cloud: Cloud) -> None:
    context = of_nothing(cloud.client("sagemaker").describe_training_job(TrainingJobName="complete"))
    assert context["gate"]["minimum_accuracy"] == pytest.approx(0.5)
    assert {"VanishingGradient", "ProfilerReport"} <= set(context["rules"])
    assert context["training"]["instance_type"] == "ml.m5.large"
