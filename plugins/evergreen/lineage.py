"""Where a model comes from, and what is different from the run whose model serves now."""

import json
from typing import Any

from airflow.providers.amazon.aws.hooks.s3 import S3Hook

from evergreen.plan import Plan

# Of a pipeline's settings these change no model.
WORDS = frozenset({"description", "schedule", "tags", "pool", "notify", "monitor"})


def build(
    plan: Plan,
    dataset: dict[str, Any],
    code: dict[str, Any],
    previous: tuple[dict[str, Any] | None, str | None],
    links: dict[str, str],
) -> dict[str, Any]:
    """report.json's `lineage`; `assess` adds the libraries and the hashes of what it has in its hands.

    :param previous: what `previous` returned.
    """
    context, reason = previous
    return {
        **_made(plan, dataset["version"], code["hash"]),
        "changes": {
            "against": context
            and {"run_id": context["run"]["run_id"], "report_uri": context["run"]["report_uri"]},
            "reason": reason,
            "settings": differences(facts(context), planned(plan, dataset["version"], code["hash"]))
            if context
            else [],
        },
        "links": links,
    }


def previous(
    s3: S3Hook, plan: Plan, champion: dict[str, Any] | None
) -> tuple[dict[str, Any] | None, str | None]:
    """context.json of the run that made the champion, which is the last one promoted; or None, and why.

    The champion's archive lies in its run's folder, so nothing has to be remembered for this.
    """
    if champion is None:
        return None, "nothing serves, so there is no promoted run to compare with"
    runs = plan.uri("runs") + "/"
    folder = run_folder(plan, champion)
    if folder is None:
        return None, f"what serves was not made by a run of this pipeline: {champion['model_data']}"
    uri = f"{runs}{folder}/context.json"
    if not s3.check_for_key(uri):
        return None, f"the run that made what serves has left no {uri}"
    context: dict[str, Any] = json.loads(s3.read_key(uri))
    return context, None


def run_folder(plan: Plan, champion: dict[str, Any]) -> str | None:
    """Name of the folder of the run that made the champion; None when no run of this pipeline has."""
    runs = plan.uri("runs") + "/"
    model_data: str = champion["model_data"]
    return model_data.removeprefix(runs).partition("/")[0] if model_data.startswith(runs) else None


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[dict[str, Any]]:
    """`[{"setting", "before", "now"}]` of what differs; null for what one of them does not have."""
    return [
        {"setting": name, "before": before.get(name), "now": now.get(name)}
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]


def facts(context: dict[str, Any]) -> dict[str, Any]:
    """What decided the model of the run that wrote this context.json: setting or material → value."""
    lineage = context.get("lineage") or {}
    made = {
        "git_revision": context["code"]["git_revision"],
        "code_hash": context["code"]["hash"],
        "dataset_version": context["dataset"]["version"],
        "images": lineage.get("images", {}),
    }
    return {**_settings(context["run"]["settings"]), **_flat(made)}


def planned(plan: Plan, dataset_version: str, code_hash: str) -> dict[str, Any]:
    """The same of a run that is planned."""
    return {
        **_settings(plan.pipeline.model_dump(mode="json")),
        **_flat(_made(plan, dataset_version, code_hash)),
    }


def _made(plan: Plan, dataset_version: str, code_hash: str) -> dict[str, Any]:
    return {
        "git_revision": plan.git_revision,
        "code_hash": code_hash,
        "dataset_version": dataset_version,
        "images": {"training": plan.training_image, "inference": plan.inference_image},
    }


def _settings(settings: dict[str, Any]) -> dict[str, Any]:
    return _flat({name: value for name, value in settings.items() if name not in WORDS})


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"tuning": {"lr": {"min": 1}}}` as `{"tuning.lr.min": 1}`."""
    flat: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, dict):
            flat |= _flat(item, f"{prefix}{name}.")
        else:
            flat[prefix + name] = item
    return flat
