"""What a look at the account has found, and what could not be looked at."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from botocore.exceptions import BotoCoreError, ClientError

State = Literal["ok", "fix", "not checked"]
# service → boto3 client.
Clients = Callable[[str], Any]


@dataclass(frozen=True)
class Finding:
    check: str
    state: State
    sentence: str
    """What was found; with `fix` also what to do, with `not checked` why."""


def guarded(check: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What `look` finds; where AWS refuses to answer, that it was not checked, and why."""
    try:
        yield from look()
    except ClientError as error:
        yield Finding(
            check, "not checked", f"{error.operation_name}: {code(error)} {_message(error)}".strip()
        )
    except BotoCoreError as error:
        yield Finding(check, "not checked", str(error).splitlines()[0])


def code(error: ClientError) -> str:
    return str(error.response["Error"]["Code"])


def _message(error: ClientError) -> str:
    return str(error.response["Error"].get("Message", ""))[:200]


def table(findings: list[Finding]) -> str:
    """A line each, in columns."""
    states, checks = (max(len(getattr(finding, name)) for finding in findings) for name in ("state", "check"))
    return "\n".join(
        f"{finding.state:<{states}}  {finding.check:<{checks}}  {finding.sentence}" for finding in findings
    )
