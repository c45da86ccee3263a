"""Training jobs that really run."""

import json
import time
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local_sagemaker.cloud_client import BUCKET, PLAIN, Cloud, archive, channel, unique

GOOD = """
import json, os, sys
from pathlib import Path
print("epoch=1 loss=0.9")
print("epoch=2 loss=nan")
print("epoch=3 loss=2.5e-1", file=sys.stderr)
Path(os.environ["SM_MODEL_DIR"], "weights.txt").write_text("w")
output = Path(os.environ["SM_OUTPUT_DATA_DIR"])
(output / "sub").mkdir()
(output / "sub/seen.json").write_text(json.dumps({
    "argv": sys.argv, "cwd": os.getcwd(), "path": sys.path[0], "environment": dict(os.environ),
    "files": sorted(str(p.relative_to(os.environ["SM_CHANNEL_TRAIN"]))
                    for p in Path(os.environ["SM_CHANNEL_TRAIN"]).rglob("*") if p.is_file()),
    "config": sorted(p.name for p in Path(os.environ["SM_INPUT_CONFIG_DIR"]).iterdir()),
}))
"""


def test_a_job_from_data_to_archives(cloud: Cloud) -> None:
    job = cloud.train(
        GOOD,
        HyperParameters={
            "lr": "0.1",
            "name": '"x"',
            "on": "true",
            "n": "3",
            "_tuning_objective_metric": "loss",
        },
        Environment={"WHERE": "/opt/ml/model", "ELSE": "/opt/mlx"},
    )
    assert job["TrainingJobStatus"] == job["SecondaryStatus"] == "Completed"
    assert [(metric["MetricName"], metric["Value"]) for metric in job["FinalMetricDataList"]] == [
        ("loss", 0.25)
    ]
    base = f"s3://{BUCKET}/output/{job['TrainingJobName']}/output"
    assert job["ModelArtifacts"]["S3ModelArtifacts"] == f"{base}/model.tar.gz"
    assert cloud.unpack(f"{base}/model.tar.gz") == {"weights.txt": b"w"}
    seen = json.loads(cloud.unpack(f"{base}/output.tar.gz")["sub/seen.json"])
    assert seen["argv"] == ["train.py", "--lr", "0.1", "-n", "3", "--name", "x", "--on", "True"]
    assert seen["cwd"] == seen["path"]
    assert seen["cwd"].endswith("/code")
    assert seen["files"] == ["a.txt", "deep/b.txt"]
    assert seen["config"] == ["hyperparameters.json", "inputdataconfig.json", "resourceconfig.json"]
    environment = seen["environment"]
    assert json.loads(environment["SM_HPS"]) == {"lr": 0.1, "name": "x", "on": True, "n": 3}
    assert (environment["SM_HP_LR"], environment["SM_HP_NAME"], environment["SM_HP_ON"]) == (
        "0.1",
        "x",
        "true",
    )
    assert json.loads(environment["SM_CHANNELS"]) == ["train"]
    assert (
        json.loads(environment["SM_TRAINING_ENV"])["channel_input_dirs"]["train"]
        == environment["SM_CHANNEL_TRAIN"]
    )
    assert environment["TRAINING_JOB_NAME"] == job["TrainingJobName"]
    assert environment["WHERE"] == environment["SM_MODEL_DIR"]
    assert environment["ELSE"] == "/opt/mlx"
    assert environment["AWS_ENDPOINT_URL"] == cloud.address["aws"]
    transitions = job["SecondaryStatusTransitions"]
    statuses = [item["Status"] for item in transitions]
    assert statuses == ["Starting", "Downloading", "Training", "Uploading", "Completed"]
    assert all(item["StatusMessage"] and item["EndTime"] >= item["StartTime"] for item in transitions)
    assert job["TrainingEndTime"] >= job["TrainingStartTime"]
    assert job["BillableTimeInSeconds"] >= 1
    assert "epoch=1 loss=0.9" in cloud.log("TrainingJobs", job["TrainingJobName"])


