"""Debugger and profiler rules over what a training job wrote: one evaluator for AWS and for this machine.

    verdicts = evaluate(Outputs(debug=Path("debug-output")), {"Overfit": {"policy": "warn", "parameters": {}}})

Parameters and their defaults are those of AWS's built-in rules; values arrive as strings, as in
SageMaker's `RuleParameters`. A rule says NoIssuesFound, IssuesFound or NotEvaluated with the reason.
"""

from rules.evaluator import RULES, Outputs, evaluate
from rules.verdict import Verdict

__all__ = ["RULES", "Outputs", "Verdict", "evaluate"]
