"""How the report writes numbers; each function is the template filter that FILTERS calls it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

_DASH = "\u2013"


def percent(share: float | None, digits: int = 1) -> str:
    """0.9512 as `95.1%`."""
    return _DASH if share is None else f"{100 * share:.{digits}f}%"


def points(share: float | None) -> str:
    """A difference of shares in percentage points, signed with a true minus."""
    if share is None:
        return _DASH
    text = f"{100 * share:+.1f}"
    return text.replace("-", "\u2212") if float(text) else "0.0"


def number(value: Any, digits: int = 4) -> str:
    """A number with `digits` significant digits, whole where it has more before the point; other values as they are."""
    if value is None:
        return _DASH
    if isinstance(value, bool | str) or not isinstance(value, int | float):
        return str(value)
    whole = float(value).is_integer() or abs(value) >= 10**digits
    if isinstance(value, int) or (whole and abs(value) < 10**6):
        return f"{round(value):,}".replace("-", "\u2212")
    return f"{value:.{digits}g}".replace("-", "\u2212")


def hyperparameter(value: Any) -> str:
    """SageMaker has every hyperparameter as a string; numbers are written as numbers."""
    try:
        return number(float(value))
    except (TypeError, ValueError):
        return number(value)


def measure(value: float | str | None, unit: str | None) -> str:
    """A gate check's value or threshold in its unit."""
    if value is None or isinstance(value, str):
        return _DASH if value is None else value
    match unit:
        case "share":
            return percent(value, 2)
        case "difference of shares":
            return f"{points(value)}\u00a0points"
        case None:
            return number(value, 3)
        case _:
            return f"{number(value, 3)}\u00a0{unit}"


def moment(text: str | None) -> str:
    """An ISO 8601 time as `21 November 2026, 09:20 UTC`; a text that is none stays as it is."""
    if not text:
        return "at an unknown time"
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return text
    if time.tzinfo is not None:
        time = time.astimezone(UTC)
    return f"{time.day} {time:%B %Y, %H:%M}{' UTC' if time.tzinfo else ''}"


def seconds(value: float | None) -> str:
    """A duration in the two largest units that matter."""
    if value is None:
        return _DASH
    if value < 60:
        return f"{value:.1f}\u00a0s" if value < 10 else f"{value:.0f}\u00a0s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}\u00a0h\u00a0{minutes}\u00a0min" if hours else f"{minutes}\u00a0min\u00a0{rest}\u00a0s"


def size(count: float | None) -> str:
    """A number of bytes in kB, MB or GB (powers of 1,000)."""
    if count is None:
        return _DASH
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g}\u00a0{unit}"
        count /= 1000
    return f"{count:.3g}\u00a0GB"


def money(value: float | None) -> str:
    """An amount with as many decimals as it takes to see it, two at least."""
    if value is None:
        return _DASH
    return f"{value:,.2f}" if value >= 1 or not value else f"{value:.2g}" if value < 0.01 else f"{value:.3f}"


def setting(value: Any) -> str:
    """A setting of any type; null is one that was not there."""
    if value is None:
        return "not set"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def sentence(text: str) -> str:
    """With a capital."""
    return text[:1].upper() + text[1:]


FILTERS: Mapping[str, Callable[..., str]] = {
    "pct": percent,
    "points": points,
    "number": number,
    "hyperparameter": hyperparameter,
    "measure": measure,
    "seconds": seconds,
    "size": size,
    "money": money,
    "moment": moment,
    "setting": setting,
    "sentence": sentence,
}
