"""Evergreen's own gauges, beside those that Airflow counts of itself, through what Airflow has for metrics.

They go where `[metrics]` says (StatsD or OpenTelemetry), and nowhere otherwise. The names are in docs/observability.md.
The pipeline is part of a name, and not a tag, since StatsD has no tags.
"""

import re
from typing import Any

from airflow.providers.common.compat.sdk import Stats

PREFIX = "evergreen"


def of_report(pipeline: str, report: dict[str, Any]) -> None:
    """What an assessment found, and what the run's jobs took and cost.

    :param report: report.json.
    """
    champion = report["champion"] or {}
    values = {
        "challenger.accuracy": report["metrics"]["accuracy"],
        "champion.accuracy": champion.get("accuracy"),
    }
    cost = report["cost"] or {"stages": [], "total": None}
    for stage in cost["stages"]:
        values |= {f"{stage['stage']}.{what}": stage[what] for what in ("seconds", "cost")}
    gauges(pipeline, {**values, "cost": cost["total"]})
    Stats.incr(_name(pipeline, f"verdict.{report['verdict']['decision']}"))


def of_drift(pipeline: str, found: dict[str, Any]) -> None:
    """What the monitor found.

    :param found: drift.json.
    """
    values = {f"psi.{row['name']}": row["psi"] for row in found["measures"]}
    gauges(pipeline, {**values, "captured_images": found["images"], "drifted": int(found["drifted"])})


def gauges(pipeline: str, values: dict[str, float | None]) -> None:
    """What has no value is not sent."""
    for name, value in values.items():
        if value is not None:
            Stats.gauge(_name(pipeline, name), value)


def _name(pipeline: str, name: str) -> str:
    # A dot would be another level, and other characters are refused.
    return f"{PREFIX}.{pipeline}.{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}"
