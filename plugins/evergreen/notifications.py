"""Messages when a model serves, is held or waits for a person, on drift and on failure: Airflow's notifiers.

They are callbacks of the DAG's tasks: a message that cannot be sent is an error in the task's log, and the run goes on.
"""

import logging
from collections.abc import Callable
from html import escape
from typing import Any, Literal, get_args

from airflow.sdk.bases.notifier import BaseNotifier

from evergreen import addresses
from evergreen.settings import Notify, SettingsError

log = logging.getLogger(__name__)

Event = Literal["promoted", "held", "asked", "failed", "drifted"]
Callback = Callable[[Any], None]
# The monitor's task that says whether there is drift.
COMPARE = "compare"


def callbacks(notify: Notify, name: str) -> dict[Event, Callback | None]:
    """For each event what `callback` has, for the pipeline file `name`.

    :raises SettingsError: when the provider that a receiver needs is not installed.
    """
    return {event: callback(notify, name, event) for event in get_args(Event)}


def callback(notify: Notify, name: str, event: Event) -> Callback | None:
    """What a task calls when `event` has happened to the pipeline `name`; None when nobody is to be told.

    :raises SettingsError: when the provider that a receiver needs is not installed.
    """
    try:
        anybody = notifiers(notify, "", "")
    except SettingsError as error:
        raise SettingsError(f"{name}.yaml: {error}") from error
    if not anybody:
        return None

    def tell(context: Any) -> None:
        assessed = context["ti"].xcom_pull(task_ids="assess")
        # The task `gate` ends in every verdict, and asks in one of them.
        if event == "asked" and assessed["verdict"]["decision"] != "ask":
            return
        if event == "drifted" and not context["ti"].xcom_pull(task_ids=COMPARE)["drifted"]:
            return
        for notifier in notifiers(notify, *message(event, name, context, assessed)):
            try:
                # Not through its call, which would render what an exception's text holds as a template.
                notifier.notify(context)
            except Exception:
                log.exception("the message could not be sent by %s", type(notifier).__name__)

    return tell


def message(event: Event, name: str, context: Any, assessed: dict[str, Any] | None) -> tuple[str, str]:
    """(subject, text)

    :param assessed: what the task `assess` returned, with the verdict; None when it has not run.
    """
    task, run = context["ti"].task_id, context["dag_run"]
    subject, first = {
        "promoted": ("a new model serves", f"The new model of {name} serves."),
        "held": ("the new model is held", f"The new model of {name} is held; what served goes on serving."),
        "asked": ("deploy the new model?", f"The new model of {name} waits for your approval."),
        "failed": (
            f"{task} failed",
            f"The task {task} of {name} failed and is not tried again: {context.get('exception') or 'see its log'}",
        ),
        "drifted": (
            "what is asked is not what was learned",
            f"The endpoint of {name} is asked other pictures than its model was trained on.",
        ),
    }[event]
    lines = [first, ""]
    if event == "drifted":
        found = context["ti"].xcom_pull(task_ids=COMPARE)
        lines += [f"{found['sentence']}.", "", f"Result: {found['uri']}/drift.html"]
    if assessed:
        verdict = assessed["verdict"]
        lines += [f"Verdict: {verdict['decision']}", *(f"- {reason}" for reason in verdict["reasons"]), ""]
        lines.append(f"Report: {addresses.report_tab(run.dag_id, run.run_id)}")
        lines.append(f"        {assessed['report_uri']}/report.html")
    else:
        lines.append(f"Run: {addresses.run_page(run.dag_id, run.run_id)}")
    return f"{name}: {subject}", "\n".join(lines)


def notifiers(notify: Notify, subject: str, text: str) -> list[BaseNotifier]:
    """One for each kind of receiver.

    :raises SettingsError: when the provider that one needs is not installed.
    """
    found = []
    if notify.sns:
        found.append(_sns(notify.sns, subject, text))
    if notify.slack:
        found.append(_slack(notify.slack.conn_id, notify.slack.channel, f"*{subject}*\n{text}"))
    if notify.email:
        found.append(_smtp(notify.email, subject, text))
    return found


def _sns(topic: str, subject: str, text: str) -> BaseNotifier:
    from airflow.providers.amazon.aws.notifications.sns import SnsNotifier

    # Amazon SNS takes subjects of fewer than 100 characters.
    return SnsNotifier(target_arn=topic, subject=subject[:99], message=text)


def _slack(conn_id: str, channel: str, text: str) -> BaseNotifier:
    try:
        from airflow.providers.slack.notifications.slack import SlackNotifier
    except ImportError as error:
        raise _missing("slack", "slack", error) from error
    return SlackNotifier(slack_conn_id=conn_id, channel=channel, text=text)


def _smtp(to: list[str], subject: str, text: str) -> BaseNotifier:
    try:
        from airflow.providers.smtp.notifications.smtp import SmtpNotifier
    except ImportError as error:
        raise _missing("email", "smtp", error) from error
    return SmtpNotifier(to=to, subject=subject, html_content=f"<pre>{escape(text)}</pre>")


def _missing(setting: str, provider: str, error: ImportError) -> SettingsError:
    return SettingsError(
        f"notify.{setting}: needs the package apache-airflow-providers-{provider} in Airflow's environment ({error})"
    )
