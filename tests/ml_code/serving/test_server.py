"""The server as a process, over real HTTP."""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from safetensors.torch import load_file, save_file

import serving
from model.artifact import ArtifactError, sha256_of
from model.prediction import AnswerError
from serving.metrics import Metrics
from serving.service import Service
from serving.settings import Settings
from tests.ml_code.conftest import TrainedModel

ML_CODE = Path(serving.__file__).parents[1]
REPOSITORY = ML_CODE.parent


class Answer(NamedTuple):
    status: int
    body: bytes

    @property
    def error(self) -> str:
        return str(json.loads(self.body)["error"])


def start(model: Path, port: int, code: Path = ML_CODE, **more: str) -> subprocess.Popen[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(code),
        "OMP_WAIT_POLICY": "PASSIVE",
        "SM_MODEL_DIR": str(model),
        "SAGEMAKER_BIND_TO_PORT": str(port),
        **more,
    }
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "serving.server", "serve"],
        cwd="/", env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def image_files(folder: Path) -> Path:
    """What the Dockerfile copies to /opt/serving, from what .dockerignore lets through: nothing else is there."""
    copied = re.findall(
        r"^COPY (ml_code/\S+) /opt/serving/(\S*)$", (REPOSITORY / "Dockerfile").read_text(), re.M
    )
    kept = set((REPOSITORY / ".dockerignore").read_text().splitlines())
    assert len(copied) == 4
    for source, target in copied:
        assert {f"!{source}", "!ml_code"} & kept
        if (REPOSITORY / source).is_dir():
            shutil.copytree(
                REPOSITORY / source, folder / target, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(REPOSITORY / source, folder / target)
    return folder


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def request(
    port: int,
    method: str,
    path: str,
    body: bytes | None = None,
    content_type: str = "image/jpeg",
    accept: str = "",
) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, {"Content-Type": content_type, "Accept": accept})
        response = connection.getresponse()
        return Answer(response.status, response.read())
    finally:
        connection.close()


@pytest.fixture(scope="module")
def port(trained: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Generator[int]:
    number, home = free_port(), tmp_path_factory.mktemp("home")
    # Without the archive's code: the image's has to be enough.
    model = Path(
        shutil.copytree(
            trained.model, tmp_path_factory.mktemp("served") / "model", ignore=shutil.ignore_patterns("code")
        )
    )
    code = image_files(tmp_path_factory.mktemp("image"))
    process = start(
        model, number, code, HOME=str(home), PYTHONDONTWRITEBYTECODE="1", SERVING_LOG_FORMAT="json"
    )
    try:
        wait_until_ready(process, number)
        yield number
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=30)
        assert "Traceback" not in output
        # uvicorn raises the signal again once it has shut down, for whoever waits for the process.
        assert process.returncode in {0, -signal.SIGTERM}
        assert "by onnxruntime" in output or "by eager" in output
        check_log([json.loads(line) for line in output.splitlines()], model)
        # ONNX Runtime would keep what it wants to tell Microsoft there.
        assert not (home / ".cache/Microsoft").exists()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def check_log(entries: list[dict[str, Any]], model: Path) -> None:
    """Every line is JSON, and each request has one with what it was, by whom it was answered and how."""
    assert all(entry.keys() >= {"time", "level", "logger", "message"} for entry in entries)
    requests = [entry for entry in entries if entry["logger"] == "serving.access"]
    version = json.loads((model / "model.json").read_text())["version"]
    assert {entry["model_version"] for entry in requests} == {version}
    assert len({entry["request_id"] for entry in requests}) == len(requests) > 0
    assert {200, 400} <= {entry["status"] for entry in requests}
    assert all(entry["milliseconds"] > 0 for entry in requests)


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
    document = json.loads(answer.body)
    assert set(document) == {"label", "probability", "top_k", "model_version", "timings_ms"}
    assert set(document["timings_ms"]) == {"queue", "decode", "forward"}
    assert all(value >= 0 for value in document["timings_ms"].values())


