"""Metrics: numbers that a job's MetricDefinitions find in its log."""

import math
import re
import time
from pathlib import Path

from local_sagemaker.protocol import Document, invalid


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
                if (found := pattern.search(line)) and (value := _finite(found.group(1))) is not None:
                    last[name] = value
    now = time.time()
    return [{"MetricName": name, "Value": value, "Timestamp": now} for name, value in last.items()]


def _finite(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
