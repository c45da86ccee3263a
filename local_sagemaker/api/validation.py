"""What is wrong with a request, in AWS's words, and the request as the service takes it.

botocore's own validator leaves out enums, patterns and upper limits, and speaks of the client's arguments.
"""

import base64
import binascii
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from typing import Any

from botocore.model import ListShape, MapShape, Shape, StringShape, StructureShape

SHOWN = 4096
"""Characters of a wrong value that a message repeats."""
_LAST_MOMENT = 253402300800.0  # the year 10000
_LIMITS = {"integer": 2**31, "long": 2**63}
_TOKENS = {
    bool: "BOOLEAN_VALUE",
    str: "STRING_VALUE",
    int: "NUMBER_VALUE",
    float: "NUMBER_VALUE",
    list: "LIST",
}
_NULL = "Member must not be null"


class WrongTypeError(Exception):
    """A value of another type than the model's, for which AWS has no validation but a parser's error."""


def violations(shape: Shape, value: Any, path: str = "") -> Iterator[str]:
    """Everything that is wrong with a value, as AWS's sentences. Raises WrongTypeError."""
    _check_type(shape, value, path)
    if isinstance(shape, StructureShape):
        yield from _of_structure(shape, value, path)
        return
    for constraint, kept in _constraints(shape):
        if not kept(value):
            yield _failed(shape, value, path, constraint)
    if isinstance(shape, ListShape):
        yield from _of_list(shape, value, path)
    elif isinstance(shape, MapShape):
        yield from _of_map(shape, value, path)


def taken(shape: Shape, value: Any) -> Any:
    """A valid value without nulls and members that the service does not know; times as epoch seconds."""
    if isinstance(shape, StructureShape):
        if _is_document(shape):
            return value
        return {
            name: taken(shape.members[name], item)
            for name, item in value.items()
            if name in shape.members and item is not None
        }
    if isinstance(shape, ListShape):
        return [taken(shape.member, item) for item in value]
    if isinstance(shape, MapShape):
        return {key: taken(shape.value, item) for key, item in value.items()}
    if shape.type_name == "timestamp":
        return _moment(value)
    return int(value) if shape.type_name in _LIMITS else value


def moment(text: str) -> float:
    """Epoch seconds of an ISO 8601 time, UTC where it names no zone. Raises ValueError."""
    parsed = datetime.fromisoformat(text)
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


def _of_structure(shape: StructureShape, value: dict[str, Any], path: str) -> Iterator[str]:
    if _is_document(shape):
        return
    for name, member in shape.members.items():
        member_path = ".".join(filter(None, [path, name[0].lower() + name[1:]]))
        if value.get(name) is not None:
            yield from violations(member, value[name], member_path)
        elif name in shape.required_members:
            yield f"Value null at '{member_path}' failed to satisfy constraint: {_NULL}"
    if shape.is_tagged_union and sum(value.get(name) is not None for name in shape.members) != 1:
        yield f"Value at '{path}' failed to satisfy constraint: Exactly one member must be set"


def _of_list(shape: ListShape, value: list[Any], path: str) -> Iterator[str]:
    """Items that are structures have paths of their own; scalars are the list's matter."""
    if any(item is None for item in value):
        yield _failed(shape, value, path, f"satisfy constraint: [{_NULL}]")
    elif _is_scalar(shape.member):
        yield from _of_scalars(shape, value, shape.member, value, path, "Member must")
    else:
        for number, item in enumerate(value, 1):
            yield from violations(shape.member, item, f"{path}.{number}.member")


def _of_map(shape: MapShape, value: dict[str, Any], path: str) -> Iterator[str]:
    yield from _of_scalars(shape, value, shape.key, list(value), path, "Map keys must")
    items = list(value.values())
    if any(item is None for item in items):
        yield _failed(shape, value, path, f"satisfy constraint: [{_NULL}]", "Map value must")
    elif _is_scalar(shape.value):
        yield from _of_scalars(shape, value, shape.value, items, path, "Map value must")
    else:
        for key, item in value.items():
            yield from violations(shape.value, item, f"{path}.{key}.member")


def _of_scalars(
    whole: Shape, value: Any, member: Shape, items: list[Any], path: str, subject: str
) -> Iterator[str]:
    """One sentence with all constraints when any item violates any of them."""
    constraints = list(_constraints(member))
    for item in items:
        _check_type(member, item, path)
    if not all(kept(item) for _, kept in constraints for item in items):
        listed = ", ".join(f"Member must {constraint}" for constraint, _ in constraints)
        yield _failed(whole, value, path, f"satisfy constraint: [{listed}]", subject)


def _failed(shape: Shape, value: Any, path: str, constraint: str, subject: str = "Member must") -> str:
    shown = "" if shape.metadata.get("sensitive") else f"'{_shown(value)[:SHOWN]}' "
    return f"Value {shown}at '{path}' failed to satisfy constraint: {subject} {constraint}"


