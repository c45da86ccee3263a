"""A late run is told by the notifiers' asynchronous side, which is what the triggerer calls."""

import asyncio
import json

import pytest

from evergreen import deadlines
from evergreen.settings import Notify
from scripts.local_stack import Cloud
from tests.plugins.test_notifications import received
from tests.plugins.test_notifications import topic as topic

pytest.importorskip("aiobotocore")


@pytest.mark.parametrize("state", ["running", "failed"])
def test_the_receivers_are_told_of_a_run_that_is_late_and_not_of_one_that_has_ended(
    cloud: Cloud, topic: tuple[str, str], state: str
) -> None:
    alert = deadlines.alert(Notify(sns=topic[0], deadline_minutes=7), "digits")
    assert alert
    # As it travels: through the database, and into another process.
    given = json.loads(json.dumps(alert.callback.kwargs))
    run = {"dag_run_id": "manual__1", "dag_id": "retrain_digits", "state": state}
    asyncio.run(deadlines.tell(**given, context={"dag_run": run}))
    messages = received(cloud, topic[1])
    assert len(messages) == (state == "running")
    for message in messages:
        assert message["Subject"] == "digits: a run is late"
        assert "manual__1 of digits has not ended 7 min after it was queued" in message["Message"]
        assert "/dags/retrain_digits/runs/manual__1" in message["Message"]
