"""docker-compose.yaml as a file; `make chaos NAME=compose` runs it."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts import env_file
from scripts.local_stack import REPOSITORY

FILE = REPOSITORY / "docker-compose.yaml"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text())["services"]
LASTING = sorted(SERVICES.keys() - {"airflow-init"})


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_no_root_and_has_limits(name: str) -> None:
    service = SERVICES[name]
    assert str(service["user"]).split(":")[0] not in {"", "0", "root"}
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"mem_limit", "pids_limit"} <= service.keys()
    assert "privileged" not in service


@pytest.mark.parametrize("name", LASTING)
def test_a_service_that_lasts_comes_back_and_says_how_it_is(name: str) -> None:
    assert SERVICES[name]["restart"] == "unless-stopped"
    assert SERVICES[name]["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}


def test_ports_are_open_to_this_machine_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_local_cloud_is_a_profile_and_apart_from_the_databases() -> None:
    assert [name for name, service in SERVICES.items() if "profiles" in service] == ["local-sagemaker"]
    assert SERVICES["local-sagemaker"]["profiles"] == ["local"]
    for name in ("postgres", "redis"):
        assert not set(SERVICES["local-sagemaker"]["networks"]) & set(SERVICES[name]["networks"])


def test_images_and_their_bases_are_exact_versions() -> None:
    text = FILE.read_text()
    bases = re.findall(r"\$\{(?:AIRFLOW_BASE|PYTHON_BASE|POSTGRES_IMAGE|REDIS_IMAGE):-([^}]+)\}", text)
    assert len(bases) == 4
    assert all(re.search(r":\d+\.\d+(\.\d+)?-", base) for base in bases)
    for name in ("airflow", "local_sagemaker"):
        dockerfile = (REPOSITORY / f"docker/{name}.Dockerfile").read_text()
        assert re.search(r"^ARG BASE=\S+$", dockerfile, re.M)
        assert "docker build --tag" in "\n".join(dockerfile.splitlines()[:5])


@pytest.mark.parametrize("secret", [*env_file.SECRETS, "CLOUD"])
def test_no_secret_has_a_default(secret: str) -> None:
    uses = re.findall(rf"\$\{{{secret}([^}}]*)\}}", FILE.read_text())
    assert any(use.startswith(":?") for use in uses)
    assert not any(use.startswith(("-", ":-")) for use in uses)


def config(folder: Path, *without: str, **more: str) -> "subprocess.CompletedProcess[str]":
    """`docker compose config` with the file of `make env`, less some of its lines."""
    file = folder / "env"
    file.unlink(missing_ok=True)
    env_file.write(file)
    lines = [line for line in file.read_text().splitlines() if not line.startswith(without)]
    file.write_text("\n".join([*lines, *(f"{name}={value}" for name, value in more.items())]))
    command = ["docker", "compose", "--file", str(FILE), "--env-file", str(file), "config"]
    return subprocess.run(command, env={"PATH": PATH}, capture_output=True, text=True, check=False)


PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def has_compose() -> bool:
    docker = shutil.which("docker", path=PATH)
    return (
        docker is not None
        and subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0
    )


@pytest.mark.skipif(not has_compose(), reason="docker compose is not installed")
def test_compose_takes_the_file_and_refuses_what_is_missing(tmp_path: Path) -> None:
    local = config(tmp_path)
    assert local.returncode == 0, local.stderr
    assert "local-sagemaker" in yaml.safe_load(local.stdout)["services"]
    without = config(tmp_path, "POSTGRES_PASSWORD=")
    assert without.returncode != 0
    assert "required variable POSTGRES_PASSWORD is missing a value: run make env" in without.stderr


@pytest.mark.skipif(not has_compose(), reason="docker compose is not installed")
def test_one_line_switches_to_aws(tmp_path: Path) -> None:
    refused = config(tmp_path, "CLOUD=", CLOUD="aws")
    assert refused.returncode != 0
    assert "AIRFLOW_CONN_AWS_DEFAULT" in refused.stderr
    connection = '{"conn_type": "aws", "extra": {"region_name": "eu-central-1"}}'
    taken = config(
        tmp_path, "CLOUD=", "COMPOSE_PROFILES=", CLOUD="aws", COMPOSE_PROFILES="aws",
        AIRFLOW_CONN_AWS_DEFAULT=f"'{connection}'",
    )  # fmt: skip
    assert taken.returncode == 0, taken.stderr
    services = yaml.safe_load(taken.stdout)["services"]
    assert "local-sagemaker" not in services
    environment = services["airflow-worker"]["environment"]
    assert environment["AIRFLOW_CONN_AWS_DEFAULT"] == connection
    assert not any(name.startswith("AWS_") for name in environment)


def test_the_containers_have_the_versions_that_are_tested() -> None:
    locks = [
        dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", (REPOSITORY / file).read_text(), re.M))
        for file in ("requirements.lock", "docker/requirements.lock")
    ]
    assert {
        name: version for name, version in locks[1].items() if locks[0].get(name, version) != version
    } == {}
    assert {"apache-airflow", "apache-airflow-providers-amazon", "boto3"} <= locks[0].keys() & locks[1].keys()
