"""The client, against our server and against SageMaker's protocol in front of it."""

import json
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from serving.client import main
from serving.settings import Settings
from tests.ml_code.conftest import TrainedModel
from tests.ml_code.serving.served import Served, served


@pytest.fixture(scope="module")
def server(trained: TrainedModel) -> Generator[Served]:
    # Ours beside the package: the archive's own would leave its folder on this process's path.
    with served(Settings(trained.model, trained.model / "none", backends=("eager",))) as running:
        yield running


@pytest.fixture
def runtime(server: Served) -> Generator[str]:
    """The address of a SageMaker runtime that has the endpoint `digits`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path == "/endpoints/digits/invocations":
                status, kind, answer = server(body, self.headers["content-type"], self.headers["accept"])
            else:
                status, kind, answer = 400, "application/json", b'{"message": "no such endpoint"}'
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_answers_come_in_the_order_of_the_files(
    server: Served, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(digits / f"test/{digit}/000.jpg") for digit in (3, 7)]
    assert main([*files, "--url", f"{server.url}/"]) == 0
    labels = [json.loads(line)["label"] for line in capsys.readouterr().out.splitlines()]
    assert labels == [json.loads(server(Path(file).read_bytes(), "image/jpeg")[2])["label"] for file in files]


def test_an_endpoint_of_sagemaker(
    runtime: str, digits: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any credentials: the local cloud wants none."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    image = str(digits / "test/3/000.jpg")
    assert main([image, "--endpoint", "digits", "--endpoint-url", runtime]) == 0
    assert json.loads(capsys.readouterr().out)["top_k"]
    assert main([image, "--endpoint", "other", "--endpoint-url", runtime]) == 1
    assert capsys.readouterr().err.startswith("other did not answer: An error occurred")


def test_what_is_not_answered_is_one_sentence(
    server: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    for arguments, sentence in (
        ([str(text), "--url", server.url], f"{server.url} answered 415: "),
        ([str(text), "--url", "http://127.0.0.1:9"], "http://127.0.0.1:9 did not answer: "),
        ([str(text), "--url", "file:///etc"], "file:///etc is no http:// or https:// address"),
        ([str(tmp_path / "none.jpg"), "--url", server.url], "[Errno 2]"),
    ):
        assert main(arguments) == 1
        output = capsys.readouterr()
        assert output.err.startswith(sentence)
        assert len(output.err.splitlines()) == 1
        assert not output.out
