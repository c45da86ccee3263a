"""Search: resources by any of their properties.

What a property is called and of what type it is, the shape of SearchRecord says. An expression becomes one
function of a document, so that an unknown name is refused also where there is nothing to search.
"""

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from botocore.model import ListShape, MapShape, Shape, StructureShape

from local_sagemaker.api.protocol import ApiError, Document, invalid
from local_sagemaker.api.resources import paged
from local_sagemaker.api.validation import moment

Predicate = Callable[[Document], bool]

COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "GreaterThan": operator.gt,
    "GreaterThanOrEqualTo": operator.ge,
    "LessThan": operator.lt,
    "LessThanOrEqualTo": operator.le,
}
NUMBERS = {"integer", "long", "float", "double"}


class Finder:
    """The Search operation over the kinds of resources that are given."""

    def __init__(self, sources: Mapping[str, Callable[[], list[Document]]]) -> None:
        """`sources` has all documents of a kind, as Describe answers them."""
        self._sources = sources

    def search(self, request: Document, record: StructureShape) -> Document:
        """The Search operation, given the shape of SearchRecord. Raises ApiError."""
        kind = request["Resource"]
        if kind not in self._sources:
            raise invalid(f"local_sagemaker does not search {kind}, only {', '.join(self._sources)}")
        if "VisibilityConditions" in request:
            raise invalid("local_sagemaker does not do VisibilityConditions; leave them out")
        shape = record.members[kind]
        keep = _expression(request.get("SearchExpression"), shape)
        order = _Property(shape, request.get("SortBy", ""))
        elsewhere = request.get("CrossAccountFilterOption") == "CrossAccount"
        found = [] if elsewhere else [view for view in self._views(kind) if keep(view)]
        descending = request.get("SortOrder", "Descending") == "Descending"
        found.sort(key=order.sort_key, reverse=descending)
        # What lacks the property comes last, in either order.
        found.sort(key=lambda view: not order.values(view))
        answer = paged(request, "Results", [{kind: view} for view in found])
        answer["TotalHits"] = {"Value": len(found), "Relation": "EqualTo"}
        return answer

    def _views(self, kind: str) -> list[Document]:
        documents = self._sources[kind]()
        return [{"Model": document} for document in documents] if kind == "Model" else documents


class _Property:
    """A property by its dotted name: its type, and its values in a document."""

    def __init__(self, shape: Shape, name: str) -> None:
        """Raises ApiError when the resource has no such property."""
        self.name = name
        if not name:
            # LastModifiedTime, which every document has and not every record shows.
            self._steps, self.type = [], "timestamp"
            return
        self._steps = name.split(".")
        match self._steps:
            case ["Tags", _, *_] | ["HyperParameters", _, *_]:
                self.type = "hyperparameter" if self._steps[0] == "HyperParameters" else "string"
            case ["Metrics", _, *_]:
                self.type = "float"
            case _:
                self.type = _type(shape, self._steps, name)

    def values(self, document: Document) -> list[Any]:
        rest = ".".join(self._steps[1:])
        match self._steps:
            case []:
                return [(document.get("Model") or document)["LastModifiedTime"]]
            case ["Tags", _, *_]:
                tags = (document.get("Model") or document).get("Tags") or []
                return [tag["Value"] for tag in tags if tag["Key"] == rest]
            case ["Metrics", _, *_]:
                metrics = document.get("FinalMetricDataList") or []
                return [metric["Value"] for metric in metrics if metric["MetricName"] == rest]
            case _:
                return list(_values(document, self._steps))

    def sort_key(self, document: Document) -> Any:
        values = self.values(document)
        first = values[0] if values else 0
        if self.type == "hyperparameter":
            number = _number(first)
            return (number is None, number or 0.0, str(first))
        return (str(first) if self.type not in {*NUMBERS, "timestamp", "boolean"} else float(first),)


def _type(shape: Shape, steps: list[str], name: str) -> str:
    while isinstance(shape, ListShape):
        shape = shape.member
    if not steps:
        return str(shape.type_name)
    if isinstance(shape, MapShape):
        return str(shape.value.type_name)
    if isinstance(shape, StructureShape) and steps[0] in shape.members:
        return _type(shape.members[steps[0]], steps[1:], name)
    raise invalid(f"Unknown property name: {name}")


