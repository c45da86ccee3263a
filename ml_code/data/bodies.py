"""What a request's body holds: one image, or many in JSON.

    image/*, application/x-image, application/octet-stream   the bytes of an image file
    application/json         {"b64": "…"}, or {"instances": [{"b64": "…"}, …]} as TensorFlow Serving, Vertex AI
                             and KServe take it; {"image_bytes": {"b64": "…"}} is an instance too
    application/jsonlines    {"b64": "…"} a line: what a batch transform joins from many records

An image's own bytes say what it is: clients send PNG as image/jpeg. An address is no image, and is never fetched.
"""

import binascii
import json
from base64 import b64decode
from typing import Any

from data.decoding import NAMES, UnreadableImageError, check, sniff

JSON, LINES = "application/json", "application/jsonlines"
MAX_INSTANCES = 10_000
"""In one body. SageMaker's largest batch transform payload of 6 MB holds 5,000 digits."""
_ANY_IMAGE = ("", "application/x-image", "application/octet-stream")
_INSTANCE = '{"b64": "…"} with the base64 of an image file'


class BodyError(ValueError):
    """The body is not what its content type says, or nothing that can be answered; one sentence."""

    status = 400


class UnsupportedMediaTypeError(BodyError):
    """The body, or its content type, is of a kind that is not taken."""

    status = 415


def images_of(body: bytes, content_type: str) -> bytes | list[bytes]:
    """One image file, or many where the content type can hold many; looked at but not decoded.

    :raises UnsupportedMediaTypeError: when the content type is no image's and not JSON, or the content is no image.
    :raises BodyError: when JSON is not what the module's docstring shows.
    :raises data.decoding.UnreadableImageError: when an image can be seen to be unreadable.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == JSON:
        document = _loads(body, "the body")
        if isinstance(document, dict) and "instances" in document:
            return _instances(document["instances"])
        return _looked_at(_instance(document, "the body"))
    if kind == LINES:
        lines = [line for line in body.split(b"\n") if line.strip()]
        return _instances([_loads(line, f"line {number}") for number, line in enumerate(lines, 1)])
    if kind in _ANY_IMAGE or kind.startswith("image/"):
        if not body:
            raise BodyError(f"the request has no body: send the bytes of a {NAMES} image")
        return _looked_at(body)
    raise UnsupportedMediaTypeError(
        f"content type {kind} is not supported: send a {NAMES} image, {JSON} or {LINES}"
    )


def _instances(instances: Any) -> list[bytes]:
    if not isinstance(instances, list) or not instances:
        raise BodyError(f"there are no instances: send a list of {_INSTANCE}")
    if len(instances) > MAX_INSTANCES:
        raise BodyError(
            f"there are {len(instances):,} instances: send at most {MAX_INSTANCES:,} in one request"
        )
    images = []
    for number, instance in enumerate(instances):
        name = f"instance {number}"
        try:
            images.append(_looked_at(_instance(instance, name)))
        except UnreadableImageError as error:
            raise UnreadableImageError(f"{name}: {error}") from error
        except UnsupportedMediaTypeError as error:
            raise BodyError(f"{name} is none: {error}") from error
    return images


def _instance(instance: Any, name: str) -> bytes:
    """The content of one instance's base64."""
    value = instance.get("image_bytes", instance) if isinstance(instance, dict) else None
    encoded = value.get("b64") if isinstance(value, dict) else None
    if not isinstance(encoded, str):
        raise BodyError(f"{name} is not {_INSTANCE}; addresses are not fetched")
    try:
        return b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BodyError(f"the b64 of {name} is not base64: {error}") from error


def _looked_at(content: bytes) -> bytes:
    if sniff(content) is None:
        raise UnsupportedMediaTypeError(f"the content is no {NAMES} image")
    check(content)
    return content


def _loads(text: bytes, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BodyError(f"{name} is not JSON: {error}") from error
