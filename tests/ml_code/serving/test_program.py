"""A user's inference.py in the archive: any of the functions, over real HTTP."""

import json
import sys
from base64 import b64encode
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from serving.program import Program, ProgramError
from serving.settings import Settings
from tests.ml_code.conftest import TrainedModel
from tests.ml_code.serving.served import served


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Callable[[str], Settings]]:
    """`settings(program)`: of an archive whose code/ holds this program alone."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def of(program: str, model: Path | None = None) -> Settings:
        code = tmp_path / "code"
        code.mkdir()
        (code / "handler.py").write_text(program)
        return Settings(model or tmp_path, code, program="handler.py", backends=("eager",))

    yield of
    for name in set(sys.modules) - before & {"handler", "serving_default_inference"}:
        del sys.modules[name]


FOUR = """
import json

def model_fn(model_dir):
    return {"dir": model_dir}

def input_fn(body, content_type):
    if content_type != "text/csv":
        raise ValueError(f"{content_type} is not text/csv")
    return [float(value) for value in body.decode().split(",")]

def predict_fn(numbers, model):
    return sum(numbers) / len(numbers)

def output_fn(mean, accept):
    return json.dumps({"mean": mean})
"""


def test_all_four_are_the_users(settings: Callable[..., Settings]) -> None:
    with served(settings(FOUR)) as ask:
        assert ask(b"1,2,6", "text/csv") == (200, "application/json", b'{"mean": 3.0}')
        status, _, body = ask(b"1,2,6", "text/plain")
        assert (status, json.loads(body)) == (400, {"error": "text/plain is not text/csv"})
        status, _, body = ask(b"one", "text/csv")
        assert (status, json.loads(body)) == (400, {"error": "could not convert string to float: 'one'"})


def test_what_a_model_raises_is_not_the_callers_fault(settings: Callable[..., Settings]) -> None:
    program = FOUR.replace("return sum(numbers) / len(numbers)", "raise ValueError(f'no\\n{numbers}')")
    with served(settings(program)) as ask:
        status, _, body = ask(b"1", "text/csv")
        assert (status, json.loads(body)) == (500, {"error": "the model failed: no [1.0]"})


def test_transform_fn_alone(settings: Callable[..., Settings]) -> None:
    program = """
def model_fn(model_dir, context):
    return context.system_properties["model_dir"]

def transform_fn(model, body, content_type, accept):
    return f"{model} {body.decode()} {content_type} {accept}", "text/x-said"
"""
    chosen = settings(program)
    with served(chosen) as ask:
        expected = f"{chosen.model_dir} hello text/plain text/csv".encode()
        assert ask(b"hello", "text/plain", "text/csv") == (200, "text/x-said; charset=utf-8", expected)


def test_transform_fn_excludes_the_three(settings: Callable[..., Settings]) -> None:
    with pytest.raises(
        ProgramError, match=r"transform_fn together with \['input_fn', 'output_fn', 'predict_fn'\]"
    ):
        Program(settings(FOUR + "\ndef transform_fn(model, body, content_type, accept): ...\n"))


def test_the_rest_is_ours(settings: Callable[..., Settings], trained: TrainedModel, digits: Path) -> None:
    """An output_fn of one's own is asked for each request; the images are still gathered into batches."""
    program = """
def output_fn(prediction, accept):
    return f"{prediction.probabilities.argmax()} {sorted(prediction.timings_ms)} {accept}"
"""
    with served(settings(program, trained.model)) as ask:
        status, kind, body = ask(
            (digits / "test/7/001.jpg").read_bytes(), "image/jpeg", "text/plain;q=1, */*"
        )
        assert status == 200
        assert kind == "text/plain; charset=utf-8"
        assert body.decode() == "7 ['decode', 'forward', 'queue'] text/plain;q=1, */*"