@pytest.mark.parametrize(
    ("body", "content_type", "status", "message"),
    [
        (b"", "image/jpeg", 400, "no body"),
        (b"\xff\xd8\xff\xe0 broken", "image/jpeg", 400, "cannot be decoded|is no JPEG"),
        (b"\x89PNG\r\n\x1a\n", "image/png", 400, "cannot be decoded|is no JPEG"),
        (b"plain text", "image/jpeg", 415, "is no JPEG, PNG, WebP"),
        (b'{"url": "http://localhost/"}', "application/json", 400, "addresses are not fetched"),
        (b'{"instances": [', "application/json", 400, "the body is not JSON"),
        (b"plain text", "text/plain", 415, "content type text/plain is not supported"),
    ],
)
def test_bad_input_is_the_callers_error(
    port: int, body: bytes, content_type: str, status: int, message: str
) -> None:
    answer = request(port, "POST", "/invocations", body, content_type)
    assert answer.status == status
    assert re.search(message, answer.error)


def test_bodies_have_a_limit(port: int) -> None:
    answer = request(port, "POST", "/invocations", b"\0" * (26 * 1024 * 1024))
    assert (answer.status, answer.error) == (413, "the body is larger than 25 MiB")


def test_many_images_and_their_forms(port: int, digits: Path) -> None:
    files = sorted((digits / "test").rglob("*.jpg"))[:20]
    alone = [json.loads(request(port, "POST", "/invocations", file.read_bytes()).body) for file in files]
    instances = [{"b64": b64encode(file.read_bytes()).decode()} for file in files]
    many = request(
        port, "POST", "/invocations", json.dumps({"instances": instances}).encode(), "application/json"
    )
    lines = "\n".join(map(json.dumps, instances)).encode()
    joined = request(port, "POST", "/invocations", lines, "application/jsonlines")
    predictions = json.loads(many.body)["predictions"]
    records = [json.loads(line) for line in joined.body.splitlines()]
    for one, prediction, record in zip(alone, predictions, records, strict=True):
        assert one["label"] == prediction["label"] == record["label"]
        assert prediction["probability"] == pytest.approx(one["probability"], abs=1e-4)
        assert record["probability"] == pytest.approx(one["probability"], abs=1e-4)


