"""Starting, ending, being killed: what is left, and what comes back."""

import contextlib
import json
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
from botocore.exceptions import ClientError

from tests.local_sagemaker.cloud_client import Cloud, free_port, launch, unique, wait
from tests.local_sagemaker.test_tuning import describe, request


def processes_of(state: Path) -> list[psutil.Process]:
    """Everything that runs for a state directory, save the service itself and its keeper."""
    found = []
    for process in psutil.process_iter():
        try:
            mark = process.environ().get("LOCAL_SAGEMAKER", "")
            if mark.startswith(f"{state}#") and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def commands_of(state: Path) -> list[str]:
    """The command lines of what runs for a state directory."""
    found = []
    for process in processes_of(state):
        with contextlib.suppress(psutil.Error):
            found.append(" ".join(process.cmdline()))
    return found


def wait_until_gone(state: Path) -> None:
    deadline = time.monotonic() + 5
    while processes_of(state):
        assert time.monotonic() < deadline, commands_of(state)
        time.sleep(0.05)


SLEEPER = """
import subprocess, time
# In a session of its own, which a process group would not reach.
subprocess.Popen(["sleep", "612"], start_new_session=True)
print("loss=1", flush=True)
time.sleep(611)
"""


def test_killed_and_started_again(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path / "state")
    endpoint = cloud.endpoint(cloud.model("one"))
    updating = cloud.endpoint(cloud.model("old"))
    training = cloud.training_request(SLEEPER)
    cloud.sagemaker.create_training_job(**training)
    tuning = request(cloud, SLEEPER)
    cloud.sagemaker.create_hyper_parameter_tuning_job(**tuning)
    deadline = time.monotonic() + 20
    while "sleep 612" not in commands_of(cloud.state):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    before = cloud.sagemaker.describe_endpoint(EndpointName=updating)["EndpointConfigName"]
    new = cloud.config(cloud.model("new"))
    cloud.sagemaker.update_endpoint(EndpointName=updating, EndpointConfigName=new)
    cloud.end(signal.SIGKILL)
    wait_until_gone(cloud.state)

    started = time.monotonic()
    again = Cloud(tmp_path / "state")
    job = again.sagemaker.describe_training_job(TrainingJobName=training["TrainingJobName"])
    assert job["TrainingJobStatus"] == "Failed"
    assert "local_sagemaker ended while this was in progress" in job["FailureReason"]
    assert job["TrainingEndTime"]
    name = tuning["HyperParameterTuningJobName"]
    assert describe(again, name)["HyperParameterTuningJobStatus"] == "InProgress"
    again.sagemaker.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    stopped = wait(lambda: describe(again, name), "HyperParameterTuningJobStatus")
    assert stopped["HyperParameterTuningJobStatus"] == "Stopped"
    assert again.endpoint_end(endpoint)["EndpointStatus"] == "InService"
    assert again.invoke(endpoint).startswith("one")
    assert time.monotonic() - started < 15
    after = again.endpoint_end(updating)
    assert (after["EndpointStatus"], after["EndpointConfigName"]) == ("InService", before)
    assert again.invoke(updating).startswith("old")
    assert again.train("print('loss=1')")["TrainingJobStatus"] == "Completed"
    assert again.end() == 0
    wait_until_gone(again.state)


def test_the_ports_of_a_killed_service_are_to_be_had_at_once(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path / "state", port=free_port(), aws_port=free_port())
    service = psutil.Process(cloud.process.pid)
    (keeper,) = [child for child in service.children() if any("keeper" in part for part in child.cmdline())]
    keeper.suspend()  # what the service leaves behind is still there when it starts again
    try:
        cloud.end(signal.SIGKILL)
        assert any("ministack" in command for command in commands_of(cloud.state))
        again = Cloud(tmp_path / "state", port=cloud.port("sagemaker"), aws_port=cloud.port("aws"))
    finally:
        keeper.resume()  # it ends what is left, as it would have
    assert again.s3.list_buckets()["Buckets"]
    assert again.end() == 0


