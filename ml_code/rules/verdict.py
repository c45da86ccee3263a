"""What a rule says, and how its parameters arrive."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_type_hints

R = TypeVar("R")

Status = Literal["NoIssuesFound", "IssuesFound", "NotEvaluated"]
Policy = Literal["fail", "warn", "ignore"]

# More than a chart is wide.
PLOT_POINTS = 400


class NotEvaluatedError(Exception):
    """A rule cannot say anything; the message is the reason and what to do about it."""


@dataclass(frozen=True)
class Series:
    """One line of a plot: its name and its points."""

    name: str
    points: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, name: str, points: Iterable[tuple[float, float]]) -> Series:
        """At most `PLOT_POINTS` of the points that are finite, evenly chosen, the last one always."""
        finite = [(float(x), float(y)) for x, y in points if math.isfinite(x) and math.isfinite(y)]
        stride = -(-len(finite) // PLOT_POINTS) or 1
        return cls(name, tuple(finite[::-stride][::-1]))


@dataclass(frozen=True)
class Plot:
    """The data of a chart that shows what a rule looked at; `x` and `y` name the axes, units included."""

    x: str
    y: str
    series: tuple[Series, ...]
    threshold: float | None = None
    """Drawn as a line; the finding's own is not always in the chart's unit."""


@dataclass(frozen=True)
class Finding:
    """What one rule found.

    `value` is the number held against `threshold`, in the rule's `unit`; `step` is the
    mode-local step and `tensor` the smdebug tensor name at which the value was seen. `recommendation` says what
    to do about an issue and is empty without one.
    """

    issue: bool
    detail: str
    step: int | None = None
    tensor: str | None = None
    value: float | None = None
    threshold: float | None = None
    recommendation: str = ""
    plot: Plot | None = None


@dataclass(frozen=True)
class Verdict:
    """A finding with the rule's name, its policy and the parameters that were in force."""

    name: str
    status: Status
    detail: str
    step: int | None
    tensor: str | None
    value: float | None
    threshold: float | None
    policy: Policy
    parameters: Mapping[str, float | int | str | None]
    recommendation: str = ""
    plot: Plot | None = None
    unit: str | None = None
    """Of value and threshold; None for what has none, such as a ratio."""

    def as_json(self) -> dict[str, Any]:
        """The verdict as JSON values; a number that is not finite becomes null (the detail says why)."""
        document = dataclasses.asdict(self)
        if self.value is not None and not math.isfinite(self.value):
            document["value"] = None
        return document


# What AWS's request carries beside the rule's own parameters.
FOREIGN = {"rule_to_invoke", "base_trial", "action_json", "scan_interval_us", "source_s3_uri"}


def build_rule(rule: type[R], parameters: Mapping[str, str]) -> R:
    """Make `rule` (a dataclass whose fields are its parameters) from SageMaker's strings.

    Raises ValueError for a parameter that the rule does not have or that does not parse.
    """
    hints = get_type_hints(rule)
    given: dict[str, Any] = {}
    names = [one.name for one in dataclasses.fields(rule)]  # type: ignore[arg-type]
    for key, text in parameters.items():
        # ProfilerReport's carry the name of the rule that they are for.
        if key in FOREIGN or key.endswith("_scan_interval_us"):
            continue
        if key not in names:
            raise ValueError(f"{rule.__name__} has no parameter {key!r}; it has {', '.join(sorted(names))}")
        given[key] = _parse(key, str(text), hints[key])
    return rule(**given)


def _parse(key: str, text: str, hint: Any) -> float | int | str | bool | None:
    # The SDK sends an unset parameter as the string "None".
    if text == "None":
        return None
    if hint is bool:
        if text.lower() not in {"true", "false"}:
            raise ValueError(f"parameter {key!r} is {text!r}, not True or False")
        return text.lower() == "true"
    kinds = set(getattr(hint, "__args__", ())) | {hint}
    if not kinds & {int, float}:
        return text
    try:
        number: float | int = float(text) if float in kinds else int(text)
    except ValueError:
        raise ValueError(f"parameter {key!r} is {text!r}, not a number") from None
    if not math.isfinite(number):
        raise ValueError(f"parameter {key!r} is {text!r}, not a finite number")
    return number
