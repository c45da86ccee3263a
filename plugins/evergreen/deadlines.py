"""A run that overstays: Airflow's deadline alert, which tells the pipeline's receivers.

The scheduler sees that a deadline has passed, and the triggerer runs the callback: `plugins/` is on the path of both.
"""

import logging
import sys
from datetime import timedelta
from typing import Any

from airflow.sdk.definitions.callback import AsyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

from evergreen import addresses, notifications
from evergreen.settings import Notify

log = logging.getLogger(__name__)


def alert(notify: Notify, name: str) -> DeadlineAlert | None:
    """What the DAG of the pipeline file `name` has as `deadline`; None when none is set."""
    minutes = notify.deadline_minutes
    # `dags test` fails at the end of a run with a deadline, and nothing watches deadlines there:
    # https://github.com/apache/airflow/issues/73428
    if minutes is None or sys.argv[1:3] == ["dags", "test"]:
        return None
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(minutes=minutes),
        callback=AsyncCallback(
            tell, {"name": name, "notify": notify.model_dump(mode="json", exclude_unset=True)}
        ),
        name=f"{minutes} min",
    )


async def tell(name: str, notify: dict[str, Any], context: dict[str, Any]) -> None:
    """Tell the receivers of `notify` that a run of the pipeline `name` has not ended in time; in the log in any case.

    :param context: what the scheduler gives: the run and the deadline, as JSON.
    """
    settings, run = Notify.model_validate(notify), context["dag_run"]
    # The scheduler forgets the deadlines of runs that succeed, and not of those that fail:
    # https://github.com/apache/airflow/issues/60927
    if run["state"] == "failed":
        return
    subject = f"{name}: a run is late"
    text = (
        f"The run {run['dag_run_id']} of {name} has not ended {settings.deadline_minutes} min after it was queued."
        "\n\n"
        f"Run: {addresses.run_page(run['dag_id'], run['dag_run_id'])}"
    )
    log.warning("%s", text)
    for notifier in notifications.notifiers(settings, subject, text):
        try:
            await notifier.async_notify(context)
        except Exception:
            log.exception("the message could not be sent by %s", type(notifier).__name__)
