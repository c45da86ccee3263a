"""Metrics: numbers that a job's MetricDefinitions find in its log."""

import math
import re
import time
from pathlib import Path

from local_sagemaker.api.protocol import Document, invalid


def metric_pattern(definition: Document) -> re.Pattern[str]:
    """The compiled pattern of a metric definition. Raises ApiError."""
    try:
        pattern = re.compile(definition["Regex"])
    except re.error as error:
        raise invalid(
            f"The regular expression of metric {definition['Name']} is not valid: {error}"
        ) from error
    if not pattern.groups:
        raise invalid(f"The regular expression of metric {definition['Name']} has no group for the value")
    return pattern


def final_metrics(job: Document, log: Path) -> list[Document]:
    """The last finite value of each metric in the job's log."""
    definitions = job["AlgorithmSpecification"].get("MetricDefinitions", [])
    patterns = [(definition["Name"], metric_pattern(definition)) for definition in definitions]
    last: dict[str, float] = {}
    with log.open(errors="replace") as lines:
        for line in lines if patterns else []:
            for name, pattern in patterns:
                if (value := _value(pattern, line)) is not None:
                    last[name] = value
    now = time.time()
    return [{"MetricName": name, "Value": value, "Timestamp": now} for name, value in last.items()]


class MetricLog:
    """The values of one metric in a job's log while it grows."""

    def __init__(self, log: Path, definition: Document) -> None:
        self._log = log
        self._pattern = metric_pattern(definition)
        self._offset = 0

    def read(self, *, ended: bool = False) -> list[float]:
        """The finite values since the last call; that of a line without its end only when the job has ended."""
        try:
            size = self._log.stat().st_size
        except FileNotFoundError:
            return []
        if size == self._offset:
            return []
        # A smaller file is a new one.
        start = self._offset if size > self._offset else 0
        with self._log.open("rb") as file:
            file.seek(start)
            text = file.read()
        if not ended:
            text = text[: text.rfind(b"\n") + 1]
        self._offset = start + len(text)
        values = (_value(self._pattern, line) for line in text.decode("utf-8", "replace").split("\n"))
        return [value for value in values if value is not None]


def _value(pattern: re.Pattern[str], line: str) -> float | None:
    """The finite number that the pattern's first group finds in a line."""
    found = pattern.search(line)
    try:
        value = float(found.group(1) or "") if found else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None
