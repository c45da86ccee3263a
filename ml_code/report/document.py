"""report.json: made valid, written, and held against its schema."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

SCHEMA = Path(__file__).with_name("report.schema.json")


class InvalidReportError(Exception):
    """The report does not fit its schema: a mistake of this package."""


def finite(value: Any, path: str = "") -> tuple[Any, list[str]]:
    """Replace NaN and infinities, which JSON lacks, by None; returns the value and their paths."""
    if isinstance(value, float) and not math.isfinite(value):
        return None, [path]
    if isinstance(value, dict):
        pairs = [(key, *finite(item, f"{path}.{key}" if path else str(key))) for key, item in value.items()]
        return {key: item for key, item, _ in pairs}, [found for *_, paths in pairs for found in paths]
    if isinstance(value, list | tuple):
        items = [finite(item, f"{path}[{i}]") for i, item in enumerate(value)]
        return [item for item, _ in items], [found for _, paths in items for found in paths]
    return value, []


def validate(report: dict[str, Any]) -> None:
    """Raise InvalidReportError when `report` does not fit report.schema.json."""
    validator = Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    errors = sorted(validator.iter_errors(report), key=lambda error: error.json_path)
    if errors:
        raise InvalidReportError(
            "; ".join(f"{error.json_path}: {error.message[:200]}" for error in errors[:5])
        )


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON; raises ValueError for NaN and infinities."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
