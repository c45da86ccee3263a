"""Every call that was recorded is allowed by a policy, and a policy allows nothing besides but what docs/aws.md names.

Runs last: the recording is of all tests of this folder.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts import policies
from scripts.local_stack import BUCKET, REGION, REPOSITORY
from tests.end_to_end import permissions
from tests.end_to_end.permissions import Ask

ACCOUNT = "000000000000"
TOPIC = f"arn:aws:sns:{REGION}:{ACCOUNT}:told"
GIVEN = policies.values(ACCOUNT, REGION, BUCKET, TopicArn=TOPIC)
# Who → the policies that it has, its calls as what IAM is asked, and the heading of what else it may do.
AIRFLOW, ROLE = "airflow", "role"
ATTACHED = {AIRFLOW: ("airflow", "airflow-notifications"), ROLE: ("execution",)}
ASKS = {AIRFLOW: permissions.of_airflow, ROLE: permissions.of_role}
UNRECORDED = {
    AIRFLOW: "What no recorded run of Airflow does:",
    ROLE: "What no recorded run has SageMaker do with the execution role:",
}


@pytest.fixture(scope="module")
def calls(request: pytest.FixtureRequest, recording: Path) -> list[dict[str, Any]]:
    run = {Path(item.fspath).name for item in request.session.items}
    if "RECORDING" not in os.environ and not {"test_airflow.py", "test_demo.py"} <= run:
        pytest.skip("what is compared is recorded while the other tests of this folder run: run all of it")
    return [json.loads(line) for line in recording.read_text().splitlines()]


def asked(calls: list[dict[str, Any]], who: str) -> set[Ask]:
    return {ask for call in calls if call["by"] == who for ask in ASKS[who](call, REGION, ACCOUNT)}


def attached(who: str) -> list[policies.Permission]:
    return [one for name in ATTACHED[who] for one in policies.permissions(policies.render(name, GIVEN))]


def named(who: str) -> set[str]:
    """Actions, and ends of resources, in the rows of docs/aws.md below a heading."""
    text = (REPOSITORY / "docs/aws.md").read_text().partition(UNRECORDED[who])[2]
    rows = re.match(r"\s*((?:\|.*\n)+)", text)
    assert rows
    return {name for row in rows[1].splitlines()[2:] for name in re.findall(r"`([^`]+)`", row.split("|")[1])}


@pytest.mark.parametrize("who", [AIRFLOW, ROLE])
def test_every_recorded_call_is_allowed(calls: list[dict[str, Any]], who: str) -> None:
    asks = asked(calls, who)
    assert len({ask.action for ask in asks}) > 5, "hardly anything was recorded"
    given = attached(who)
    denied = [ask for ask in asks if not any(permissions.allows(one, ask) for one in given)]
    assert not denied


@pytest.mark.parametrize("who", [AIRFLOW, ROLE])
def test_nothing_else_is_allowed_but_what_the_documentation_names(
    calls: list[dict[str, Any]], who: str
) -> None:
    asks, rows = asked(calls, who), named(who)
    unused = [one for one in attached(who) if not any(permissions.allows(one, ask) for ask in asks)]
    unexplained = [one for one in unused if not rows & set(_names(one))]
    assert not unexplained
    # And the documentation names nothing that no policy has.
    assert rows <= {name for one in attached(who) for name in _names(one)}


def _names(permission: policies.Permission) -> Iterator[str]:
    yield permission.action
    yield permission.resource.rpartition(":")[2]
