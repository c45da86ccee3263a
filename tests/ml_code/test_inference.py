"""The functions of inference.py."""

import csv
import dataclasses
import io
import json
import socket
from base64 import b64encode
from pathlib import Path

import inference
import pytest
import torch
from PIL import Image

from data.bodies import JSON, LINES, BodyError, UnsupportedMediaTypeError
from data.images import ImageDataset, UnreadableImageError, list_images, read_batches
from model.prediction import CSV, AnswerError, NotAcceptableError, answer, preferred
from tests.ml_code.conftest import TrainedModel


@pytest.fixture(scope="module")
def model(trained: TrainedModel) -> inference.LoadedModel:
    return inference.model_fn(str(trained.model))


def test_answer_is_the_contracts(model: inference.LoadedModel, digits: Path) -> None:
    body = (digits / "test" / "4" / "000.jpg").read_bytes()
    prediction = inference.predict_fn(inference.input_fn(body, "image/jpeg"), model)
    text, kind = inference.output_fn(prediction, "application/json")
    assert kind == "application/json"
    answer = json.loads(text)
    assert list(answer) == ["label", "probability", "top_k", "model_version"]
    assert answer["top_k"][0] == {"label": answer["label"], "probability": answer["probability"]}
    assert len(answer["top_k"]) == 5
    assert answer["model_version"] == model.manifest["version"]
    assert 0 < answer["probability"] <= 1


def test_serving_preprocesses_byte_for_byte_like_training(
    model: inference.LoadedModel, digits: Path, extracted: Path
) -> None:
    root = digits / "test"
    dataset = ImageDataset(root, list_images(root, model.classes), model.preprocessing)
    crops = torch.cat([batch.views[:, 0] for batch in read_batches(dataset, 16)])
    trained_on = model.preprocessing.normalize(crops)
    for index, (file, _) in enumerate(dataset.listing.samples):
        image = inference.input_fn((root / file).read_bytes(), "")
        served = model.preprocessing(image)
        assert served.numpy().tobytes() == trained_on[index].numpy().tobytes()
        assert served.numpy().tobytes() == dataset[index][0].numpy().tobytes()


def test_large_photographs_are_served_as_they_are_trained_on(
    model: inference.LoadedModel, tmp_path: Path
) -> None:
    """Both leave out what is too fine: a 2,000 pixel photograph is decoded at an eighth for 32 pixels."""
    photograph = Image.effect_noise((2000, 1600), 90).convert("RGB")
    for label in ("0", "1"):
        (tmp_path / label).mkdir()
        photograph.save(tmp_path / label / "large.jpg")
    dataset = ImageDataset(tmp_path, list_images(tmp_path), model.preprocessing)
    assert model.preprocessing.decode((tmp_path / "0/large.jpg").read_bytes()).size == (250, 200)
    served = model.preprocessing(inference.input_fn((tmp_path / "0/large.jpg").read_bytes(), ""))
    assert served.numpy().tobytes() == dataset[0][0].numpy().tobytes()


def test_png_sent_as_jpeg_is_read(model: inference.LoadedModel) -> None:
    file = io.BytesIO()
    Image.new("L", (32, 32)).save(file, "PNG")
    assert inference.predict_fn(inference.input_fn(file.getvalue(), "image/jpeg"), model)


def test_bodies_come_as_torchserve_hands_them_over(model: inference.LoadedModel, digits: Path) -> None:
    content = (digits / "test/7/001.jpg").read_bytes()
    assert inference.predict_fn(inference.input_fn(bytearray(content), "image/jpeg"), model)
    document = json.dumps({"instances": [{"b64": b64encode(content).decode()}]})
    [prediction] = inference.predict_fn(inference.input_fn(document, JSON), model)
    assert answer(prediction)["label"] == "7"


