"""The served model's functions, as SageMaker's PyTorch serving contract names them.

    model_fn(model_dir) -> model              once, at start
    input_fn(body, content_type) -> images    one image file or many, data/bodies.py
    predict_fn(images, model) -> predictions
    output_fn(predictions, accept) -> text    and its media type, model/prediction.py

A server that gathers requests into batches calls in place of predict_fn

    decode_fn(image, model) -> crop           in parallel
    forward_fn(crops, model) -> predictions   for images of many requests

and output_fn, for one prediction, without a thread of its own: it must not wait.

Nothing is fetched: a body is an image, never the address of one. What is the caller's fault is raised with `status`, an
HTTP status of 4xx; in AWS's inference image as its toolkit's error, since the toolkit answers 500 to any other.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path

import torch
from PIL.Image import Image
from torch import Tensor

from data.bodies import images_of
from model.artifact import LoadedModel, load_model
from model.prediction import Prediction, checked, written

try:
    from sagemaker_inference.errors import (  # type: ignore[import-not-found]  # AWS's image has it
        BaseInferenceToolkitError as ToolkitError,
    )
except ImportError:
    ToolkitError = None

Picture = bytes | Image


def model_fn(model_dir: str) -> LoadedModel:
    """:raises model.artifact.ArtifactError: when the folder is incomplete, or its files do not fit together."""
    return load_model(Path(model_dir))


@contextmanager
def _faults() -> Generator[None]:
    """The toolkit's words for a caller's fault, where there is a toolkit."""
    try:
        yield
    except ValueError as error:
        if ToolkitError is None or not (status := getattr(error, "status", None)):
            raise
        raise ToolkitError(status, str(error), HTTPStatus(status).phrase) from error


def input_fn(request_body: bytes | bytearray | str, content_type: str) -> bytes | list[bytes]:
    """Image files, looked at but not decoded: how much of them is needed, the model knows.

    :raises ValueError: with a sentence for the caller; see `data.bodies.images_of`.
    """
    # TorchServe hands over a bytearray, the toolkit in front of it a string where the content type is JSON's.
    body = request_body.encode() if isinstance(request_body, str) else bytes(request_body)
    with _faults():
        return images_of(body, content_type)


def predict_fn(images: Picture | Sequence[Picture], model: LoadedModel) -> Prediction | list[Prediction]:
    """One prediction for one image, a list for a sequence.

    :raises data.decoding.UnreadableImageError: when an image turns out to be cut short or damaged.
    :raises model.prediction.AnswerError: when the model answers with what is no probability.
    """
    with _faults():
        if isinstance(images, bytes | Image):
            return predict_batch([images], model)[0]
        return predict_batch(images, model)


def predict_batch(images: Sequence[Picture], model: LoadedModel) -> list[Prediction]:
    """One forward pass for all; raises as `predict_fn` does."""
    return forward_fn(torch.stack([decode_fn(image, model) for image in images]), model)


def decode_fn(image: Picture, model: LoadedModel) -> Tensor:
    """uint8 [3, S, S], by the preprocessing that the model was trained with.

    :raises data.decoding.UnreadableImageError: with the reason.
    """
    return model.preprocessing.crop(image)


def forward_fn(crops: Tensor, model: LoadedModel) -> list[Prediction]:
    """One prediction for each of uint8 [N, 3, S, S].

    :raises model.prediction.AnswerError: when the model answers with what is no probability.
    """
    batch = model.preprocessing.normalize(crops.to(model.device))
    return checked(model.predict_proba(batch), model)


def output_fn(prediction: Prediction | Sequence[Prediction], accept: str) -> tuple[str, str]:
    """The answer and its media type.

    :raises model.prediction.NotAcceptableError: when the caller takes none that there is.
    """
    with _faults():
        return written(prediction, accept)
