"""SageMaker's wire protocols, read from botocore's service model.

Parses a request, validates it as the service does and serialises an answer. Timestamps are epoch seconds
throughout, also in stored documents.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from botocore.model import Shape, StructureShape

from local_sagemaker.api import shapes
from local_sagemaker.api.validation import WrongTypeError, taken, violations

Document = dict[str, Any]
ACCOUNT = os.environ.get("LOCAL_SAGEMAKER_ACCOUNT", "000000000000")
"""A DAG that names the roles of a real account runs as it is when this is that account's number."""


class ApiError(Exception):
    """An answer other than success, in AWS's shape."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status


def invalid(message: str) -> ApiError:
    """The error with which SageMaker answers most mistakes, a missing resource among them."""
    return ApiError("ValidationException", message)


def in_use(message: str) -> ApiError:
    """A name that is taken, or a resource that has not ended."""
    return ApiError("ResourceInUse", message)


def not_found(message: str) -> ApiError:
    """A missing resource, for the operations that declare this error and are not Describe or Stop."""
    return ApiError("ResourceNotFound", message)


class Protocol:
    """The operations named at construction, with the shapes they need and no others."""

    def __init__(self, service: str, operations: Iterable[str], folder: Path) -> None:
        """`folder` keeps the reduced service model."""
        self._model, self.known = shapes.load(service, frozenset(operations), folder)

    def parse(self, operation: str, body: Any) -> Document:
        """The validated request of a JSON protocol, without members the service does not know.

        Raises ApiError: SerializationException for a wrong type, ValidationException for everything else,
        with all violations in one message.
        """
        if not isinstance(body, dict):
            raise ApiError("SerializationException", "The request body is not a JSON object")
        return self._validated(operation, body, "ValidationException")

    def parse_rest(self, operation: str, uri: Mapping[str, str], headers: Mapping[str, str]) -> Document:
        """The validated members that a request of the runtime's REST protocol has in its address and headers.

        Raises ApiError: ValidationError.
        """
        shape = self._model.operation_model(operation).input_shape
        members: Document = {}
        for name, member in shape.members.items():
            place = member.serialization
            source = {"uri": uri, "header": headers}.get(place.get("location"), {})
            text = source.get(name if source is uri else place.get("name", name).lower())
            if text is not None:
                number = member.type_name == "integer" and text.isascii() and text.isdigit()
                members[name] = int(text[:20]) if number else text
        # The body is read, and limited, where it is used.
        members.update({name: "" for name, member in shape.members.items() if member.type_name == "blob"})
        request = self._validated(operation, members, "ValidationError")
        return {name: request[name] for name in request if shape.members[name].type_name != "blob"}

    def serialize(self, operation: str, answer: Document) -> Document:
        """The answer without members the operation does not have, nor those that are None."""
        shape = self._model.operation_model(operation).output_shape
        return {} if shape is None else dict(known_members(shape, answer))

    def shape(self, name: str) -> StructureShape:
        """A structure that one of the operations reaches."""
        shape: StructureShape = self._model.shape_for(name)
        return shape

    def _validated(self, operation: str, members: Document, code: str) -> Document:
        shape: Any = self._model.operation_model(operation).input_shape
        try:
            found = list(violations(shape, members))
            if not found:
                return dict(taken(shape, members))
        except WrongTypeError as error:
            serialization = "SerializationException" if code == "ValidationException" else code
            raise ApiError(serialization, str(error)) from error
        except RecursionError:
            raise ApiError("SerializationException", "The request is nested too deep") from None
        plural = "s" if len(found) > 1 else ""
        raise ApiError(code, f"{len(found)} validation error{plural} detected: {'; '.join(found)}")


def known_members(shape: Shape, value: Any) -> Any:
    """A document as a shape has it: without other members and without None."""
    if value is None or shape.type_name not in {"structure", "list", "map"}:
        return value
    inner: Any = shape
    if shape.type_name == "structure":
        members = inner.members
        return {
            key: known_members(members[key], item)
            for key, item in value.items()
            if key in members and item is not None
        }
    if shape.type_name == "list":
        return [known_members(inner.member, item) for item in value]
    return {key: known_members(inner.value, item) for key, item in value.items()}


def load_json(body: bytes) -> Any:
    """The body of a JSON protocol's request. Raises ApiError."""
    try:
        return json.loads(body.decode() or "{}", parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ApiError("SerializationException", f"The request body is not JSON: {error}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")