def test_nothing_of_the_services_environment_reaches_a_job(cloud: Cloud) -> None:
    job = cloud.train("import os; print('SECRET_OF_THE_SERVICE' in os.environ)")
    assert cloud.log("TrainingJobs", job["TrainingJobName"]) == ["False"]


def test_a_failure_says_why(cloud: Cloud) -> None:
    script = (
        "import os\nopen(os.environ['SM_MODEL_DIR'] + '/half', 'w').write('x')\nraise RuntimeError('planted')"
    )
    job = cloud.train(script)
    assert job["TrainingJobStatus"] == "Failed"
    assert job["FailureReason"].startswith("AlgorithmError: Traceback")
    assert job["FailureReason"].endswith("RuntimeError: planted, exit code: 1")
    assert cloud.unpack(job["ModelArtifacts"]["S3ModelArtifacts"]) == {"half": b"x"}


def test_output_failure_is_the_reason_where_it_is_written(cloud: Cloud) -> None:
    job = cloud.train(
        "import os, sys; open(os.environ['SM_OUTPUT_DIR'] + '/failure', 'w').write('no'); sys.exit(7)"
    )
    assert job["FailureReason"] == "AlgorithmError: no, exit code: 7"


def test_an_entry_point_of_its_own(cloud: Cloud) -> None:
    specification = {
        "TrainingImage": PLAIN,
        "TrainingInputMode": "File",
        "ContainerEntrypoint": ["/bin/sh", "-c"],
        "ContainerArguments": [
            "ls /opt/ml/input/data/train && cp -r /opt/ml/input/data/train /opt/ml/model/"
        ],
    }
    job = cloud.train("", AlgorithmSpecification=specification)
    assert cloud.unpack(job["ModelArtifacts"]["S3ModelArtifacts"]).keys() == {
        "train/a.txt",
        "train/deep/b.txt",
    }


def test_missing_data_is_refused_as_on_aws(cloud: Cloud) -> None:
    with pytest.raises(ClientError, match=r"ValidationException.* No S3 objects found under S3 URL"):
        cloud.train("", InputDataConfig=[channel("train", "s3://no-such-bucket/nothing/")])


def test_a_channel_cannot_leave_its_folder(cloud: Cloud) -> None:
    with pytest.raises(ClientError, match=r"ValidationException.*not that of a folder"):
        cloud.train("", InputDataConfig=[channel("..", f"s3://{BUCKET}/data/train/")])


def test_a_manifest_names_the_files(cloud: Cloud) -> None:
    manifest = [{"prefix": f"s3://{BUCKET}/data/"}, "train/deep/b.txt"]
    uri = cloud.put("manifests/one.manifest", json.dumps(manifest))
    script = "import os; print(os.listdir(os.environ['SM_CHANNEL_TRAIN'] + '/train/deep'))"
    job = cloud.train(script, InputDataConfig=[channel("train", uri, "ManifestFile")])
    assert cloud.log("TrainingJobs", job["TrainingJobName"]) == ["['b.txt']"]


def test_checkpoints_come_and_go(cloud: Cloud) -> None:
    script = (
        "from pathlib import Path; import os; p = Path(os.environ['SM_MODEL_DIR']).parent / 'checkpoints'\n"
        "(p / f'{len(list(p.iterdir()))}.txt').write_text('x')"
    )
    config = {"S3Uri": f"s3://{BUCKET}/{unique('checkpoints')}"}
    for _ in range(2):
        assert cloud.train(script, CheckpointConfig=config)["TrainingJobStatus"] == "Completed"
    assert cloud.keys(config["S3Uri"].removeprefix(f"s3://{BUCKET}/")) == ["/0.txt", "/1.txt"]


