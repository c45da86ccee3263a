"""The server as a process, over real HTTP."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

import serving
from tests.ml_code.conftest import TrainedModel

ML_CODE = Path(serving.__file__).parents[1]


class Answer(NamedTuple):
    status: int
    body: bytes

    @property
    def error(self) -> str:
        return str(json.loads(self.body)["error"])


def start(model: Path, port: int) -> subprocess.Popen[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "SM_MODEL_DIR": str(model),
        "SAGEMAKER_BIND_TO_PORT": str(port),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "serving.server"],
        cwd=ML_CODE, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def request(
    port: int, method: str, path: str, body: bytes | None = None, content_type: str = "image/jpeg"
) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, {"Content-Type": content_type})
        response = connection.getresponse()
        return Answer(response.status, response.read())
    finally:
        connection.close()


@pytest.fixture(scope="module")
def port(trained: TrainedModel) -> Generator[int]:
    number = free_port()
    process = start(trained.model, number)
    try:
        wait_until_ready(process, number)
        yield number
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=30)
        assert "Traceback" not in output
        # uvicorn raises the signal again once it has shut down, for whoever waits for the process.
        assert process.returncode in {0, -signal.SIGTERM}
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def wait_until_ready(process: subprocess.Popen[str], port: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stdout.read()
        try:
            if request(port, "GET", "/ping").status == 200:
                return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError("the server did not get ready")


def test_ping_and_an_image(port: int, digits: Path) -> None:
    assert request(port, "GET", "/ping") == Answer(200, b"")
    answer = request(port, "POST", "/invocations", (digits / "test/4/001.jpg").read_bytes())
    assert answer.status == 200
    assert set(json.loads(answer.body)) == {"label", "probability", "top_k", "model_version"}


@pytest.mark.parametrize(
    ("body", "content_type", "status", "message"),
    [
        (b"", "image/jpeg", 400, "no body"),
        (b"\xff\xd8\xff\xe0 broken", "image/jpeg", 400, "cannot be decoded|is no JPEG"),
        (b"\x89PNG\r\n\x1a\n", "image/png", 400, "cannot be decoded|is no JPEG"),
        (b"plain text", "image/jpeg", 415, "is no JPEG, PNG, WebP"),
        (b'{"url": "http://localhost/"}', "application/json", 415, "application/json is not supported"),
    ],
)
def test_bad_input_is_the_callers_error(
    port: int, body: bytes, content_type: str, status: int, message: str
) -> None:
    answer = request(port, "POST", "/invocations", body, content_type)
    assert answer.status == status
    import re

    assert re.search(message, answer.error)


def test_bodies_have_a_limit(port: int) -> None:
    answer = request(port, "POST", "/invocations", b"\0" * (26 * 1024 * 1024))
    assert (answer.status, answer.error) == (413, "the body is larger than 25 MiB")


def test_other_paths_and_methods(port: int) -> None:
    assert request(port, "GET", "/invocations").status == 405
    assert request(port, "GET", "/").status == 404


def test_many_at_once_get_their_own_answers(port: int, digits: Path) -> None:
    files = sorted((digits / "test").rglob("*.jpg"))[::3]
    alone = [json.loads(request(port, "POST", "/invocations", file.read_bytes()).body) for file in files]
    with ThreadPoolExecutor(8) as pool:
        bodies = list(pool.map(lambda file: request(port, "POST", "/invocations", file.read_bytes()), files))
    for one, answer in zip(alone, bodies, strict=True):
        together = json.loads(answer.body)
        assert together["label"] == one["label"]
        assert together["probability"] == pytest.approx(one["probability"], abs=1e-4)


def test_a_damaged_model_does_not_start(trained: TrainedModel, tmp_path: Path) -> None:
    model = Path(shutil.copytree(trained.model, tmp_path / "model"))
    (model / "model.safetensors").write_bytes(b"other weights")
    process = start(model, free_port())
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "the weights were changed or belong to another model" in output
