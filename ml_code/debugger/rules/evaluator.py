"""Runs the rules and turns whatever happens into a verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from debugger.rules.gradients import PoorWeightInitialization, VanishingGradient
from debugger.rules.losses import LossNotDecreasing, Overfit, Overtraining
from debugger.rules.tensors import SavedTensors
from debugger.rules.verdict import Finding, NotEvaluatedError, Status, Verdict, build_rule


class Rule(Protocol):
    """A frozen dataclass whose fields are the rule's parameters."""

    def check(self, tensors: SavedTensors) -> Finding:
        """Say what is wrong; raise NotEvaluatedError when the tensors do not tell."""


RULES: dict[str, type[Any]] = {
    rule.__name__: rule
    for rule in (VanishingGradient, PoorWeightInitialization, LossNotDecreasing, Overfit, Overtraining)
}


def evaluate(debug_output: Path, rules: Mapping[str, Mapping[str, Any]] | None = None) -> list[Verdict]:
    """Evaluate rules over a `debug-output` folder.

    `rules` is `context.json`'s: {NAME: {"policy": "fail"|"warn"|"ignore", "parameters": {KEY: STRING}}};
    left out, every rule runs with its defaults and policy `warn`. Nothing raises: what a rule cannot
    evaluate, its crash included, is its verdict.
    """
    requested = {name: {} for name in RULES} if rules is None else rules
    try:
        tensors: SavedTensors | str = SavedTensors(debug_output)
    except Exception as error:  # the reader's failure is every rule's verdict
        tensors = _reason(error)
    return [_verdict(name, settings, tensors) for name, settings in requested.items()]


def _verdict(name: str, settings: Mapping[str, Any], tensors: SavedTensors | str) -> Verdict:
    given: dict[str, Any] = dict(settings.get("parameters") or {})
    policy = settings.get("policy", "warn")
    try:
        if name not in RULES:
            raise NotEvaluatedError(f"there is no rule {name}; there are {', '.join(RULES)}")
        rule: Rule = build_rule(RULES[name], given)
        given = dataclasses.asdict(rule)  # type: ignore[call-overload]
        if isinstance(tensors, str):
            raise NotEvaluatedError(tensors)
        found = rule.check(tensors)
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
    )


def _reason(error: Exception) -> str:
    if isinstance(error, NotEvaluatedError | ValueError):
        return f"{str(error).rstrip('.')}."
    return f"the rule failed with {type(error).__name__}: {error}."
