"""report.html: report.json's facts as one self-contained page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from report.charts import CONFUSION_TABLE_CLASSES
from report.illustrate import Illustrations

_HERE = Path(__file__).parent
_DASH = "\u2013"


def render(report: Mapping[str, Any], illustrations: Illustrations) -> str:
    """The page as one string without references to anything outside it."""
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "pct": percent,
        "points": points,
        "number": number,
        "measure": measure,
        "seconds": seconds,
        "size": size,
        "moment": moment,
        "sentence": lambda text: text[:1].upper() + text[1:],
    }
    return environment.get_template("report.html.j2").render(
        r=report,
        charts=illustrations.charts,
        rule_charts=illustrations.rules,
        worst=illustrations.worst,
        pairs=illustrations.pairs,
        style=Markup((_HERE / "style.css").read_text(encoding="utf-8")),  # ruff: ignore[unsafe-markup-use] - our own file
        confusion_table=len(report["metrics"]["per_class"]) <= CONFUSION_TABLE_CLASSES,
        jobs=_by_objective(report["tuning"]),
        tuned=_tuned(report["tuning"]),
        way_back=_way_back(report),
    )


def percent(share: float | None, digits: int = 1) -> str:
    """0.9512 as `95.1%`."""
    return _DASH if share is None else f"{100 * share:.{digits}f}%"


def points(share: float | None) -> str:
    """A difference of shares in percentage points, signed with a true minus."""
    return _DASH if share is None else f"{100 * share:+.1f}".replace("-", "\u2212")


def number(value: Any, digits: int = 4) -> str:
    """A number with `digits` significant digits; other values as they are."""
    if value is None:
        return _DASH
    if isinstance(value, bool | str) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 10**6):
        return f"{int(value):,}".replace("-", "\u2212")
    return f"{value:.{digits}g}".replace("-", "\u2212")


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


def _by_objective(tuning: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Tuning jobs, best first; those without an objective last."""
    if not tuning:
        return []
    sign = 1 if tuning.get("objective", {}).get("Type", "Minimize") == "Minimize" else -1

    def key(job: Mapping[str, Any]) -> float:
        return math.inf if job.get("objective") is None else sign * float(job["objective"])

    return sorted(tuning.get("jobs", []), key=key)


def _tuned(tuning: Mapping[str, Any] | None) -> list[str]:
    """Names of the hyperparameters in which the jobs differ (all of them for a single job)."""
    jobs = [job.get("hyperparameters", {}) for job in (tuning or {}).get("jobs", [])]
    names = sorted({name for job in jobs for name in job})
    varied = [name for name in names if len({str(job.get(name)) for job in jobs}) > 1]
    return varied or names


def _way_back(report: Mapping[str, Any]) -> dict[str, str | None]:
    """One sentence and one command that undo the decision, as far as there is something to undo."""
    champion = report["serving"]
    promoted = report["verdict"]["decision"] != "hold"
    update = "aws sagemaker update-endpoint --endpoint-name {} --endpoint-config-name {}"
    if champion is None:
        endpoint = report["run"].get("endpoint")
        if not promoted:
            return {
                "text": "Nothing serves and nothing will be deployed, so there is nothing to undo.",
                "command": None,
            }
        return {
            "text": "This is the first model, so there is no earlier configuration to go back to; "
            "this takes it down again.",
            "command": f"aws sagemaker delete-endpoint --endpoint-name {endpoint}" if endpoint else None,
        }
    if promoted:
        return {
            "text": "Puts the model that serves now back after this one is deployed; "
            "requests are answered throughout.",
            "command": update.format(champion["endpoint"], champion["endpoint_config"]),
        }
    previous = champion.get("previous_endpoint_config")
    return {
        "text": "Nothing changes: the endpoint keeps its model."
        + (" Should that one turn out bad too, this brings back its predecessor." if previous else ""),
        "command": update.format(champion["endpoint"], previous) if previous else None,
    }