def test_a_role_that_jobs_have_used_survives_a_kill(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path / "state")
    role = cloud.role(unique("kept"))
    assert cloud.train("print('loss=1')", RoleArn=role)["TrainingJobStatus"] == "Completed"
    cloud.end(signal.SIGKILL)
    wait_until_gone(cloud.state)
    again = Cloud(tmp_path / "state")
    assert again.train("print('loss=1')", RoleArn=role)["TrainingJobStatus"] == "Completed"
    assert again.end() == 0


def test_without_s3_and_iam_the_service_says_so_and_goes_on(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path / "state")
    role = cloud.role(unique("kept"))
    assert cloud.train("print('loss=1')", RoleArn=role)["TrainingJobStatus"] == "Completed"
    request = cloud.training_request("print('loss=1')", RoleArn=role)
    (ministack,) = [
        process
        for process in processes_of(cloud.state)
        if any("ministack" in part for part in process.cmdline())
    ]
    port = cloud.port("aws")
    ministack.kill()
    ministack.wait(5)
    with socket.socket() as taken:
        # Held, so that it cannot come back yet.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        once = cloud.client("sagemaker", retries={"total_max_attempts": 1})
        with contextlib.closing(once), pytest.raises(ClientError, match="ServiceUnavailable") as raised:
            once.create_training_job(**request)
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    iam = cloud.client("iam", retries={"total_max_attempts": 10})
    deadline = time.monotonic() + 20
    with contextlib.closing(iam):
        while not any(item["Arn"] == role for item in iam.list_roles()["Roles"]):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    cloud.sagemaker.create_training_job(**request)
    assert cloud.training_end(request["TrainingJobName"])["TrainingJobStatus"] == "Completed"
    assert cloud.end() == 0


def test_another_account(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path / "state", before=("env", "LOCAL_SAGEMAKER_ACCOUNT=123456789012"))
    role = "arn:aws:iam::123456789012:role/EvergreenSageMakerRole"
    job = cloud.train("print('loss=1')", RoleArn=role)
    assert job["TrainingJobStatus"] == "Completed"
    assert job["TrainingJobArn"].startswith("arn:aws:sagemaker:us-east-1:123456789012:training-job/")
    with pytest.raises(ClientError, match="Cross-account pass role is not allowed"):
        cloud.train("print('loss=1')")
    assert cloud.end() == 0


def test_sigterm_ends_everything_within_seconds(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path / "state")
    cloud.endpoint(cloud.model("one"))
    cloud.sagemaker.create_training_job(**cloud.training_request(SLEEPER, TrainingJobName=unique("sleeper")))
    time.sleep(0.5)
    started = time.monotonic()
    assert cloud.end() == 0
    assert time.monotonic() - started < 6
    assert processes_of(cloud.state) == []


def test_health(cloud: Cloud) -> None:
    with urllib.request.urlopen(cloud.address["sagemaker"]) as response:
        health = json.load(response)
    assert (health["service"], health["state"]) == ("local_sagemaker", str(cloud.state))
    assert health["aws"] == cloud.address["aws"]
    assert health["jobs"].keys() >= {"TrainingJob", "ProcessingJob"}


def ends_with(process: "subprocess.Popen[bytes]") -> str:
    """The one sentence with which a start that cannot be ends."""
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert output == b""
    lines = errors.decode().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(("which", "option"), [("sagemaker", "--port"), ("aws", "--aws-port")])
def test_a_port_in_use(cloud: Cloud, tmp_path: Path, which: str, option: str) -> None:
    port = cloud.port(which)
    process = launch(tmp_path, **{option.strip("-").replace("-", "_"): port})
    sentence = ends_with(process)
    assert str(port) in sentence
    assert sentence.endswith(f"choose another with {option}")


@pytest.mark.parametrize(
    "content", [None, "- {pattern: x}", "nonsense: ["], ids=["absent", "incomplete", "not YAML"]
)
def test_an_images_file_that_cannot_be_used(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "images.yaml"
    if content:
        file.write_text(content)
    sentence = ends_with(launch(tmp_path / "state", f"--images={file}"))
    assert str(file) in sentence
    assert sentence.endswith("see --images")


def test_a_state_directory_in_use(cloud: Cloud) -> None:
    sentence = ends_with(launch(cloud.state))
    assert str(cloud.state) in sentence
    assert sentence.endswith("choose another with --state")
