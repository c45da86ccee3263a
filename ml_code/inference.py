"""The served model's four functions, as SageMaker's PyTorch serving contract names them.

    model_fn(model_dir) -> model      once, at start
    input_fn(body, content_type)      bytes of an image file -> the same, looked at
    predict_fn(image, model)          -> probabilities
    output_fn(prediction, accept)     -> JSON, docs/contracts.md

Nothing is fetched: a body is an image, never the address of one.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL.Image import Image
from torch import Tensor

from data.decoding import NAMES, UnreadableImageError, check, sniff
from model.artifact import LoadedModel, load_model

TOP_K = 5
_ANY_IMAGE = ("application/x-image", "application/octet-stream")


class UnsupportedMediaTypeError(ValueError):
    """The request, or the answer that it asks for, is of a type that this model does not speak: 415 or 406."""


@dataclass(frozen=True)
class Prediction:
    probabilities: Tensor
    """float32 [C]."""
    model: LoadedModel


def model_fn(model_dir: str) -> LoadedModel:
    """:raises model.artifact.ArtifactError: when the folder is incomplete or its hashes are wrong."""
    return load_model(Path(model_dir))


def input_fn(request_body: bytes, content_type: str) -> bytes:
    """The image file, looked at but not decoded: how much of it is needed, the model knows.

    The format is read from the bytes: clients send PNG as image/jpeg.

    :raises UnsupportedMediaTypeError: when the content type, or the content, is no image's.
    :raises UnreadableImageError: when it is one and cannot be decoded.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind and kind not in _ANY_IMAGE and not kind.startswith("image/"):
        raise UnsupportedMediaTypeError(f"content type {kind} is not supported: send a {NAMES} image")
    if not request_body:
        raise UnreadableImageError(f"the request has no body: send the bytes of a {NAMES} image")
    if sniff(request_body) is None:
        raise UnsupportedMediaTypeError(f"the body is no {NAMES} image")
    check(request_body)
    return request_body


def predict_fn(image: bytes | Image, model: LoadedModel) -> Prediction:
    """:raises UnreadableImageError: when the image turns out to be cut short or damaged."""
    return predict_batch([image], model)[0]


def predict_batch(images: Sequence[bytes | Image], model: LoadedModel) -> list[Prediction]:
    """One forward pass for all, by the preprocessing that the model was trained with.

    :raises UnreadableImageError: see `predict_fn`.
    """
    batch = torch.stack([model.preprocessing(image) for image in images])
    return [Prediction(row, model) for row in model.predict_proba(batch)]


def output_fn(prediction: Prediction, accept: str) -> str:
    """The answer as JSON.

    :raises UnsupportedMediaTypeError: when the client does not take JSON.
    """
    kinds = {kind.partition(";")[0].strip().lower() for kind in accept.split(",")}
    if not kinds & {"", "*/*", "application/*", "application/json"}:
        raise UnsupportedMediaTypeError(f"accept {accept} is not supported: answers are application/json")
    return json.dumps(answer(prediction))


def answer(prediction: Prediction) -> dict[str, object]:
    """label, probability, top_k and model_version of docs/contracts.md."""
    model = prediction.model
    values, indices = torch.topk(prediction.probabilities, min(TOP_K, len(model.classes)))
    top = [
        {"label": model.classes[index], "probability": value}
        for value, index in zip(values.tolist(), indices.tolist(), strict=True)
    ]
    return {**top[0], "top_k": top, "model_version": model.manifest["version"]}
