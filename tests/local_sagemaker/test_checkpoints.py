"""Checkpoints, spot interruptions, retries: what a job keeps when its machine goes."""

import json
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.local_sagemaker.cloud_client import BUCKET, Cloud, unique

# Counts in a checkpoint; ends when it has been started `starts` times, before that it waits to be ended.
SCRIPT = """
import argparse, os, pathlib, time
parser = argparse.ArgumentParser()
parser.add_argument("--starts", type=int)
checkpoint = pathlib.Path("/opt/ml/checkpoints/count")
count = int(checkpoint.read_text()) + 1 if checkpoint.exists() else 1
assert not pathlib.Path("/opt/ml/model/count").exists()
pathlib.Path("/opt/ml/model/count").write_text(str(count))
checkpoint.write_text(str(count))
pathlib.Path("/opt/ml/checkpoints/half.tmp").write_text("x")
print("start", count, flush=True)
if count < parser.parse_args().starts:
    time.sleep(600)
"""


def checkpoints() -> dict[str, str]:
    return {"S3Uri": f"s3://{BUCKET}/checkpoints/{unique('c')}"}


def until_saved(cloud: Cloud, config: dict[str, str], count: int) -> None:
    """Wait until a checkpoint is in S3, which it is while the job runs."""
    deadline = time.monotonic() + 20
    prefix = config["S3Uri"].removeprefix(f"s3://{BUCKET}/")
    while "/count" not in cloud.keys(prefix) or cloud.read(f"{config['S3Uri']}/count") != str(count).encode():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert cloud.keys(prefix) == ["/count"]


def test_checkpoints_reach_s3_while_the_job_runs_and_come_back(cloud: Cloud) -> None:
    config = checkpoints()
    first = cloud.training_request(SCRIPT, HyperParameters={"starts": "2"}, CheckpointConfig=config)
    cloud.sagemaker.create_training_job(**first)
    until_saved(cloud, config, 1)
    cloud.sagemaker.stop_training_job(TrainingJobName=first["TrainingJobName"])
    assert cloud.training_end(first["TrainingJobName"])["TrainingJobStatus"] == "Stopped"
    second = cloud.train(SCRIPT, HyperParameters={"starts": "2"}, CheckpointConfig=config)
    assert cloud.unpack(second["ModelArtifacts"]["S3ModelArtifacts"]) == {"count": b"2"}


def interrupt(cloud: Cloud, name: str) -> None:
    request = urllib.request.Request(
        f"{cloud.address['sagemaker']}/training-jobs/{name}/interruption", method="POST"
    )
    urllib.request.urlopen(request).close()


SPOT = {
    "EnableManagedSpotTraining": True,
    "StoppingCondition": {"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 120},
    "HyperParameters": {"starts": "2"},
}


def test_a_spot_job_goes_on_after_an_interruption(cloud: Cloud) -> None:
    config = checkpoints()
    request = cloud.training_request(SCRIPT, CheckpointConfig=config, **SPOT)
    cloud.sagemaker.create_training_job(**request)
    until_saved(cloud, config, 1)
    interrupt(cloud, request["TrainingJobName"])
    job = cloud.training_end(request["TrainingJobName"])
    assert job["TrainingJobStatus"] == "Completed", job
    assert [item["Status"] for item in job["SecondaryStatusTransitions"]] == [
        *("Starting", "Downloading", "Training", "Interrupted"),
        *("Starting", "Downloading", "Training", "Uploading", "Completed"),
    ]
    assert cloud.unpack(job["ModelArtifacts"]["S3ModelArtifacts"]) == {"count": b"2"}
    assert 1 <= job["BillableTimeInSeconds"] <= job["TrainingTimeInSeconds"]
    with pytest.raises(urllib.error.HTTPError, match="400"):
        interrupt(cloud, request["TrainingJobName"])


def test_spot_times_are_checked(cloud: Cloud) -> None:
    for condition, spot in (
        ({"MaxRuntimeInSeconds": 60}, True),
        ({"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 30}, True),
        ({"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 90}, False),
    ):
        with pytest.raises(ClientError, match=r"ValidationException.*MaxWaitTimeInSeconds"):
            cloud.train("", StoppingCondition=condition, EnableManagedSpotTraining=spot)


@pytest.mark.parametrize("way", [SPOT, {"RetryStrategy": {"MaximumRetryAttempts": 1}}], ids=["spot", "retry"])
def test_a_killed_service_goes_on_with_what_may_go_on(way: dict[str, object], tmp_path: Path) -> None:
    cloud = Cloud(tmp_path / "state", "--slots=1")
    config = checkpoints()
    changes = {**way, "HyperParameters": {"starts": "2"}, "CheckpointConfig": config}
    running = cloud.training_request(SCRIPT, **changes)
    queued = cloud.training_request("print('loss=1')")
    stopped = cloud.training_request("print('loss=1')")
    for request in (running, queued, stopped):
        cloud.sagemaker.create_training_job(**request)
    # What waits for its slot ends at once.
    cloud.sagemaker.stop_training_job(TrainingJobName=stopped["TrainingJobName"])
    job = cloud.sagemaker.describe_training_job(TrainingJobName=stopped["TrainingJobName"])
    assert (job["TrainingJobStatus"], job["BillableTimeInSeconds"]) == ("Stopped", 0)
    until_saved(cloud, config, 1)
    cloud.end(signal.SIGKILL)

    again = Cloud(tmp_path / "state", "--slots=1")
    job = again.training_end(running["TrainingJobName"])
    assert job["TrainingJobStatus"] == "Completed", job
    assert again.unpack(job["ModelArtifacts"]["S3ModelArtifacts"]) == {"count": b"2"}
    assert again.training_end(queued["TrainingJobName"])["TrainingJobStatus"] == "Completed"
    assert again.end() == 0


def test_uncompressed_output(cloud: Cloud) -> None:
    output = {"S3OutputPath": f"s3://{BUCKET}/output", "CompressionType": "NONE"}
    script = "open('/opt/ml/model/weights', 'w').write('w'); open('/opt/ml/model/named.tmp', 'w').write('t')"
    job = cloud.train(script, OutputDataConfig=output)
    uri = job["ModelArtifacts"]["S3ModelArtifacts"]
    assert uri == f"s3://{BUCKET}/output/{job['TrainingJobName']}/output/model/"
    assert (cloud.read(f"{uri}weights"), cloud.read(f"{uri}named.tmp")) == (b"w", b"t")


def test_a_stop_is_seen_in_the_transitions(cloud: Cloud) -> None:
    request = cloud.training_request("import time; print('up', flush=True); time.sleep(600)")
    name = request["TrainingJobName"]
    cloud.sagemaker.create_training_job(**request)
    deadline = time.monotonic() + 20
    while cloud.sagemaker.describe_training_job(TrainingJobName=name)["SecondaryStatus"] != "Training":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    cloud.sagemaker.stop_training_job(TrainingJobName=name)
    assert cloud.sagemaker.describe_training_job(TrainingJobName=name)["SecondaryStatus"] in {
        "Stopping",
        "Stopped",
    }
    job = cloud.training_end(name)
    assert [item["Status"] for item in job["SecondaryStatusTransitions"]][-2:] == ["Stopping", "Stopped"]
    assert json.dumps(job["SecondaryStatusTransitions"], default=str).count("EndTime") == len(
        job["SecondaryStatusTransitions"]
    )
