"""Rules that end a training, evaluated by the training itself between its epochs."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from debugger.hook import TensorHook
from rules import Outputs, evaluate
from rules.debug.catalogue import DEBUG_RULES
from rules.verdict import build_rule

SHARE = 20
"""An evaluation reads all that was saved so far: the next one comes when this many times its time has passed."""


class StopRules:
    """Called after each epoch: the first rule that found an issue, or None.

    :param rules: {RULE: {PARAMETER: STRING}}.
    :raises ValueError: when there is no such rule or parameter.
    """

    def __init__(self, rules: Mapping[str, Mapping[str, str]], hook: TensorHook) -> None:
        known = {rule.__name__: rule for rule in DEBUG_RULES}
        for name, parameters in rules.items():
            if name not in known:
                raise ValueError(
                    f"hyperparameter stop-rules: there is no rule {name}; there are {', '.join(known)}"
                )
            try:
                build_rule(known[name], parameters)
            except ValueError as error:
                raise ValueError(f"hyperparameter stop-rules: {error}") from error
        self._rules: dict[str, dict[str, Any]] = {name: {"parameters": of} for name, of in rules.items()}
        self._hook = hook
        self._due = 0.0

    def __call__(self) -> dict[str, str] | None:
        """`{"rule": NAME, "detail": SENTENCE}`, as history.json has it."""
        start = time.monotonic()
        if start < self._due:
            return None
        self._hook.flush()
        verdicts = evaluate(Outputs(debug=Path(self._hook.out_dir)), self._rules)
        end = time.monotonic()
        self._due = end + SHARE * (end - start)
        for verdict in verdicts:
            if verdict.status == "IssuesFound":
                return {"rule": verdict.name, "detail": verdict.detail}
        return None
