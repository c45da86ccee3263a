"""Runs the rules and turns whatever happens into a verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rules.debug.catalogue import DEBUG_RULES
from rules.debug.saved_tensors import SavedTensors
from rules.profiler.catalogue import PROFILER_RULES
from rules.profiler.profile import Profile
from rules.verdict import NotEvaluatedError, Status, Verdict, build_rule

# Each is a frozen dataclass whose fields are the rule's parameters. Its `check(tensors)`, or `check(profile)`, returns
# a Finding, or raises NotEvaluatedError when what there is does not tell. `unit` is that of the finding's value.
RULES: dict[str, type[Any]] = {rule.__name__: rule for rule in (*DEBUG_RULES, *PROFILER_RULES)}
_PROFILER_NAMES = {rule.__name__ for rule in PROFILER_RULES}


@dataclass(frozen=True)
class Outputs:
    """What a training job wrote, or is writing: smdebug's folder, and SageMaker's profiler folder."""

    debug: Path | None = None
    profiler: Path | None = None
    ended: bool = True
    """False while the job writes: what is too short to judge may yet grow."""


def evaluate(outputs: Outputs, rules: Mapping[str, Mapping[str, Any]] | None = None) -> list[Verdict]:
    """Evaluate rules over what a job wrote.

    `rules` is `context.json`'s: {NAME: {"policy": "fail"|"warn"|"ignore", "parameters": {KEY: STRING}}};
    left out, every rule that there is a folder for runs with its defaults and policy `warn`. Nothing raises: what a
    rule cannot evaluate, its crash included, is its verdict.
    """
    if rules is None:
        given = {False: outputs.debug, True: outputs.profiler}
        rules = {name: {} for name in RULES if given[name in _PROFILER_NAMES]}

    @cache
    def tensors() -> SavedTensors:
        if outputs.debug is None:
            raise NotEvaluatedError("there is no folder of saved tensors; turn the debugger hook on")
        return SavedTensors(outputs.debug)

    @cache
    def profile() -> Profile:
        if outputs.profiler is None:
            raise NotEvaluatedError("there is no folder of the profiler; set profiler-interval-ms")
        return Profile(outputs.profiler, outputs.ended)

    return [
        _verdict(name, settings, profile if name in _PROFILER_NAMES else tensors)
        for name, settings in rules.items()
    ]


def _verdict(name: str, settings: Mapping[str, Any], source: Callable[[], Any]) -> Verdict:
    given: dict[str, Any] = dict(settings.get("parameters") or {})
    policy = settings.get("policy", "warn")
    try:
        if name not in RULES:
            raise NotEvaluatedError(f"there is no rule {name}; there are {', '.join(RULES)}")
        rule: Any = build_rule(RULES[name], given)
        given = dataclasses.asdict(rule)
        found = rule.check(source())
    except Exception as error:  # one rule's crash must not hide the others' verdicts
        return Verdict(name, "NotEvaluated", _reason(error), None, None, None, None, policy, given)
    status: Status = "IssuesFound" if found.issue else "NoIssuesFound"
    return Verdict(
        name,
        status,
        found.detail,
        found.step,
        found.tensor,
        found.value,
        found.threshold,
        policy,
        given,
        found.recommendation,
        found.plot,
        getattr(rule, "unit", None),
    )


def _reason(error: Exception) -> str:
    if isinstance(error, NotEvaluatedError | ValueError):
        return f"{str(error).rstrip('.')}."
    return f"the rule failed with {type(error).__name__}: {error}."
