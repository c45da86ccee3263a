"""Images that run in Docker: real containers where there is an engine."""

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from local_sagemaker.api.protocol import ApiError
from local_sagemaker.images import Images
from local_sagemaker.processes import docker
from tests.local_sagemaker.cloud_client import ROLE, Cloud, archive, unique, wait
from tests.local_sagemaker.docker_image import IMAGE, build, why_not


@pytest.fixture(scope="module")
def docker_image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image's name; the test is skipped where it cannot be made."""
    if reason := why_not():
        pytest.skip(reason)
    build(tmp_path_factory.mktemp("image"))
    return IMAGE


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[str]:
    """A mark of this test alone."""
    yield f"{tmp_path}#1/job/"
    docker.remove(f"{tmp_path}#")


def start(command: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def output(command: list[str]) -> tuple[int, str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_train(docker_image: str, tmp_path: Path, mark: str) -> None:
    (tmp_path / "ml/input/config").mkdir(parents=True)
    (tmp_path / "ml/model").mkdir()
    (tmp_path / "ml/input/config/hyperparameters.json").write_text('{"lr": "0.1"}')
    variables = {"COLOUR": "light\nblue", "PATH": "/nowhere", "HOME": "/nowhere"}
    command = docker.command(docker_image, ["train"], tmp_path / "ml", variables, mark)
    assert output(command) == (0, "start train  light\nblue\n")
    assert json.loads((tmp_path / "ml/model/weights").read_text()) == {"lr": "0.1"}


def test_the_exit_status_is_the_containers(docker_image: str, tmp_path: Path, mark: str) -> None:
    assert output(docker.command(docker_image, ["fail"], tmp_path, {}, mark))[0] == 7
    status, said = output(docker.command("evergreen-test:no-such", ["train"], tmp_path, {}, mark))
    assert (status, "evergreen-test:no-such" in said) == (125, True)


def test_an_entry_point_in_place_of_the_images(docker_image: str, tmp_path: Path, mark: str) -> None:
    entrypoint = ["/usr/bin/perl", "-e", "print qq(@ARGV)"]
    command = docker.command(docker_image, ["a", "b c"], tmp_path, {}, mark, entrypoint=entrypoint)
    assert output(command) == (0, "a b c")


def test_host_names_and_network(docker_image: str, tmp_path: Path, mark: str) -> None:
    (tmp_path / "hosts").write_text("127.0.9.2 algo-2\n")
    options: dict[str, Any] = {"hostname": "algo-2", "hosts": tmp_path / "hosts"}
    status, said = output(
        docker.command(docker_image, ["show"], tmp_path, {}, mark, isolated=True, **options)
    )
    assert status == 0
    assert said.splitlines()[1:] == ["algo-2", "127.0.9.2 algo-2", "interfaces lo"]
    said = output(docker.command(docker_image, ["show"], tmp_path, {}, mark, **options))[1]
    machine = {line.split(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]}
    assert set(said.splitlines()[-1].split()[1:]) == machine


def test_sigterm_is_handed_on(docker_image: str, tmp_path: Path, mark: str) -> None:
    with start(docker.command(docker_image, ["wait"], tmp_path, {}, mark)) as process:
        assert process.stdout
        assert process.stdout.readline() == "start wait  \n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "stopped\n"
    assert process.returncode == 0


def test_what_a_kill_leaves_behind_is_found_by_its_mark(docker_image: str, tmp_path: Path, mark: str) -> None:
    other = f"{tmp_path}#2/job/"
    with start(docker.command(docker_image, ["wait"], tmp_path, {}, other)) as another:
        with start(docker.command(docker_image, ["wait"], tmp_path, {}, mark)) as process:
            assert process.stdout
            process.stdout.readline()
            process.kill()
        assert another.stdout
        another.stdout.readline()
        assert docker.remove(mark) == 1
        assert docker.remove(mark) == 0
        assert docker.remove(f"{tmp_path}#") == 1
    assert another.returncode == 137


def test_a_training_job(docker_image: str, cloud: Cloud) -> None:
    job = cloud.train("", docker_image, Environment={"COLOUR": "green"})
    assert job["TrainingJobStatus"] == "Completed", job
    assert json.loads(cloud.unpack(job["ModelArtifacts"]["S3ModelArtifacts"])["weights"]).keys() >= {
        "sagemaker_program"
    }
    assert cloud.log("TrainingJobs", job["TrainingJobName"])[0].startswith("start train")


def test_a_job_that_is_stopped(docker_image: str, cloud: Cloud) -> None:
    specification = {
        "TrainingImage": docker_image,
        "TrainingInputMode": "File",
        "ContainerEntrypoint": ["/usr/bin/perl", "-e", "sleep 600"],
    }
    request = cloud.training_request("", AlgorithmSpecification=specification)
    name = request["TrainingJobName"]
    cloud.sagemaker.create_training_job(**request)
    wait(
        lambda: {"up": "Creating" if docker_count(cloud, name) == 0 else "yes"},
        "up",
    )
    cloud.sagemaker.stop_training_job(TrainingJobName=name)
    assert cloud.training_end(name)["TrainingJobStatus"] == "Stopped"
    assert docker_count(cloud, name) == 0


def test_a_killed_service_leaves_no_container(docker_image: str, tmp_path: Path) -> None:
    running = Cloud(tmp_path / "state")
    specification = {
        "TrainingImage": docker_image,
        "TrainingInputMode": "File",
        "ContainerArguments": ["wait"],
    }
    request = running.training_request("", AlgorithmSpecification=specification)
    name = request["TrainingJobName"]
    running.sagemaker.create_training_job(**request)
    wait(lambda: {"up": "yes" if docker_count(running, name) else "Creating"}, "up")
    assert running.end(signal.SIGKILL) == -signal.SIGKILL
    wait(lambda: {"up": "Deleting" if docker_count(running, name) else "no"}, "up")


def docker_count(cloud: Cloud, name: str) -> int:
    """Containers of a job."""
    labels = output(["docker", "ps", "--all", '--format={{.Label "LOCAL_SAGEMAKER"}}'])[1]
    return sum(f"TrainingJob/{name}/" in line for line in labels.splitlines())


def test_an_endpoint(docker_image: str, cloud: Cloud) -> None:
    uri = cloud.put(f"models/{unique('model')}/model.tar.gz", archive({"answer.txt": "hello "}))
    container = {"Image": docker_image, "ModelDataUrl": uri, "Environment": {"COLOUR": "blue"}}
    name = unique("model")
    cloud.sagemaker.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=ROLE)
    endpoint = cloud.endpoint(name)
    assert cloud.invoke(endpoint, b"world") == "hello world"
    cloud.sagemaker.delete_endpoint(EndpointName=endpoint)
    with pytest.raises(ClientError, match="Could not find endpoint"):
        wait(lambda: cloud.sagemaker.describe_endpoint(EndpointName=endpoint), "EndpointStatus")
    assert docker.remove(f"{cloud.state}#") == 0


def test_without_an_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images.yaml").write_text("- {pattern: 'mine:.*', docker: true}")
    images = Images(tmp_path / "images.yaml")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ApiError, match="The image mine:1 runs in Docker, and there is no docker command"):
        images.find("mine:1")
    assert docker.remove(f"{tmp_path}#") == 0
    (tmp_path / "docker").write_text("#!/bin/sh\necho no engine >&2; exit 1\n")
    (tmp_path / "docker").chmod(0o755)
    with pytest.raises(ApiError, match=r"runs in Docker, and `docker version`: no engine"):
        images.find("mine:1")
