"""The model card: what whoever gets the model should know, in Markdown and for the report's page.

Sections after Mitchell et al., "Model Cards for Model Reporting", 2019.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from report.formats import FILTERS, percent

_HERE = Path(__file__).parent
_FEW_IMAGES = 30


def model_card(report: Mapping[str, Any]) -> str:
    """model_card.md, from report.json's document."""
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=False,  # ruff: ignore[jinja2-autoescape-false] - Markdown, escaped by _plain
        finalize=_plain,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    return environment.get_template("model_card.md.j2").render(
        r=report, m=report["metrics"], card=card(report)
    )


def card(report: Mapping[str, Any]) -> dict[str, Any]:
    """use, limits, data, licence, contact and reproduce: what is known of them, as sentences."""
    settings = report["assess"] or {}
    dataset = report["dataset"] or {}
    model = report["model"]
    size = model["preprocessing"]["image_size"]
    return {
        "use": (
            f"Tells which one of {len(report['metrics']['per_class'])} classes a picture shows "
            f"({model['arch']}, {size} x {size} pixels, the middle of the picture). Every picture gets one of these "
            "classes, whatever it shows."
        ),
        "limits": _limits(report["metrics"]),
        "data": (
            f"version {dataset['version']} from {dataset['source']}"
            if dataset
            else "the dataset was not named to the assessment"
        ),
        "licence": settings.get("licence")
        or "unknown: neither the data's nor the weights' was given; ask before you hand the model on",
        "contact": settings.get("contact") or "not given",
        "reproduce": _reproduce(report),
    }


def _limits(metrics: Mapping[str, Any]) -> list[str]:
    worst = metrics["worst_classes"][0]
    row = next(row for row in metrics["per_class"] if row["class"] == worst)
    low, high = row["recall_interval"]
    limits = [
        f"The worst class is {worst}: {percent(row['recall'])} of its {row['count']} test images are right "
        f"({percent(metrics['confidence'], 0)} interval {percent(low)} to {percent(high)}).",
        _strangers(metrics["foreign"]),
    ]
    few = [row["class"] for row in metrics["per_class"] if row["count"] < _FEW_IMAGES]
    if few:
        limits.append(
            f"{len(few)} of {len(metrics['per_class'])} classes have fewer than {_FEW_IMAGES} test images: "
            "little is known of each of them."
        )
    weak = max(metrics["robustness"]["changes"], key=lambda change: float(change["drop"]))
    if weak["drop_interval"][0] > 0:
        limits.append(
            f"Of the changes tried, {weak['name']} ({weak['strength']}) costs most: "
            f"{100 * weak['drop']:.1f} percentage points of accuracy."
        )
    return limits


def _strangers(found: Mapping[str, Any]) -> str:
    worst = min(found["kinds"], key=lambda kind: float(kind["auroc"]))
    return (
        f"It names a class for every picture. Of pictures of none of them ({worst['what']}) it answers "
        f"{percent(worst['sure'])} with {percent(found['sure_from'], 0)} probability or more: a high probability does "
        "not prove that a picture shows a class."
    )


def _reproduce(report: Mapping[str, Any]) -> dict[str, str]:
    run, code, dataset = report["run"], report["code"] or {}, report["dataset"] or {}
    revision = code.get("git_revision")
    seed = report["model"].get("hyperparameters", {}).get("seed")
    known = [
        f"code hash {code['hash']}" if code.get("hash") else None,
        f"dataset version {dataset['version']}" if dataset else None,
        f"seed {seed}" if seed is not None else None,
    ]
    needs = ", ".join(part for part in known if part)
    return {
        "text": f"Needs {needs}; the run's settings are in report.json."
        if needs
        else "What it was trained from was not given to the assessment; what is known of the run is in report.json.",
        "command": (f"git checkout {revision}\n" if revision else "")
        + f"airflow dags trigger {run['dag_id']}",
    }


def _plain(value: Any) -> str:
    """Names are the user's: no HTML and no column of a table comes out of them."""
    return str(value).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
