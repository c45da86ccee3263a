"""What runs on this machine: the local cloud, and Airflow in front of it.

Everything that runs or is written lives below one folder (`var/`, or another one for tests), so that two stacks
can run side by side. Every process started here leads a session of its own and carries `EVERGREEN_STACK=FOLDER`
in its environment; by these `down` finds it and its children again.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import boto3
import psutil
from botocore.exceptions import ClientError

from scripts import policies
from scripts.policies import ROLE as ROLE

REPOSITORY = Path(__file__).resolve().parents[1]
BUCKET = "evergreen"
REGION = "us-east-1"
DIGITS = "var/data/digits"
MARK = "EVERGREEN_STACK"


# Popen warns when it is collected while its process runs, which is what these are for.
_STARTED: list[subprocess.Popen[bytes]] = []


class StackError(RuntimeError):
    """Something did not start; the message says what, and where its log is."""


@dataclass(frozen=True)
class Cloud:
    """Where the local cloud answers."""

    sagemaker: str
    aws: str
    state: str
    pid: int

    def client(self, service: str) -> Any:
        url = self.sagemaker if service.startswith("sagemaker") else self.aws
        return boto3.client(
            service,
            endpoint_url=url,
            region_name=REGION,
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )


@dataclass(frozen=True)
class Stack:
    """The folders of one stack, and the means to start and stop what belongs to it."""

    var: Path
    dags: Path = REPOSITORY / "dags"
    # Of Airflow besides those that the stack needs: SECTION__NAME → value.
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def run(self) -> Path:
        """Process ids and addresses of what runs."""
        return self.var / "run"

    @property
    def log(self) -> Path:
        return self.var / "log"

    @property
    def airflow_home(self) -> Path:
        return self.var / "airflow"

    # The local cloud

    def cloud(self, port: int = 7700, aws_port: int = 7701) -> Cloud:
        """The stack's local cloud, started when it does not answer; bucket and role are there afterwards."""
        running = self.running_cloud()
        if running is None:
            running = self._start_cloud(port, aws_port)
        make_account(running)
        return running

    def running_cloud(self) -> Cloud | None:
        """The stack's local cloud, when it answers."""
        with suppress(OSError, ValueError, TypeError):
            cloud = Cloud(**json.loads((self.run / "cloud.json").read_text()))
            # Another stack's cloud may answer at the same port.
            if read_json(cloud.sagemaker + "/")["state"] == cloud.state:
                return cloud
        return None

    def _start_cloud(self, port: int, aws_port: int) -> Cloud:
        command = [
            REPOSITORY / "var/venv/cloud/bin/python", "-m", "local_sagemaker", "--state", self.var / "cloud",
            "--port", free_port(port), "--aws-port", free_port(aws_port),
        ]  # fmt: skip
        self.run.mkdir(parents=True, exist_ok=True)
        said = self.run / "cloud.said"
        with said.open("wb") as output:
            process = self.start("cloud", command, self._environment(), output)
        wait_for(
            f"the local cloud's answer (log: {self.log / 'cloud.log'})",
            lambda: process.poll() is not None or said.read_bytes().endswith(b"\n"),
            60,
        )
        if process.poll() is not None:
            raise StackError(f"the local cloud did not start: {_last_line(self.log / 'cloud.log')}")
        address = json.loads(said.read_text())
        cloud = Cloud(address["sagemaker"], address["aws"], address["state"], process.pid)
        (self.run / "cloud.json").write_text(json.dumps(cloud.__dict__))
        return cloud

    # Airflow

    def airflow_environment(self, cloud: Cloud, ui_port: int = 8080) -> dict[str, str]:
        """The environment of every Airflow process: folders, loopback, and the connection to the local cloud.

        The connection is all that tells this stack from AWS; the bucket is in it as the provider documents it.
        """
        url = f"http://127.0.0.1:{ui_port}"
        connection = {
            "conn_type": "aws",
            "login": "test",
            "password": "test",
            "extra": {
                "region_name": REGION,
                "endpoint_url": cloud.aws,
                "service_config": {
                    "sagemaker": {"endpoint_url": cloud.sagemaker},
                    "sagemaker-runtime": {"endpoint_url": cloud.sagemaker},
                    "s3": {"bucket_name": BUCKET},
                },
            },
        }
        settings = {
            "CORE__DAGS_FOLDER": self.dags,
            "CORE__PLUGINS_FOLDER": REPOSITORY / "plugins",
            "CORE__LOAD_EXAMPLES": False,
            "CORE__DAGS_ARE_PAUSED_AT_CREATION": False,
            "CORE__PARALLELISM": 4,
            "CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
            "API__HOST": "127.0.0.1",
            "API__PORT": ui_port,
            "API__BASE_URL": url,
            "API__WORKERS": 1,
            # A task whose process was killed is noticed within a minute, not five.
            "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": 30,
            # Neither are the tasks of a scheduler that was killed, which its successor looks for.
            "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": 30,
            "DAG_PROCESSOR__REFRESH_INTERVAL": 30,
            "LOGGING__LOGGING_LEVEL": "INFO",
            "USAGE_DATA_COLLECTION__ENABLED": False,
            **self.settings,
        }
        return self._environment() | {
            "AIRFLOW_HOME": str(self.airflow_home),
            "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(connection),
            # The provider's ProcessingOperator reads its output files with a client that ignores the connection.
            "AWS_ENDPOINT_URL": cloud.aws,
            "AWS_ENDPOINT_URL_SAGEMAKER": cloud.sagemaker,
            "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": cloud.sagemaker,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": REGION,
            "NO_PROXY": "127.0.0.1,localhost",
            **{f"AIRFLOW__{name}": str(value) for name, value in settings.items()},
        }

    def migrate(self, environment: dict[str, str]) -> None:
        """Airflow's database, made once for each version of Airflow."""
        done = self.airflow_home / f".migrated-{version('apache-airflow')}"
        if done.exists():
            return
        self.airflow_home.mkdir(parents=True, exist_ok=True)
        self.log.mkdir(parents=True, exist_ok=True)
        path = self.log / "airflow-db.log"
        with path.open("wb") as log:
            ended = subprocess.run(
                [*airflow_command(), "db", "migrate"], env=environment, stdout=log, stderr=log, check=False
            )
        if ended.returncode:
            raise StackError(f"airflow db migrate failed: {_last_line(path)} (log: {path})")
        done.touch()

    def start_airflow(self, environment: dict[str, str]) -> None:
        """API server, scheduler, DAG processor and triggerer, each in its own session.

        Not `airflow standalone`: its log servers listen on every interface. On one machine the API server reads
        the log files themselves.
        """
        for component, *arguments in (
            ("api-server",),
            ("scheduler", "--skip-serve-logs"),
            ("dag-processor",),
            ("triggerer", "--skip-serve-logs"),
        ):
            self.start(component, [*airflow_command(), component, *arguments], environment)

    def ui(self) -> str | None:
        """The web UI's address when it answers."""
        with suppress(OSError, ValueError, KeyError):
            url: str = json.loads((self.run / "ui.json").read_text())["url"]
            read_json(f"{url}/api/v2/monitor/health")
            return url
        return None

    def login(self) -> tuple[str, str]:
        """User and password of the web UI, which Airflow generates at its first start."""
        passwords = json.loads(
            (self.airflow_home / "simple_auth_manager_passwords.json.generated").read_text()
        )
        name, password = next(iter(passwords.items()))
        return str(name), str(password)

    def token(self, url: str) -> str:
        """A token for the REST API."""
        name, password = self.login()
        return str(
            read_json(f"{url}/auth/token", body={"username": name, "password": password})["access_token"]
        )

    # Ends

    def processes_of(self, name: str) -> list[psutil.Process]:
        found = []
        for process in self.processes():
            with suppress(psutil.Error):
                if any(name in part for part in process.cmdline()):
                    found.append(process)
        return found

    def processes(self) -> list[psutil.Process]:
        """Every process of this stack: what was started here, its session, and what carries the mark."""
        sessions = self._sessions()
        found: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            # Some are gone by now, some are another user's.
            with suppress(psutil.Error, ProcessLookupError, PermissionError):
                # Airflow retitles its processes, which overwrites the environment that others see.
                marked = process.environ().get(MARK) == str(self.var)
                if marked or os.getsid(process.pid) in sessions:
                    for member in (process, *process.children(recursive=True)):
                        found[member.pid] = member
        found.pop(os.getpid(), None)
        return [process for process in found.values() if _alive(process)]

    def _sessions(self) -> set[int]:
        """Ids of the sessions started here; a session keeps its id from reuse as long as it has a member."""
        started = set()
        for file in self.run.glob("*.pid"):
            pid, created = file.read_text().split()
            with suppress(psutil.NoSuchProcess):
                if str(psutil.Process(int(pid)).create_time()) != created:
                    continue
            started.add(int(pid))
        return started

    def down(self, grace: float = 20) -> int:
        """Stop all of it; how many processes that were. `grace` is in seconds, until they are killed."""
        processes = self.processes()
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        psutil.wait_procs(processes, timeout=grace)
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(self.processes(), timeout=5)
        for started in _STARTED:
            started.poll()
        for file in (*self.run.glob("*.json"), *self.run.glob("*.pid")):
            file.unlink()
        return len(processes)

    def _environment(self) -> dict[str, str]:
        # Airflow's own variables of the caller would point these processes at another Airflow.
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "AWS_"))}
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
        return {**kept, MARK: str(self.var), "PYTHONUNBUFFERED": "1"}

    def start(
        self, name: str, command: list[Any], environment: dict[str, str], output: IO[bytes] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a process that outlives this one; its log is `log/NAME.log`."""
        self.log.mkdir(parents=True, exist_ok=True)
        with (self.log / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [str(part) for part in command],
                cwd=REPOSITORY, env=environment, stdin=subprocess.DEVNULL, stdout=output or log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        _STARTED.append(process)
        self.run.mkdir(parents=True, exist_ok=True)
        created = psutil.Process(process.pid).create_time()
        (self.run / f"{name}.pid").write_text(f"{process.pid} {created}")
        return process


def make_account(cloud: Cloud) -> None:
    """The bucket and the role that on AWS an administrator makes once, by aws/cloudformation.yaml."""
    s3, iam = cloud.client("s3"), cloud.client("iam")
    with SuppressCode("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
        s3.create_bucket(Bucket=BUCKET)
        blocked = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
        s3.put_public_access_block(Bucket=BUCKET, PublicAccessBlockConfiguration=dict.fromkeys(blocked, True))
    with SuppressCode("EntityAlreadyExists"):
        account = cloud.client("sts").get_caller_identity()["Account"]
        given = policies.values(account, REGION, BUCKET)
        trust, permissions = (
            json.dumps(policies.render(name, given)) for name in ("execution-trust", "execution")
        )
        iam.create_role(RoleName=ROLE, AssumeRolePolicyDocument=trust)
        iam.put_role_policy(RoleName=ROLE, PolicyName="execution", PolicyDocument=permissions)


class SuppressCode:
    """Suppress boto3's ClientError with one of these codes."""

    def __init__(self, *codes: str) -> None:
        self.codes = codes

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: object, trace: object) -> bool:
        return isinstance(error, ClientError) and error.response["Error"]["Code"] in self.codes


def make_digits() -> Path:
    """The demo's dataset, written once."""
    folder = REPOSITORY / DIGITS
    if not folder.exists():
        subprocess.run(
            [REPOSITORY / "var/venv/ml/bin/python", "-m", "scripts.digits", folder],
            cwd=REPOSITORY,
            check=True,
        )
    return folder


def airflow_command() -> list[str]:
    return [sys.executable, "-m", "airflow"]


def wait_for(what: str, done: Callable[[], bool], seconds: float) -> None:
    """:raises StackError: when `done` is not true within `seconds`."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise StackError(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(0.5)


def free_port(wanted: int) -> int:
    """`wanted` when nothing listens there, any other free port of this machine otherwise."""
    for port in (wanted, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise StackError("this machine has no free port")


def read_json(
    url: str, token: str | None = None, body: dict[str, Any] | None = None, method: str | None = None
) -> Any:
    """The JSON which a server of this machine answers; without `method` to GET, or to POST when there is a body."""
    request = urllib.request.Request(  # our own addresses
        url,
        data=json.dumps(body).encode() if body is not None else None,
        method=method,
        headers={"Content-Type": "application/json"}
        | ({"Authorization": f"Bearer {token}"} if token else {}),
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.loads(response.read())


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"