@pytest.mark.parametrize(
    ("script", "quick"),
    [
        ("import time; print('loss=1', flush=True); time.sleep(60)", True),
        # Ignores SIGTERM, so it ends by SIGKILL after the grace of two seconds; so does its child.
        (
            "import signal, subprocess, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "print('loss=1', flush=True); subprocess.Popen(['sleep', '61.5']); time.sleep(60)",
            False,
        ),
    ],
    ids=["polite", "stubborn"],
)
def test_stop(cloud: Cloud, script: str, quick: bool) -> None:
    request = cloud.training_request(script)
    cloud.sagemaker.create_training_job(**request)
    name = request["TrainingJobName"]
    time.sleep(0.5)
    started = time.monotonic()
    cloud.sagemaker.stop_training_job(TrainingJobName=name)
    assert cloud.sagemaker.describe_training_job(TrainingJobName=name)["TrainingJobStatus"] == "Stopping"
    job = cloud.training_end(name)
    assert job["TrainingJobStatus"] == job["SecondaryStatus"] == "Stopped"
    assert (time.monotonic() - started < 2) == quick
    assert job["FinalMetricDataList"][0]["Value"] == 1
    assert job["ModelArtifacts"]
    with pytest.raises(ClientError, match="is in status Stopped"):
        cloud.sagemaker.stop_training_job(TrainingJobName=name)


def test_the_time_limit(cloud: Cloud) -> None:
    job = cloud.train("import time; time.sleep(60)", StoppingCondition={"MaxRuntimeInSeconds": 1})
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")


def test_a_name_is_used_once(cloud: Cloud) -> None:
    request = cloud.training_request("")
    cloud.sagemaker.create_training_job(**request)
    with pytest.raises(ClientError) as raised:
        cloud.sagemaker.create_training_job(**request)
    assert raised.value.response["Error"]["Code"] == "ResourceInUse"
    cloud.training_end(request["TrainingJobName"])


def test_a_deleted_jobs_name_begins_anew(cloud: Cloud) -> None:
    failure = (
        "open('/opt/ml/output/failure', 'w').write('the first one'); print('loss=7'); raise SystemExit(3)"
    )
    first = cloud.train(failure)
    assert first["FailureReason"] == "AlgorithmError: the first one, exit code: 3"
    cloud.sagemaker.delete_training_job(TrainingJobName=first["TrainingJobName"])
    second = cloud.train("raise SystemExit(4)", TrainingJobName=first["TrainingJobName"])
    assert second["FailureReason"] == "AlgorithmError: , exit code: 4"
    assert not second.get("FinalMetricDataList")


def test_an_unknown_image_says_how_to_add_one(cloud: Cloud) -> None:
    with pytest.raises(ClientError, match=r"ValidationException.*images\.yaml"):
        cloud.train("", image="nobody/knows:1")


@pytest.mark.parametrize(
    "changes",
    [
        {"RemoteDebugConfig": {"EnableRemoteDebug": True}},
        {"InputDataConfig": [{**channel("x", "s3://b/p"), "InputMode": "Pipe"}]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_is_not_done_is_refused(cloud: Cloud, changes: dict[str, Any]) -> None:
    with pytest.raises(ClientError, match="local_sagemaker does not do"):
        cloud.train("", **changes)
    # Switched off, it asks for nothing.
    assert cloud.train("", ProfilerConfig={"DisableProfiler": True})["TrainingJobStatus"] == "Completed"


def test_requirements_that_cannot_be_had(cloud: Cloud) -> None:
    files = {"train.py": "print('loss=1')", "requirements.txt": "boto3\nno-such-package-anywhere==9\n"}
    uri = cloud.put("code/lacking.tar.gz", archive(files))
    job = cloud.train("", HyperParameters={"sagemaker_submit_directory": uri})
    assert job["FailureReason"].startswith(
        "AlgorithmError: InstallRequirementsError: requirements.txt asks for no-such-package-anywhere==9"
    )


def test_an_archive_that_leaves_its_folder_is_refused(cloud: Cloud) -> None:
    uri = cloud.put("code/evil.tar.gz", archive({"../../evil.py": "", "train.py": ""}))
    job = cloud.train("", HyperParameters={"sagemaker_submit_directory": uri})
    assert job["FailureReason"].startswith("ClientError: sourcedir.tar.gz cannot be extracted")
