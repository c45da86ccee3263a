"""Debugger rules over what smdebug saved: one evaluator for AWS and for this machine.

    verdicts = evaluate(Path("debug-output"), {"Overfit": {"policy": "warn", "parameters": {}}})

Parameters and their defaults are those of AWS's built-in rules; values arrive as strings, as in
SageMaker's `RuleParameters`. A rule says NoIssuesFound, IssuesFound or NotEvaluated with the reason.
"""

# Before anything imports smdebug, which every module of this package may.
from debugger import compat as compat
from debugger.rules.evaluator import RULES, evaluate
from debugger.rules.verdict import Verdict

__all__ = ["RULES", "Verdict", "evaluate"]
