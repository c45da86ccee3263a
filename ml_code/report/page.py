"""report.html: report.json's facts as one self-contained page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from report.illustrate import Illustrations
from report.model_card import card
from report.quality_charts import CONFUSION_TABLE_CLASSES
from report.templates import environment, style

# The name of a section is also that of its template below sections/.
SECTIONS = (
    ("gate", "Gate"),
    ("run", "Run"),
    ("data", "Data"),
    ("tuning", "Tuning"),
    ("training", "Training"),
    ("rules", "Rules"),
    ("system", "Profiler"),
    ("quality", "Quality on test"),
    ("robustness", "Robustness"),
    ("explanations", "Explanations"),
    ("serving", "Serving"),
    ("cost", "Cost"),
    ("model", "Model card"),
)


def render(report: Mapping[str, Any], illustrations: Illustrations) -> str:
    """The page as one string without references to anything outside it."""
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            r=report,
            charts=illustrations.charts,
            rule_charts=illustrations.rules,
            worst=illustrations.worst,
            pairs=illustrations.pairs,
            nearly=illustrations.near,
            explained=illustrations.explained,
            sections=SECTIONS,
            card=card(report),
            style=style(),
            confusion_table=len(report["metrics"]["per_class"]) <= CONFUSION_TABLE_CLASSES,
            average_precision={
                row["class"]: row["value"] for row in report["metrics"]["ranking"]["average_precision"]
            },
            jobs=_by_objective(report["tuning"]),
            tuned=_tuned(report["tuning"]),
            moved=_moved(report["champion"]),
            way_back=_way_back(report),
        )
    )


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


def _moved(champion: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The classes of which only one of the two models gets some images right, most of them first."""

    def images(row: Mapping[str, Any]) -> int:
        return int(row["only_challenger_right"] + row["only_champion_right"])

    return sorted(filter(images, (champion or {}).get("classes", [])), key=images, reverse=True)


def _way_back(report: Mapping[str, Any]) -> dict[str, str | None]:
    """One sentence and one command that undo the decision, as far as there is something to undo."""
    champion = report["serving"]
    promoted = report["verdict"]["decision"] != "hold"
    update = (
        f"make rollback PIPELINE={report['run']['pipeline']} TO={{1}}\n# or, with the AWS CLI alone:\n"
        "aws sagemaker update-endpoint --endpoint-name {0} --endpoint-config-name {1}"
    )
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