def test_a_predict_fn_of_ones_own_is_called(
    settings: Callable[..., Settings], trained: TrainedModel, digits: Path
) -> None:
    program = """
import inference

def predict_fn(images, model):
    return inference.predict_fn(images, model)
"""
    image = (digits / "test/7/001.jpg").read_bytes()
    with served(settings(program, trained.model)) as ask:
        status, _, body = ask(image, "image/jpeg")
        answer = json.loads(body)
        assert (status, answer["label"], "timings_ms" in answer) == (200, "7", False)
        body = json.dumps({"instances": [{"b64": b64encode(image).decode()}] * 2}).encode()
        status, _, body = ask(body, "application/json")
        assert [one["label"] for one in json.loads(body)["predictions"]] == ["7", "7"]
        status, _, body = ask(image[: len(image) // 2], "image/jpeg")
        assert (status, "truncated" in json.loads(body)["error"]) == (400, True)


def test_an_input_fn_may_decode(
    settings: Callable[..., Settings], trained: TrainedModel, digits: Path
) -> None:
    program = """
from io import BytesIO
from PIL import Image

def input_fn(body, content_type):
    return Image.open(BytesIO(body)).convert("RGB")
"""
    with served(settings(program, trained.model)) as ask:
        status, _, body = ask((digits / "test/7/001.jpg").read_bytes(), "image/jpeg")
        assert (status, json.loads(body)["label"]) == (200, "7")


def test_an_input_fn_of_ones_own_may_wait(
    settings: Callable[..., Settings], trained: TrainedModel, digits: Path
) -> None:
    """Only an output_fn that came with decode_fn and forward_fn is called where all requests are taken."""
    program = """
import asyncio

def on_the_loop():
    try:
        return bool(asyncio.get_running_loop())
    except RuntimeError:
        return False

def input_fn(body, content_type):
    assert not on_the_loop()
    return body

def output_fn(prediction, accept):
    return f"on the loop: {on_the_loop()}"
"""
    with served(settings(program, trained.model)) as ask:
        status, _, body = ask((digits / "test/7/001.jpg").read_bytes(), "image/jpeg")
        assert (status, body) == (200, b"on the loop: False")


@pytest.mark.parametrize(
    ("own", "at_once"),
    [
        ("", True),
        ("from inference import decode_fn, forward_fn, output_fn, predict_fn", True),
        ("from inference import decode_fn, forward_fn, predict_fn", False),
        ("from inference import output_fn", False),
        ("from inference import predict_fn", False),
    ],
)
def test_an_output_fn_that_came_with_the_batched_functions_writes_at_once(
    settings: Callable[..., Settings], own: str, at_once: bool
) -> None:
    assert Program(settings(own)).writes_at_once is at_once


def test_answers_that_are_none_are_the_models_fault(
    settings: Callable[..., Settings], trained: TrainedModel, digits: Path
) -> None:
    """Whatever passed when the server started: a rollback watches 5xx, and a caller's fault is none."""
    program = """
import dataclasses
import inference
from inference import decode_fn, predict_fn

broken = False

def forward_fn(crops, model):
    if broken:
        network = model.network
        model = dataclasses.replace(model, network=lambda images: network(images) * float("nan"))
    return inference.forward_fn(crops, model)
"""
    image = (digits / "test/7/001.jpg").read_bytes()
    with served(settings(program, trained.model)) as ask:
        assert ask(image, "image/jpeg")[0] == 200
        sys.modules["handler"].broken = True  # type: ignore[attr-defined]
        status, _, body = ask(image, "image/jpeg")
        sentence = "the model failed: the model answers with probabilities that are not finite"
        assert (status, json.loads(body)) == (500, {"error": sentence})
        assert ask(b"nothing", "image/jpeg")[0] == 415


def test_a_program_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no mine\.py in"):
        Program(Settings(tmp_path, tmp_path / "code", program="mine.py"))


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        (
            "SAGEMAKER_BIND_TO_PORT",
            "http",
            "SAGEMAKER_BIND_TO_PORT has to be a number of at least 1: got 'http'",
        ),
        ("SERVING_MAX_BATCH", "0", "SERVING_MAX_BATCH has to be a number of at least 1: got '0'"),
        (
            "SERVING_DRAIN_S",
            "nan",
            "SERVING_DRAIN_S has to be a number of at least 0: got 'nan'",
        ),
        ("SERVING_BACKENDS", "onnx", "SERVING_BACKENDS has to be some of int8, onnxruntime, "),
    ],
)
def test_a_wrong_setting_is_one_sentence(name: str, value: str, sentence: str) -> None:
    with pytest.raises(ValueError, match="has to be") as raised:
        Settings.from_environment({name: value})
    assert str(raised.value).startswith(sentence)


def test_settings_come_from_the_environment() -> None:
    default = Settings.from_environment({})
    assert default == Settings(Path("/opt/ml/model"), Path("/opt/ml/model/code"))
    environment = {
        "SAGEMAKER_BASE_DIR": "/base",
        "SAGEMAKER_SUBMIT_DIRECTORY": "/code",
        "SAGEMAKER_PROGRAM": "mine.py",
        "SERVING_BACKENDS": "eager, int8",
        "SERVING_MAX_BODY_MB": "6",
    }
    chosen = Settings.from_environment(environment)
    assert (chosen.model_dir, chosen.code_dir, chosen.program) == (
        Path("/base/model"),
        Path("/code"),
        "mine.py",
    )
    assert (chosen.backends, chosen.max_body) == (("eager", "int8"), 6 * 2**20)
