"""What the server answers is what the model answers offline; nothing that it is sent brings it down."""

import json
import random
from base64 import b64encode
from collections.abc import Generator
from pathlib import Path

import psutil
import pytest

from model.artifact import load_model
from serving.settings import Settings
from tests.ml_code.conftest import TrainedModel
from tests.ml_code.serving.served import Served, served


@pytest.fixture(scope="module", params=["eager", "onnxruntime"])
def server(trained: TrainedModel, request: pytest.FixtureRequest) -> Generator[Served]:
    with served(Settings(trained.model, trained.model / "none", backends=(request.param,))) as running:
        yield running


def test_every_probability_of_the_test_split(server: Served, trained: TrainedModel, digits: Path) -> None:
    """To 1e-4, whether an image comes alone or among others."""
    model = load_model(trained.model)
    files = sorted((digits / "test").rglob("*.jpg"))
    instances = [{"b64": b64encode(file.read_bytes()).decode()} for file in files]
    together = json.loads(server(json.dumps({"instances": instances}).encode(), "application/json")[2])
    for file, among_others in zip(files, together["predictions"], strict=True):
        offline = model.predict_proba(model.preprocessing(file.read_bytes())[None])[0]
        alone = json.loads(server(file.read_bytes(), "image/jpeg")[2])
        for answer in (alone, among_others):
            assert answer["label"] == model.classes[int(offline.argmax())]
            for one in answer["top_k"]:
                assert abs(one["probability"] - float(offline[model.classes.index(one["label"])])) <= 1e-4


def test_garbage_is_refused_and_costs_nothing(server: Served, digits: Path) -> None:
    """A short form of `make bench NAME=malformed`."""
    good = (digits / "test/4/001.jpg").read_bytes()
    drawn = random.Random(0)
    process = psutil.Process()
    for round_ in range(2):
        for _ in range(150):
            body = bytearray(good)
            for _ in range(drawn.randrange(1, 40)):
                body[drawn.randrange(len(body))] = drawn.randrange(256)
            kind = drawn.choice(["image/jpeg", "application/json", "application/jsonlines", "text/csv", ""])
            status, _, answer = server(bytes(body[: drawn.randrange(len(body))]), kind)
            assert 400 <= status < 500 or status == 200
            assert status == 200 or set(json.loads(answer)) == {"error"}
        if round_ == 0:
            before = process.memory_info().rss
    assert process.memory_info().rss <= 1.05 * before
    assert server(good, "image/jpeg")[0] == 200