def _constraints(shape: Shape) -> Iterator[tuple[str, Callable[[Any], bool]]]:
    """Each constraint of a scalar, list or map: the end of AWS's sentence, and whether a value keeps it."""
    limits = shape.metadata
    most, least = limits.get("max"), limits.get("min")
    measure = "length" if shape.type_name in {"string", "list", "map", "blob"} else "value"
    if most is not None:
        yield f"have {measure} less than or equal to {most}", lambda value: _size(value) <= most
    if least is not None:
        yield f"have {measure} greater than or equal to {least}", lambda value: _size(value) >= least
    if pattern := limits.get("pattern"):
        yield f"satisfy regular expression pattern: {pattern}", lambda value: _matches(pattern, value)
    if isinstance(shape, StringShape) and shape.enum:
        yield f"satisfy enum value set: [{', '.join(shape.enum)}]", lambda value: value in shape.enum


def _size(value: Any) -> Any:
    return len(value) if isinstance(value, (str, list, dict)) else value


def _is_scalar(shape: Shape) -> bool:
    return shape.type_name not in {"structure", "list", "map"}


def _is_document(shape: StructureShape) -> bool:
    return bool(getattr(shape, "is_document_type", False))


# Types


def _check_type(shape: Shape, value: Any, path: str) -> None:
    if not _fits(shape.type_name, value) and not (isinstance(shape, StructureShape) and _is_document(shape)):
        token = _TOKENS.get(type(value), "STRUCTURE_OR_MAP")
        raise WrongTypeError(f"{token} at '{path}' cannot be converted to {shape.type_name.capitalize()}")


def _fits(kind: str, value: Any) -> bool:
    match kind:
        case "structure" | "map":
            return isinstance(value, dict) and all(map(_encodes, value))
        case "list":
            return isinstance(value, list)
        case "string":
            return isinstance(value, str) and _encodes(value)
        case "boolean":
            return isinstance(value, bool)
        case "blob":
            return isinstance(value, str) and _is_base64(value)
        case "timestamp":
            return _moment(value) is not None
        case "integer" | "long":
            limit = _LIMITS[kind]
            return _is_number(value) and -limit <= value < limit and value == int(value)
        case _:
            return _is_number(value)


def _is_number(value: Any) -> bool:
    """Whether it is a number of which a double can be made."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(float(value))
    except OverflowError:
        return False


def _moment(value: Any) -> float | None:
    """Epoch seconds of a number or an ISO 8601 text; None when it is neither."""
    try:
        seconds = moment(value) if isinstance(value, str) else value
    except (ValueError, OverflowError):
        return None
    return float(seconds) if _is_number(seconds) and abs(seconds) < _LAST_MOMENT else None


def _encodes(text: str) -> bool:
    """Whether it is text; JSON can write NUL, which no environment takes, and halves of surrogate pairs."""
    return not re.search(r"[\0\ud800-\udfff]", text)


def _is_base64(text: str) -> bool:
    try:
        return base64.b64decode(text, validate=True) is not None
    except (binascii.Error, ValueError):
        return False


# Patterns, which are Java's

_CATEGORIES = "LMZSNPC"
_CLASSES = {
    "L": r"A-Za-z",
    "M": "",
    "Z": " ",
    "S": r"$+<=>^`|~",
    "N": "0-9",
    "P": r"""!"#%&'()*,\-./:;?@\[\\\]_{}""",
    "Alnum": "A-Za-z0-9",
    "Print": r"\x20-\x7e",
}
_ASCII = r"\p{ASCII}*"
_PAIRS = r"\uD800\uDC00-\uDBFF\uDFFF"


def _stand_in(category: str) -> str:
    """A character of the private use area for all others of a Unicode category beyond ASCII."""
    return chr(0xE000 + _CATEGORIES.index(category))


def _matches(pattern: str, value: str) -> bool:
    if r"\p{" in pattern:
        if pattern == _ASCII:
            return value.isascii()
        value = "".join(
            character if character.isascii() else _stand_in(unicodedata.category(character)[0])
            for character in value
        )
    return _compiled(pattern).fullmatch(value) is not None


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """A Java pattern in Python: \\z, repeated anchors, UTF-16 surrogates, and classes such as \\p{L} by stand-ins."""
    text = pattern.replace(r"\z", r"\Z").replace(_PAIRS, r"\U00010000-\U0010FFFF")
    text = re.sub(r"\$\{\d+,\d+\}", "$", text)

    def characters(found: re.Match[str]) -> str:
        name = found.group(1)
        return _CLASSES[name] + (_stand_in(name) if name in _CATEGORIES else "")

    return re.compile(re.sub(r"\\p\{(\w+)\}", characters, text), re.DOTALL if ".*" not in pattern else 0)


def _shown(value: Any) -> str:
    """As Java prints it."""
    if isinstance(value, list):
        return "[" + ", ".join(map(_shown, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}={_shown(item)}" for key, item in value.items()) + "}"
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)
