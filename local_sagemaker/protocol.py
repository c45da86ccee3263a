"""SageMaker's wire protocol, read from botocore's service model.

Parses a request, validates it as the service does (botocore's own validator leaves out enums, patterns and
upper limits) and serialises an answer. Timestamps are epoch seconds throughout, also in stored documents.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import botocore.loaders
from botocore.model import ListShape, MapShape, ServiceModel, Shape, StringShape, StructureShape

Document = dict[str, Any]
ACCOUNT = "000000000000"


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
    """A name that is taken."""
    return ApiError("ResourceInUse", message)


class Protocol:
    """The operations named at construction, with the shapes they need and no others."""

    def __init__(self, operations: frozenset[str]) -> None:
        full = botocore.loaders.Loader().load_service_model("sagemaker", "service-2")
        # The full model is some 100 MB of Python objects; an idle service should not keep them.
        self.known: frozenset[str] = frozenset(full["operations"])
        self._model = ServiceModel(_pruned(full, operations), "sagemaker")

    def parse(self, operation: str, body: Any) -> Document:
        """The validated request, without members the service does not know.

        Raises ApiError: SerializationException for a wrong type, ValidationException for everything else,
        with all violations in one message.
        """
        if not isinstance(body, dict):
            raise ApiError("SerializationException", "The request body is not a JSON object")
        shape: Any = self._model.operation_model(operation).input_shape
        violations = list(_violations(shape, body, ""))
        if violations:
            plural = "s" if len(violations) > 1 else ""
            raise invalid(f"{len(violations)} validation error{plural} detected: {'; '.join(violations)}")
        request = _known_members(shape, body)
        assert isinstance(request, dict)
        return request

    def serialize(self, operation: str, answer: Document) -> Document:
        """The answer without members the operation does not have, nor those that are None."""
        shape = self._model.operation_model(operation).output_shape
        if shape is None:
            return {}
        result = _known_members(shape, answer)
        assert isinstance(result, dict)
        return result


def _pruned(full: Document, operations: frozenset[str]) -> Document:
    """The service model reduced to some operations and the shapes that they reach, without documentation."""
    shapes: Document = {}

    def reach(name: str) -> None:
        if name in shapes:
            return
        shape = {key: value for key, value in full["shapes"][name].items() if key != "documentation"}
        shapes[name] = shape
        references = [
            *shape.get("members", {}).values(),
            shape.get("member"),
            shape.get("key"),
            shape.get("value"),
        ]
        for reference in references:
            if isinstance(reference, dict):
                reference.pop("documentation", None)
                reach(reference["shape"])

    kept = {name: {**full["operations"][name], "errors": []} for name in operations}
    for operation in kept.values():
        operation.pop("documentation", None)
        for side in ("input", "output"):
            if side in operation:
                reach(operation[side]["shape"])
    return {"metadata": full["metadata"], "operations": kept, "shapes": shapes}


def _known_members(shape: Shape, value: Any) -> Any:
    if isinstance(shape, StructureShape):
        members = shape.members
        return {
            key: _known_members(members[key], item)
            for key, item in value.items()
            if key in members and item is not None
        }
    if isinstance(shape, ListShape):
        return [_known_members(shape.member, item) for item in value]
    if isinstance(shape, MapShape):
        return {key: _known_members(shape.value, item) for key, item in value.items()}
    return value


_TYPES: dict[str, tuple[type, ...]] = {
    "structure": (dict,),
    "map": (dict,),
    "list": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "long": (int,),
    "float": (int, float),
    "double": (int, float),
    "timestamp": (int, float),
}


def _violations(shape: Shape, value: Any, path: str) -> Iterator[str]:
    allowed = _TYPES[shape.type_name]
    if not isinstance(value, allowed) or (shape.type_name != "boolean" and isinstance(value, bool)):
        raise ApiError(
            "SerializationException", f"{value!r} at '{path}' cannot be converted to {shape.type_name}"
        )
    content: Any = value
    if isinstance(shape, StructureShape):
        yield from _structure_violations(shape, content, path)
        return
    failed = f"Value '{_shown(content)}' at '{path}' failed to satisfy constraint: Member must "
    for requirement in _requirements(shape, content):
        yield failed + requirement
    if isinstance(shape, ListShape):
        for number, item in enumerate(content, 1):
            yield from _violations(shape.member, item, f"{path}.{number}.member")
    elif isinstance(shape, MapShape):
        for key, item in content.items():
            yield from _violations(shape.key, key, f"{path}.{key}.key")
            yield from _violations(shape.value, item, f"{path}.{key}.member")


def _structure_violations(shape: StructureShape, value: Document, path: str) -> Iterator[str]:
    for name, member in shape.members.items():
        member_path = ".".join(filter(None, [path, name[0].lower() + name[1:]]))
        if value.get(name) is not None:
            yield from _violations(member, value[name], member_path)
        elif name in shape.required_members:
            yield f"Value null at '{member_path}' failed to satisfy constraint: Member must not be null"


def _requirements(shape: Shape, value: Any) -> Iterator[str]:
    """What a scalar, list or map violates, each as the end of AWS's sentence."""
    limits = shape.metadata
    sized = isinstance(value, (str, list, dict))
    size, measure = (len(value), "length") if sized else (value, "value")
    if isinstance(shape, StringShape) and shape.enum and value not in shape.enum:
        yield f"satisfy enum value set: [{', '.join(shape.enum)}]"
    pattern = _pattern(limits["pattern"]) if isinstance(value, str) and limits.get("pattern") else None
    if pattern and not pattern.fullmatch(value):
        yield f"satisfy regular expression pattern: {limits['pattern']}"
    if "min" in limits and size < limits["min"]:
        yield f"have {measure} greater than or equal to {limits['min']}"
    if "max" in limits and size > limits["max"]:
        yield f"have {measure} less than or equal to {limits['max']}"


@cache
def _pattern(text: str) -> re.Pattern[str] | None:
    """The pattern, or None where it uses Unicode classes such as \\p{L}: those only forbid control characters."""
    return None if "\\p{" in text else re.compile(text)


def _shown(value: Any) -> str:
    return "[" + ", ".join(map(str, value)) + "]" if isinstance(value, list) else str(value)
