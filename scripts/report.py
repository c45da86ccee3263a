"""The report of any finished training job, without Airflow.

    make report JOB=digits-retrain-0123456789             # a job of this checkout's local cloud
    python -m scripts.report JOB --aws --test s3://bucket/dataset/test

describes the job, fetches its archives and its test split, and assesses it on this machine as the DAG's job does.
Where the job belongs to a run of the DAG, it is judged by that run's rules and gate, and against what served then.
With --aws boto3's own environment says which account, region and endpoint. 360 digits take about a minute on one core.

The report is var/reports/JOB/report.html; the last line of the output names it. Exit status 0: it is there.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from scripts.local_stack import REPOSITORY, Stack, StackError
from scripts.storage import Storage, StorageError

ML = REPOSITORY / "var/venv/ml/bin/python"
VERSIONS = "dataset-versions"


class ReportError(RuntimeError):
    """There can be no report; the message says why, and what to do."""


def report(job_name: str, client: Callable[[str], Any], test: str | None, output: Path) -> Path:
    """Assess the training job `job_name`; returns report.html.

    :param client: service → boto3 client.
    :param test: folder or s3:// prefix of the test split, one folder per class; None to find it by the job.
    :raises ReportError: when there can be no report.
    :raises StorageError: when S3 does not have what it should.
    """
    if not ML.is_file():
        raise ReportError(f"there is no {ML}: make demo installs the ML environment")
    storage, job = Storage(client("s3")), describe(client("sagemaker"), job_name)
    run_uri = str(job["OutputDataConfig"]["S3OutputPath"]).rstrip("/").removesuffix("/jobs")
    found = storage.read(f"{run_uri}/context.json")
    context = of_run(json.loads(found), job) if found else of_nothing(job)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arguments = {"model": folder / "model", "training-output": folder / "output", "test": folder / "test"}
        arguments |= {"context": folder / "context.json", "output": output}
        model_data = str(job["ModelArtifacts"]["S3ModelArtifacts"])
        for uri, place in (
            (model_data, "model/model.tar.gz"),
            (f"{model_data.rpartition('/')[0]}/output.tar.gz", "output/output.tar.gz"),
        ):
            if not storage.fetch(uri, folder / place):
                raise ReportError(f"{job_name} has left no {uri}: there is nothing to assess")
        if test and not test.startswith("s3://"):
            arguments["test"] = Path(test)
        else:
            fetch_test(storage, test, job, context, folder / "test")
        champion = context.get("champion")
        if champion and storage.fetch(champion["model_data"], folder / "champion/model.tar.gz"):
            arguments["champion"] = folder / "champion"
        arguments |= platform_outputs(storage, job, folder)
        if sample := storage.read(f"{run_uri}/train-sample.manifest"):
            first, *names = json.loads(sample)
            if storage.fetch_all(first["prefix"], names, folder / "train-sample"):
                arguments["train-sample"] = folder / "train-sample"
        arguments["context"].write_text(json.dumps(context))
        command = [str(ML), str(REPOSITORY / "ml_code/assess.py")]
        command += [text for name, value in arguments.items() for text in (f"--{name}", str(value))]
        if subprocess.run(command, check=False).returncode:
            raise ReportError(f"{job_name} could not be assessed: the lines above say why")
    return output / "report.html"


def describe(sagemaker: Any, name: str) -> dict[str, Any]:
    """:raises ReportError: when the job does not exist, or did not complete."""
    where = sagemaker.meta.endpoint_url
    try:
        job: dict[str, Any] = sagemaker.describe_training_job(TrainingJobName=name)
    except ClientError as error:
        if error.response["Error"]["Code"] in {"ValidationException", "ResourceNotFound"}:
            raise ReportError(f"{where} knows no training job {name}") from error
        raise
    if job["TrainingJobStatus"] != "Completed":
        why = job.get("FailureReason") or job.get("SecondaryStatus")
        raise ReportError(
            f"{name} is {job['TrainingJobStatus']} ({why}): a report needs a job that has completed"
        )
    return job


def of_run(context: dict[str, Any], job: dict[str, Any]) -> dict[str, Any]:
    """context.json of the run that the job belongs to; for a trial of its tuning with the trial's own facts."""
    if (context.get("training") or {}).get("name") == job["TrainingJobName"]:
        return context
    return {**context, "training": training(job), "managed_rules": None, "cost": None}


