"""What is done when a rule finds an issue: AWS's actions, carried out by smdebug.

    [{"name": "stoptraining", "training_job_prefix": "digits-retrain-0123456789"},
     {"name": "email", "endpoint": "someone@example.org"}, {"name": "sms", "endpoint": "+491700000000"}]

`RuleParameters["action_json"]` holds this list as text. Messages go through Amazon SNS, topic SMDebugRules, to which
the receiver is subscribed at the first one and has to agree by mail. The role needs sns:CreateTopic, sns:Publish,
sns:Subscribe and sns:ListSubscriptions; to stop, sagemaker:ListTrainingJobs and sagemaker:StopTrainingJob.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Generator
from typing import Any

# First, since it makes smdebug importable.
from debugger import compat as compat  # isort: skip
from smdebug.core.logger import get_logger
from smdebug.rules.action import Actions

# As smdebug's SDK writes it: quotes carry backslashes.
_QUOTE = '\\"'


def carry_out(rule: str, action_json: str, message: str) -> list[str]:
    """Do it all; what went wrong, a sentence each. Actions that are not understood are among them.

    :param action_json: the text in RuleParameters, with or without the SDK's backslashes.
    """
    text = action_json.replace(_QUOTE, '"')
    try:
        wanted = json.loads(text)
    except ValueError as error:
        return [f"action_json is not JSON: {error}"]
    wanted = wanted if isinstance(wanted, list) else [wanted]
    problems = []
    for action in wanted:
        with _said() as said:
            # smdebug lowers the case of the whole text, e-mail addresses included.
            actions = Actions(json.dumps([action]), rule)
            actions.invoke(message)
        if not actions._actions:
            problems.append(f"action {json.dumps(action)} is not one of AWS's, or lacks what it needs")
        elif failed := _failure(actions._actions[0], said):
            problems.append(f"action {json.dumps(action)}: {failed}")
    return problems


def _failure(action: Any, said: list[str]) -> str | None:
    """Why an action did nothing. smdebug writes its errors to its log, and goes on."""
    caught = next((line for line in said if "exception" in line.lower()), None)
    if hasattr(action, "_found_jobs"):
        found = action._found_jobs
        if len(found) == 1:
            return caught
        return caught or f"{len(found)} running training jobs begin with its prefix, and it stops exactly one"
    return None if action._last_send_mesg_response else caught or "SNS gave no answer"


@contextlib.contextmanager
def _said() -> Generator[list[str]]:
    """smdebug's log lines inside the block."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(" ".join(record.getMessage().split()))

    logger, handler = get_logger(), Keep()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    others = {one: one.level for one in logger.handlers if one is not handler}
    for one in others:
        one.setLevel(max(level, one.level))
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        for one, before in others.items():
            one.setLevel(before)
