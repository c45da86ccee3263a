"""SageMaker's hyperparameter ranges: which are valid, and what their values look like on the wire."""

import math
from dataclasses import dataclass

from local_sagemaker.api.protocol import Document, invalid

# SageMaker chooses the scale of an Auto range and does not say how. Here: the logarithm, where a range above 0 spans
# this factor or more.
LOG_FROM = 100
KINDS = {
    "ContinuousParameterRanges": "Continuous",
    "IntegerParameterRanges": "Integer",
    "CategoricalParameterRanges": "Categorical",
}
MAX_HYPERPARAMETERS = 30

Number = int | float


@dataclass(frozen=True)
class Range:
    """What may be tried for one hyperparameter.

    `low` and `high` belong to it. `scaling` is Linear, Logarithmic or ReverseLogarithmic: Auto has been decided.
    """

    name: str
    kind: str
    low: Number = 0
    high: Number = 0
    scaling: str = "Linear"
    values: tuple[str, ...] = ()

    def count(self) -> float:
        """How many values there are; infinity for a continuous range."""
        if self.kind == "Categorical":
            return len(self.values)
        if self.kind == "Integer":
            return self.high - self.low + 1
        return math.inf if self.low < self.high else 1

    def all(self) -> list[str]:
        """Every value of a range that is not continuous."""
        if self.kind == "Categorical":
            return list(self.values)
        return [str(number) for number in range(int(self.low), int(self.high) + 1)]

    def contains(self, text: str) -> bool:
        """Whether a value from the wire may be tried."""
        if self.kind == "Categorical":
            return text in self.values
        try:
            return self.low <= (int(text) if self.kind == "Integer" else float(text)) <= self.high
        except ValueError:
            return False

    def bounds(self) -> tuple[Number, Number]:
        """The lowest and the highest number that is searched: of 1 - x where the scale is reversed."""
        if self.scaling == "ReverseLogarithmic":
            return 1 - self.high, 1 - self.low
        return self.low, self.high

    def searched(self, text: str) -> Number | str:
        """A value from the wire as the number, or the category, that is searched."""
        if self.kind == "Categorical":
            return text
        number = int(text) if self.kind == "Integer" else float(text)
        low, high = self.bounds()
        return min(max(1 - number if self.scaling == "ReverseLogarithmic" else number, low), high)

    def wire(self, searched: Number | str) -> str:
        """The inverse of `searched`: integers without a point, floats as Python's repr writes them."""
        if self.kind == "Categorical":
            return str(searched)
        if self.kind == "Integer":
            return str(int(searched))
        number = 1 - float(searched) if self.scaling == "ReverseLogarithmic" else float(searched)
        return repr(float(min(max(number, self.low), self.high)))


def parse(ranges: Document) -> list[Range]:
    """The ranges of a ParameterRanges. Raises ApiError for what makes no sense."""
    if ranges.get("AutoParameters"):
        raise invalid("local_sagemaker does not do AutoParameters; give ranges")
    parsed = [_range(kind, item) for member, kind in KINDS.items() for item in ranges.get(member, [])]
    names = [item.name for item in parsed]
    if twice := {name for name in names if names.count(name) > 1}:
        raise invalid(f"The hyperparameter {min(twice)} has more than one range")
    if not parsed:
        raise invalid("ParameterRanges has no hyperparameter to tune")
    if len(parsed) > MAX_HYPERPARAMETERS:
        raise invalid(f"{len(parsed)} hyperparameters are tuned; at most {MAX_HYPERPARAMETERS} can be")
    return parsed


def combinations(ranges: list[Range]) -> float:
    """How many different trials the ranges allow."""
    return math.prod(item.count() for item in ranges)


def _range(kind: str, item: Document) -> Range:
    name = item["Name"]
    if kind == "Categorical":
        if len(set(item["Values"])) < len(item["Values"]):
            raise invalid(f"The values of hyperparameter {name} are not distinct")
        return Range(name, kind, values=tuple(item["Values"]))
    low, high = (_number(item, end, kind) for end in ("MinValue", "MaxValue"))
    if low > high:
        raise invalid(
            f"The range of hyperparameter {name} is invalid: MinValue {item['MinValue']} is greater than MaxValue "
            f"{item['MaxValue']}"
        )
    return Range(name, kind, low, high, _scaling(kind, item, low, high))


def _scaling(kind: str, item: Document, low: Number, high: Number) -> str:
    """The scale, with the restrictions of the developer guide's page on defining hyperparameter ranges."""
    scaling = item.get("ScalingType", "Auto")
    if scaling == "ReverseLogarithmic" and (kind == "Integer" or not 0 <= low <= high < 1):
        raise invalid(f"{item['Name']}: ReverseLogarithmic is for continuous ranges within [0, 1)")
    if scaling == "Logarithmic" and low <= 0:
        raise invalid(f"{item['Name']}: Logarithmic is for ranges above 0")
    if scaling == "Auto":
        return "Logarithmic" if low > 0 and high / low >= LOG_FROM else "Linear"
    return str(scaling)


def _number(item: Document, end: str, kind: str) -> Number:
    try:
        value = int(item[end]) if kind == "Integer" else float(item[end])
        if not math.isfinite(value):
            raise ValueError(item[end])
    except ValueError as error:
        article = "an integer" if kind == "Integer" else "a number"
        raise invalid(f"{end} {item[end]!r} of hyperparameter {item['Name']} is not {article}") from error
    return value
