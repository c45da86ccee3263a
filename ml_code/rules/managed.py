"""Verdicts of rules that SageMaker evaluated, from DescribeTrainingJob, with our own evidence beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from rules.verdict import Status, Verdict

# Every other status says that there is no answer.
_ANSWERS: dict[str, Status] = {"NoIssuesFound": "NoIssuesFound", "IssuesFound": "IssuesFound"}


def overrule(verdicts: Sequence[Verdict], managed: Sequence[Mapping[str, str]]) -> list[Verdict]:
    """SageMaker's status in place of ours where it has given one; where the two part, the detail says both.

    :param managed: context.json's `managed_rules`: name, status and details of each.
    """
    said = {one["name"]: one for one in managed}
    return [_overruled(verdict, said.get(verdict.name)) for verdict in verdicts]


def _overruled(own: Verdict, managed: Mapping[str, str] | None) -> Verdict:
    if managed is None:
        return own
    status: Status = _ANSWERS.get(managed["status"], "NotEvaluated")
    details = f" ({managed['details'].rstrip('.')})" if managed["details"] else ""
    detail = f"SageMaker says {managed['status']}{details}. "
    detail += own.detail if own.status == status else f"Our own evaluation says {own.status}: {own.detail}"
    return dataclasses.replace(own, status=status, detail=detail)
