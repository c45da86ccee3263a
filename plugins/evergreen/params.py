"""Run parameters: the settings that the trigger form and the REST API may change for one run.

Title, help, type and bounds come from the models in `settings.py`; here is only which settings they are and
what they are called.
"""

from copy import deepcopy
from functools import cache
from typing import Any

from airflow.sdk import Param

from evergreen.settings import Pipeline

# parameter → (section of the form, setting)
PARAMETERS = {
    "source": ("Dataset", "dataset.source"),
    "arch": ("Model", "model.arch"),
    "weights": ("Model", "model.weights"),
    "tail": ("Model", "model.tail"),
    "image_size": ("Model", "model.image_size"),
    "views": ("Model", "model.views"),
    "max_jobs": ("Tuning", "tuning.max_jobs"),
    "max_parallel_jobs": ("Tuning", "tuning.max_parallel_jobs"),
    "strategy": ("Tuning", "tuning.strategy"),
    "objective": ("Tuning", "tuning.objective"),
    "lr_min": ("Tuning", "tuning.lr.min"),
    "lr_max": ("Tuning", "tuning.lr.max"),
    "batch_size": ("Tuning", "tuning.batch_size"),
    "epochs_min": ("Tuning", "tuning.epochs.min"),
    "epochs_max": ("Tuning", "tuning.epochs.max"),
    "seed": ("Tuning", "tuning.seed"),
    "debugger": ("Debugger and profiler", "debugger.enabled"),
    "debugger_mode": ("Debugger and profiler", "debugger.mode"),
    "profiler_interval_ms": ("Debugger and profiler", "profiler.interval_ms"),
    "profiler_num_steps": ("Debugger and profiler", "profiler.num_steps"),
    "explanations": ("Assessment", "assess.explanations"),
    "minimum_accuracy": ("Gate", "gate.minimum_accuracy"),
    "class_floor": ("Gate", "gate.class_floor"),
    "champion_margin": ("Gate", "gate.champion_margin"),
    "equal": ("Gate", "gate.equal"),
    "latency_budget_ms": ("Gate", "gate.latency_budget_ms"),
    "size_budget_mb": ("Gate", "gate.size_budget_mb"),
    "approve": ("Gate", "gate.approve"),
    "update_policy": ("Deployment", "deployment.policy"),
    "wait_interval_in_seconds": ("Deployment", "deployment.wait_interval_in_seconds"),
    "batch_predict": ("Deployment", "deployment.batch_predict"),
    "instance_type": ("Compute", "compute.instance_type"),
    "max_runtime_seconds": ("Compute", "compute.max_runtime_seconds"),
}

# The keywords of JSON schema that Airflow's form and API understand.
_KEYWORDS = (
    "type", "title", "description", "enum", "items", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
    "minLength", "maxLength", "minItems", "maxItems", "pattern",
)  # fmt: skip


def build(pipeline: Pipeline) -> dict[str, Param]:
    """The form's fields, with the pipeline file's values as defaults."""
    values = pipeline.model_dump(mode="json")
    form = {
        name: Param(_get(values, path), section=section, **_schema(path))
        for name, (section, path) in PARAMETERS.items()
    }
    form["force"] = Param(
        False,
        type="boolean",
        title="Force",
        description="Retrain although the dataset has not changed (scheduled runs skip then).",
        section="Dataset",
    )
    form["dry_run"] = Param(
        False,
        type="boolean",
        title="Dry run",
        description="Say what would be sent to S3 and deleted there, and end.",
        section="Dataset",
    )
    return form


def apply(document: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """The pipeline file's document with the run's parameters in their places."""
    merged = deepcopy(document)
    for name, (_, path) in PARAMETERS.items():
        if name not in params:
            continue
        *parents, leaf = path.split(".")
        node = merged
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = params[name]
    return merged


def _get(values: dict[str, Any], path: str) -> Any:
    for key in path.split("."):
        values = values[key]
    return values


def _schema(path: str) -> dict[str, Any]:
    root = node = _root()
    for key in path.split("."):
        node = _resolve(root, node)["properties"][key]
    if "anyOf" in node:
        # pydantic's way to write a value or null; the form knows a list of types.
        value = next(choice for choice in node["anyOf"] if choice["type"] != "null")
        node = {**node, **value, "type": ["null", value["type"]]}
    schema = {key: value for key, value in node.items() if key in _KEYWORDS}
    if "enum" in schema and "type" not in schema:
        schema["type"] = "integer" if all(isinstance(v, int) for v in schema["enum"]) else "string"
    return schema


@cache
def _root() -> dict[str, Any]:
    return Pipeline.model_json_schema()


def _resolve(root: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    reference = node.get("$ref")
    return root["$defs"][reference.rpartition("/")[2]] if reference else node