def test_a_damaged_image_among_many_is_named(port: int, digits: Path) -> None:
    good = (digits / "test/0/000.jpg").read_bytes()
    instances = [{"b64": b64encode(content).decode()} for content in (good, good[: len(good) // 2])]
    answer = request(
        port, "POST", "/invocations", json.dumps({"instances": instances}).encode(), "application/json"
    )
    assert answer.status == 400
    assert re.match(r"instance 1: it cannot be decoded: .*truncated", answer.error)


def test_an_answer_that_nobody_takes(port: int, digits: Path) -> None:
    body = (digits / "test/0/000.jpg").read_bytes()
    answer = request(port, "POST", "/invocations", body, accept="image/png")
    assert (answer.status, answer.error.split(":")[0]) == (406, "accept image/png is not supported")
    assert request(port, "POST", "/invocations", body, accept="text/csv").body.count(b",") == 10


def test_metrics_count_what_was_answered(port: int, digits: Path) -> None:
    body = (digits / "test/0/000.jpg").read_bytes()
    before = metrics(port)
    request(port, "POST", "/invocations", body)
    request(port, "POST", "/invocations", b"nothing")
    after = metrics(port)

    def more(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert more("serving_requests_total 200") == 1
    assert more("serving_requests_total 415") == 1
    assert more("serving_images_total") == 1
    assert more("serving_stage_seconds_count forward") == 1
    assert after["serving_requests_in_progress"] == 0
    version = json.loads(request(port, "POST", "/invocations", body).body)["model_version"]
    [info] = [set(name.split()) for name in after if name.startswith("serving_info")]
    assert info & {"onnxruntime", "eager"}
    assert version in info
    assert {"serving_backend_milliseconds onnxruntime", "serving_backend_milliseconds eager"} <= set(after)


def metrics(port: int) -> dict[str, float]:
    """Value by name and, where it has one, label; buckets left out."""
    families = text_string_to_metric_families(request(port, "GET", "/metrics").body.decode())
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in families
        for sample in family.samples
        if "le" not in sample.labels
    }


def test_what_a_batch_transform_asks(port: int) -> None:
    parameters = json.loads(request(port, "GET", "/execution-parameters").body)
    assert parameters == {"MaxConcurrentTransforms": 16, "BatchStrategy": "MULTI_RECORD", "MaxPayloadInMB": 6}


def test_callers_that_never_finish_hold_up_nobody(port: int, digits: Path) -> None:
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
    for connection in slow:
        connection.sendall(b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n\xff")
    answer = request(port, "POST", "/invocations", (digits / "test/4/001.jpg").read_bytes())
    assert answer.status == 200
    for connection in slow:
        connection.close()
    assert request(port, "GET", "/ping").status == 200


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


def test_sigterm_answers_what_was_accepted(trained: TrainedModel, digits: Path) -> None:
    """Requests in a row while it ends: each is answered, or finds the port closed. And a full house says so."""
    number = free_port()
    body = (digits / "test/4/001.jpg").read_bytes()
    many = json.dumps({"instances": [{"b64": b64encode(body).decode()}] * 300}).encode()
    process = start(
        trained.model, number, SERVING_BACKENDS="eager", SERVING_MAX_WAITING="1", SERVING_DRAIN_S="1"
    )
    try:
        wait_until_ready(process, number)
        with ThreadPoolExecutor(1) as pool:
            long = pool.submit(request, number, "POST", "/invocations", many, "application/json")
            while metrics(number)["serving_requests_in_progress"] == 0:
                time.sleep(0.01)
            refused = request(number, "POST", "/invocations", body)
            assert (refused.status, refused.error) == (503, "1 requests are waiting already; try again")
            process.send_signal(signal.SIGTERM)
            statuses = set()
            with contextlib.suppress(ConnectionError):
                while True:
                    statuses.add(request(number, "POST", "/invocations", body).status)
                    unhealthy = request(number, "GET", "/ping").status
            assert statuses <= {200, 503}
            assert unhealthy == 503
            answer = long.result()
            assert (answer.status, len(json.loads(answer.body)["predictions"])) == (200, 300)
        output, _ = process.communicate(timeout=30)
        assert "Traceback" not in output
        assert process.returncode in {0, -signal.SIGTERM}
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def damaged(trained: TrainedModel, tmp_path: Path) -> Path:
    """A copy of the model that a test may damage."""
    return Path(shutil.copytree(trained.model, tmp_path / "model"))


def test_a_damaged_model_does_not_start(damaged: Path) -> None:
    (damaged / "model.safetensors").write_bytes(b"other weights")
    process = start(damaged, free_port())
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "the weights were changed or belong to another model" in output.splitlines()[-1]


def load(model: Path) -> None:
    # Ours beside the package: the archive's own would leave its folder on this process's path.
    Service(Settings(model, model / "none", backends=("eager",)), Metrics()).close()


def test_a_model_of_other_classes_does_not_start(damaged: Path) -> None:
    manifest = json.loads((damaged / "model.json").read_text())
    (damaged / "model.json").write_text(json.dumps(manifest | {"classes": [*manifest["classes"], "eleven"]}))
    with pytest.raises(
        ArtifactError, match=r"does not fit its manifest: .* size mismatch for tail\.fc\.weight"
    ):
        load(damaged)


def test_a_model_that_answers_no_numbers_does_not_start(damaged: Path) -> None:
    weights = load_file(damaged / "model.safetensors")
    weights["tail.fc.bias"] = torch.full_like(weights["tail.fc.bias"], torch.nan)
    save_file(weights, damaged / "model.safetensors")
    manifest = json.loads((damaged / "model.json").read_text())
    sha256 = sha256_of(damaged / "model.safetensors")
    (damaged / "model.json").write_text(json.dumps(manifest | {"sha256": sha256}))
    with pytest.raises(AnswerError, match="probabilities that are not finite"):
        load(damaged)