def _values(value: Any, steps: list[str]) -> Iterator[Any]:
    if isinstance(value, list):
        for item in value:
            yield from _values(item, steps)
    elif value is None:
        return
    elif not steps:
        yield value
    elif isinstance(value, dict):
        # The key of a map may have dots itself.
        whole = ".".join(steps)
        if whole in value:
            yield from _values(value[whole], [])
        else:
            yield from _values(value.get(steps[0]), steps[1:])


# Expressions


def _expression(expression: Document | None, shape: Shape) -> Predicate:
    if expression is None:
        return lambda _: True
    parts = [
        *(_filter(item, shape) for item in expression.get("Filters", [])),
        *(_nested(item, shape) for item in expression.get("NestedFilters", [])),
        *(_expression(item, shape) for item in expression.get("SubExpressions", [])),
    ]
    if not parts:
        raise invalid("A SearchExpression has at least one of Filters, NestedFilters and SubExpressions")
    combine = any if expression.get("Operator") == "Or" else all
    return lambda document: combine(part(document) for part in parts)


def _nested(nested: Document, shape: Shape) -> Predicate:
    """Whether one item of a list satisfies all filters."""
    name = nested["NestedPropertyName"]
    steps = name.split(".")
    _type(shape, steps, name)
    inner: Any = shape
    for step in steps:
        while isinstance(inner, ListShape):
            inner = inner.member
        inner = inner.members.get(step) if isinstance(inner, StructureShape) else None
    if not isinstance(inner, ListShape):
        raise invalid(f"The property {name} is not a list, which NestedFilters look into")
    parts = [
        _filter({**item, "Name": item["Name"].removeprefix(f"{name}.")}, inner.member)
        for item in nested["Filters"]
    ]
    return lambda document: any(all(part(item) for part in parts) for item in _values(document, steps))


def _filter(condition: Document, shape: Shape) -> Predicate:
    wanted = _Condition(
        _Property(shape, condition["Name"]), condition.get("Operator"), condition.get("Value")
    )
    return wanted.holds


@dataclass(frozen=True)
class _Condition:
    property: _Property
    operator: str | None
    text: str | None

    def __post_init__(self) -> None:
        """Raises ApiError for what cannot be compared."""
        if self.operator in {"Exists", "NotExists"}:
            return
        if self.text is None:
            raise invalid(f"The filter on {self.property.name} has no Value")
        kind = self.property.type
        is_text = kind in {"string", "hyperparameter"}
        if kind in {"structure", "list", "map"}:
            raise self._refused("only Exists and NotExists can be asked of it")
        if self.operator in {"In", "Contains"} and not is_text:
            raise self._refused(f"{self.operator} is for text properties")
        if self.operator in COMPARISONS and kind == "string":
            raise self._refused(f"{self.operator} is not for text properties")
        if not is_text:
            self._parsed()

    def holds(self, document: Document) -> bool:
        values = self.property.values(document)
        match self.operator:
            case "Exists":
                return bool(values)
            case "NotExists":
                return not values
            case "In":
                return any(str(value) in str(self.text).split(",") for value in values)
            case "Contains":
                return any(str(self.text) in str(value) for value in values)
            case "NotEquals":
                return not any(map(self._equal, values))
            case None | "Equals":
                return any(map(self._equal, values))
            case name:
                return any(self._compare(COMPARISONS[name], value) for value in values)

    def _equal(self, value: Any) -> bool:
        if self.property.type == "hyperparameter" and value == self.text:
            return True
        return self._compare(operator.eq, value)

    def _compare(self, comparison: Callable[[Any, Any], bool], value: Any) -> bool:
        if self.property.type != "hyperparameter":
            return comparison(value, self._parsed())
        number, wanted = _number(value), _number(self.text)
        if number is None or wanted is None:
            return False
        # "If the specified Value is an integer, the decimal hyperparameter values are treated as integers."
        return comparison(int(number) if str(self.text).lstrip("+-").isdigit() else number, wanted)

    def _parsed(self) -> Any:
        text = str(self.text)
        try:
            match self.property.type:
                case "timestamp":
                    return moment(text)
                case "boolean":
                    return {"true": True, "false": False}[text.lower()]
                case kind if kind in NUMBERS:
                    return float(text)
                case _:
                    return text
        except (ValueError, KeyError, OverflowError) as error:
            raise self._refused(f"the value {text!r} is not a {self.property.type}") from error

    def _refused(self, sentence: str) -> ApiError:
        return invalid(f"The filter on {self.property.name} is not valid: {sentence}")


def _number(text: Any) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    # Neither nan nor an infinity compares as a number that someone meant.
    return number if abs(number) < float("inf") else None