def test_the_callers_faults_are_the_toolkits_where_there_is_one(
    model: inference.LoadedModel, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sagemaker_inference.errors.BaseInferenceToolkitError`: the toolkit answers 500 to everything else."""

    class ToolkitError(Exception):
        def __init__(self, status_code: int, message: str, phrase: str) -> None:
            self.said = status_code, message, phrase

    monkeypatch.setattr(inference, "ToolkitError", ToolkitError)
    image = (digits / "test/1/000.jpg").read_bytes()
    with pytest.raises(ToolkitError) as raised:
        inference.input_fn(b"nothing", "image/jpeg")
    assert raised.value.said == (
        415, "the content is no JPEG, PNG, WebP, GIF, BMP or TIFF image", "Unsupported Media Type",
    )  # fmt: skip
    with pytest.raises(ToolkitError) as raised:
        inference.predict_fn(inference.input_fn(image[: len(image) // 2], ""), model)
    assert raised.value.said[0] == 400
    with pytest.raises(ToolkitError) as raised:
        inference.output_fn(inference.predict_fn(image, model), "image/png")
    assert raised.value.said[0] == 406
    broken = dataclasses.replace(model, network=lambda images: torch.full((1, 10), torch.nan))
    with pytest.raises(AnswerError):
        inference.predict_fn(image, broken)


def test_an_image_that_is_cut_short_has_no_answer(model: inference.LoadedModel, digits: Path) -> None:
    content = (digits / "test/1/000.jpg").read_bytes()
    body = inference.input_fn(content[: len(content) // 2], "image/jpeg")
    with pytest.raises(UnreadableImageError, match="truncated"):
        inference.predict_fn(body, model)


@pytest.mark.parametrize(
    ("body", "content_type", "error"),
    [
        (b"{}", "text/plain", UnsupportedMediaTypeError),
        (b"%PDF-1.7", "image/jpeg", UnsupportedMediaTypeError),
        (b"GIF89a", "image/jpeg", UnreadableImageError),
        (b"", "image/jpeg", BodyError),
        (b"\xff\xd8\xff\xe0", "image/jpeg", UnreadableImageError),
    ],
)
def test_bad_input_is_refused(body: bytes, content_type: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        inference.input_fn(body, content_type)


def test_no_address_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for content_type in ("application/json", "application/jsonlines", "text/plain", "image/jpeg", ""):
        with pytest.raises(BodyError):
            inference.input_fn(b'{"url": "http://127.0.0.1:9/x.jpg"}', content_type)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("text/html, application/json;q=0.9", JSON),
        ("text/csv;q=0.5, application/jsonlines", LINES),
        ("application/json;q=0, text/*", CSV),
        ("TEXT/CSV; q=0.3; charset=utf-8", CSV),
    ],
)
def test_the_preferred_form_is_answered(model: inference.LoadedModel, accept: str, kind: str) -> None:
    assert preferred(accept) == kind


@pytest.mark.parametrize("accept", ["text/html", "image/png", "application/json;q=0", "application/json;q=x"])
def test_other_forms_are_refused(accept: str) -> None:
    with pytest.raises(NotAcceptableError, match="is not supported: answers are"):
        preferred(accept)


def test_the_forms_of_many_answers(model: inference.LoadedModel) -> None:
    predictions = inference.predict_fn(
        [Image.new("RGB", (8, 8), colour) for colour in ("red", "white")], model
    )
    predictions[0].timings_ms = {"forward": 1.0}
    objects = [answer(prediction) for prediction in predictions]
    assert objects[0]["timings_ms"] == {"forward": 1.0}
    assert "timings_ms" not in objects[1]
    assert json.loads(inference.output_fn(predictions, JSON)[0]) == {"predictions": objects}
    lines = [json.loads(line) for line in inference.output_fn(predictions, LINES)[0].splitlines()]
    del objects[0]["timings_ms"]
    assert lines == objects
    rows = list(csv.reader(io.StringIO(inference.output_fn(predictions, CSV)[0])))
    for row, expected in zip(rows, objects, strict=True):
        assert row[:3] == [expected["label"], str(expected["probability"]), expected["model_version"]]
        assert row[3:5] == [str(value) for value in expected["top_k"][1].values()]
        assert len(row) == 11


def test_what_is_no_answer_is_the_models_fault(model: inference.LoadedModel) -> None:
    crops = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    for network, message in (
        (lambda images: torch.full((len(images), 10), torch.nan), "not finite"),
        (lambda images: torch.full((len(images), 10), torch.inf), "not finite"),
        (lambda images: torch.zeros(len(images), 9), "answers with 9 numbers and has 10 classes"),
    ):
        broken = dataclasses.replace(model, network=network)
        with pytest.raises(AnswerError, match=message):
            inference.forward_fn(crops, broken)


def test_a_batch_answers_like_its_images(model: inference.LoadedModel, digits: Path) -> None:
    images = [inference.input_fn(file.read_bytes(), "") for file in sorted((digits / "test" / "7").iterdir())]
    together = inference.predict_batch(images, model)
    for image, prediction in zip(images, together, strict=True):
        alone = inference.predict_fn(image, model)
        torch.testing.assert_close(prediction.probabilities, alone.probabilities, atol=1e-4, rtol=1e-3)
