"""Rules of the user's own: subclasses of smdebug's `Rule` in a file, as SageMaker's custom rules are.

    class TooLarge(smdebug.rules.Rule):
        def __init__(self, base_trial, action_str="", limit="10"): ...
        def invoke_at_step(self, step) -> bool: ...

Parameters arrive as the strings of RuleParameters, `action_str` among them. The file is code, and runs: it is yours.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# First, since it makes smdebug importable.
from debugger import compat as compat  # isort: skip
from smdebug.exceptions import NoMoreData, RuleEvaluationConditionMet
from smdebug.rules import Rule, invoke_rule
from smdebug.trials import create_trial

from rules.verdict import FOREIGN, NotEvaluatedError, Policy, Verdict


def evaluate_custom(
    debug_output: Path, source: Path, name: str, parameters: Mapping[str, str], policy: Policy = "warn"
) -> Verdict:
    """Invoke the rule at every step, of a job that runs too, until it fires or the job has ended.

    Nothing raises: a rule that cannot be loaded, or crashes, says NotEvaluated.
    """
    given = {key: value for key, value in parameters.items() if key not in FOREIGN}
    try:
        # smdebug's reader would wait for them for ever.
        if not any(debug_output.glob("collections/*/*_collections.json")):
            raise NotEvaluatedError("the training job saved no tensors; turn the debugger hook on")
        rule = _load(source, name, given)(create_trial(str(debug_output)), action_str="", **given)
        invoke_rule(rule, raise_eval_cond=True)
    except RuleEvaluationConditionMet as fired:
        step = int(fired.step)
        detail = f"{name} of {source.name} fired at global step {step}."
        return Verdict(name, "IssuesFound", detail, step, None, None, None, policy, given)
    except NoMoreData:
        detail = f"{name} of {source.name} did not fire."
        return Verdict(name, "NoIssuesFound", detail, None, None, None, None, policy, given)
    except Exception as error:  # the user's code may do anything
        detail = (
            f"{str(error).rstrip('.')}."
            if isinstance(error, NotEvaluatedError)
            else f"{source.name} failed with {type(error).__name__}: {error}."
        )
        return Verdict(name, "NotEvaluated", detail, None, None, None, None, policy, given)
    raise AssertionError("invoke_rule ends by an exception")


def _load(source: Path, name: str, given: Mapping[str, str]) -> Any:
    spec = importlib.util.spec_from_file_location(f"custom_{source.stem}", source)
    if spec is None or spec.loader is None or not source.is_file():
        raise NotEvaluatedError(f"there is no Python file {source.name}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rule = getattr(module, name, None)
    if not (inspect.isclass(rule) and issubclass(rule, Rule)):
        known = sorted(
            key for key, value in vars(module).items() if inspect.isclass(value) and issubclass(value, Rule)
        )
        raise NotEvaluatedError(
            f"{source.name} has no subclass {name} of smdebug.rules.Rule; it has {', '.join(known) or 'none'}"
        )
    known = [key for key in inspect.signature(rule).parameters if key not in {"base_trial", "action_str"}]
    for key in given:
        if key not in known:
            raise NotEvaluatedError(f"{name} has no parameter {key!r}; it has {', '.join(known) or 'none'}")
    return rule