def of_nothing(job: dict[str, Any]) -> dict[str, Any]:
    """What assess needs to know of a job that nothing else is known of: the rules and gate of a new pipeline."""
    settings = default_settings()
    rules = {**settings.Debugger().rules, **settings.Profiler().rules}
    return {
        "run": {
            "dag_id": "none",
            "run_id": job["TrainingJobName"],
            "pipeline": job["TrainingJobName"],
            "started_at": job["CreationTime"].isoformat(),
            "report_uri": None,
            "endpoint": None,
        },
        "training": training(job),
        "champion": None,
        "rules": {name: rule.model_dump() for name, rule in rules.items()},
        "gate": settings.Gate().model_dump(),
    }


def default_settings() -> Any:
    sys.path.insert(0, str(REPOSITORY / "plugins"))
    from evergreen import settings

    return settings


def training(job: dict[str, Any]) -> dict[str, Any]:
    """context.json's `training`."""
    return {
        "name": job["TrainingJobName"],
        "hyperparameters": job.get("HyperParameters", {}),
        "seconds": job.get("TrainingTimeInSeconds"),
        "billable_seconds": job.get("BillableTimeInSeconds"),
        "instance_type": job["ResourceConfig"]["InstanceType"],
        "instances": job["ResourceConfig"]["InstanceCount"],
    }


def fetch_test(
    storage: Storage, given: str | None, job: dict[str, Any], context: dict[str, Any], folder: Path
) -> None:
    """The test split → `folder`, from the prefix that was given or from the dataset version that the job trained on."""
    if given:
        prefix = given.rstrip("/") + "/"
        names = storage.names(prefix)
    else:
        uri = manifest_of_test(job, context)
        content = storage.read(uri)
        if content is None:
            raise ReportError(f"{uri} is not there: name the test split with --test")
        first, *names = json.loads(content)
        prefix = first["prefix"]
    if not storage.fetch_all(prefix, names, folder):
        raise ReportError(f"{prefix} holds no file: name the test split with --test")


def manifest_of_test(job: dict[str, Any], context: dict[str, Any]) -> str:
    """Where the test split's manifest is: its dataset's version is named by the run, or by the job's own channels."""
    if dataset := context.get("dataset"):
        return f"{dataset['uri'].rpartition('/')[0]}/{VERSIONS}/{dataset['version']}/test.manifest"
    for channel in job.get("InputDataConfig", []):
        uri = str(channel["DataSource"].get("S3DataSource", {}).get("S3Uri", ""))
        if f"/{VERSIONS}/" in uri and uri.endswith(".manifest"):
            return f"{uri.rpartition('/')[0]}/test.manifest"
    raise ReportError(
        f"which images {job['TrainingJobName']} may be tested on cannot be told: it is no job of a run that was "
        "assessed, and its channels name no dataset version. Name the test split with --test FOLDER or --test s3://…"
    )


def platform_outputs(storage: Storage, job: dict[str, Any], folder: Path) -> dict[str, Path]:
    """What SageMaker itself uploaded of debugger and profiler, as arguments of assess."""
    found = {}
    for name, member in (("debug-output", "DebugHookConfig"), ("profiler-output", "ProfilerConfig")):
        uri = (job.get(member) or {}).get("S3OutputPath")
        if not uri:
            continue
        prefix = f"{uri.rstrip('/')}/{job['TrainingJobName']}/{name}/"
        if storage.fetch_all(prefix, storage.names(prefix), folder / name):
            found[name] = folder / name
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("job", help="name of a training job that has completed")
    parser.add_argument("--test", help="the test split: a folder or an s3:// prefix, one folder per class")
    parser.add_argument("--output", type=Path, help="folder of the report; var/reports/JOB without it")
    parser.add_argument(
        "--aws", action="store_true", help="not the local cloud but what boto3's environment says"
    )
    parser.add_argument("--var", default=REPOSITORY / "var", type=Path, help="folder of the local cloud")
    arguments = parser.parse_args()
    try:
        client = boto3.client if arguments.aws else Stack(arguments.var.resolve()).cloud().client
        output = arguments.output or arguments.var / "reports" / arguments.job
        print(report(arguments.job, client, arguments.test, output.resolve()))
    except (ReportError, StorageError, StackError, BotoCoreError) as error:
        sys.exit(f"error: {error}")
    except ClientError as error:
        sys.exit(f"error: {error.response['Error']['Code']}: {error.response['Error']['Message']}")


if __name__ == "__main__":
    main()
