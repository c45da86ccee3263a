"""Messages reach a real queue behind a real topic, and a real mail server."""

import email
import importlib.util
import json
import logging
import socketserver
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from evergreen import notifications
from evergreen.settings import Notify, SettingsError
from scripts.local_stack import Cloud

RUN = "manual__2026-11-28T07:00:00+00:00"
REPORT = "/dags/retrain_digits/runs/manual__2026-11-28T07%3A00%3A00%2B00%3A00/plugin/report"


def context(decision: str | None, **more: Any) -> dict[str, Any]:
    assessed = decision and {
        "verdict": {"decision": decision, "reasons": ["Test accuracy is 97.50%.", "And <more>."]},
        "report_uri": "s3://b/reports/r",
    }
    instance = SimpleNamespace(task_id="retrain", xcom_pull=lambda task_ids: assessed)
    return {"ti": instance, "dag_run": SimpleNamespace(dag_id="retrain_digits", run_id=RUN), **more}


@pytest.fixture(scope="module")
def topic(cloud: Cloud) -> tuple[str, str]:
    """(ARN of a topic, URL of a queue that is subscribed to it)"""
    sns, sqs = cloud.client("sns"), cloud.client("sqs")
    queue = sqs.create_queue(QueueName="told")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    topic = sns.create_topic(Name="evergreen")["TopicArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    return topic, queue


def received(cloud: Cloud, queue: str) -> list[dict[str, Any]]:
    sqs = cloud.client("sqs")
    messages = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", [])
    for message in messages:
        sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
    return [json.loads(message["Body"]) for message in messages]


@pytest.mark.parametrize(
    ("event", "decision", "subject", "first"),
    [
        ("promoted", "promote", "digits: a new model serves", "The new model of digits serves."),
        (
            "held",
            "hold",
            "digits: the new model is held",
            "The new model of digits is held; what served goes on",
        ),
        ("asked", "ask", "digits: deploy the new model?", "The new model of digits waits for your approval."),
        (
            "failed",
            "hold",
            "digits: retrain failed",
            "The task retrain of digits failed and is not tried again: {{ x }}",
        ),
    ],
)
def test_a_message_has_the_verdict_the_reasons_and_the_reports_address(
    cloud: Cloud, topic: tuple[str, str], event: Any, decision: str, subject: str, first: str
) -> None:
    tell = notifications.callback(Notify(sns=topic[0]), "digits", event)
    assert tell
    # What an exception says is no template.
    tell(context(decision, exception=ValueError("{{ x }}")))
    (message,) = received(cloud, topic[1])
    assert message["Subject"] == subject
    assert message["Message"].startswith(first)
    assert f"Verdict: {decision}\n- Test accuracy is 97.50%.\n- And <more>.\n\nReport: " in message["Message"]
    assert REPORT in message["Message"]
    assert "s3://b/reports/r/report.html" in message["Message"]


def test_a_failure_before_the_assessment_has_the_runs_address(cloud: Cloud, topic: tuple[str, str]) -> None:
    tell = notifications.callback(Notify(sns=topic[0]), "digits", "failed")
    assert tell
    tell(context(None))
    (message,) = received(cloud, topic[1])
    assert "see its log" in message["Message"]
    assert "Run: " in message["Message"]
    assert "Verdict" not in message["Message"]


def test_the_gate_tells_of_a_question_alone(cloud: Cloud, topic: tuple[str, str]) -> None:
    tell = notifications.callback(Notify(sns=topic[0]), "digits", "asked")
    assert tell
    tell(context("promote"))
    assert received(cloud, topic[1]) == []


@pytest.mark.parametrize("drifted", [True, False])
def test_the_monitor_tells_of_drift_alone(cloud: Cloud, topic: tuple[str, str], drifted: bool) -> None:
    found = {"drifted": drifted, "sentence": "They part in brightness", "uri": "s3://b/monitor/r"}
    given = context(None)
    given["ti"] = SimpleNamespace(
        task_id="compare", xcom_pull=lambda task_ids: {"compare": found}.get(task_ids)
    )
    tell = notifications.callback(Notify(sns=topic[0]), "digits", "drifted")
    assert tell
    tell(given)
    messages = received(cloud, topic[1])
    assert len(messages) == drifted
    for message in messages:
        assert message["Subject"] == "digits: what is asked is not what was learned"
        assert "They part in brightness.\n\nResult: s3://b/monitor/r/drift.html\nRun: " in message["Message"]


def test_nobody_to_tell_is_no_callback() -> None:
    assert set(notifications.callbacks(Notify(), "digits").values()) == {None}


class Mail(socketserver.StreamRequestHandler):
    """As much of RFC 5321 as smtplib speaks to a server without extensions."""

    def handle(self) -> None:
        self.say("220 here")
        while line := self.rfile.readline().decode().strip():
            verb = line.split()[0].upper()
            if verb == "DATA":
                self.say("354 go on")
                lines = iter(self.rfile.readline, b".\r\n")
                self.server.letters.append(b"".join(lines).decode())  # type: ignore[attr-defined]
            self.say("502 no" if verb == "EHLO" else "221 bye" if verb == "QUIT" else "250 fine")

    def say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


def test_a_letter_reaches_a_mail_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mail) as server:
        server.daemon_threads = True
        letters: list[str] = []
        server.letters = letters  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        extra = {"disable_ssl": True, "disable_tls": True, "from_email": "evergreen@example.org"}
        connection = {
            "conn_type": "smtp",
            "host": "127.0.0.1",
            "port": server.server_address[1],
            "extra": extra,
        }
        monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", json.dumps(connection))
        tell = notifications.callback(Notify(email=["someone@example.org"]), "digits", "held")
        assert tell
        tell(context("hold"))
        server.shutdown()
    (letter,) = letters
    parsed = email.message_from_string(letter)
    assert (parsed["Subject"], parsed["To"]) == ("digits: the new model is held", "someone@example.org")
    (part,) = parsed.get_payload()
    assert "- And &lt;more&gt;." in part.get_payload(decode=True).decode()


def test_a_message_that_cannot_be_sent_is_an_error_in_the_log(
    cloud: Cloud, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    tell = notifications.callback(Notify(sns="arn:aws:sns:us-east-1:000000000000:nobody"), "digits", "held")
    assert tell
    with caplog.at_level(logging.ERROR):
        tell(context("hold"))
    assert "the message could not be sent by SnsNotifier" in caplog.text + capsys.readouterr().out


@pytest.mark.skipif(importlib.util.find_spec("airflow.providers.slack") is not None, reason="it is installed")
def test_a_provider_that_is_not_installed_is_named() -> None:
    notify = Notify.model_validate({"slack": {"channel": "#models"}})
    with pytest.raises(
        SettingsError, match=r"^digits\.yaml: notify\.slack: needs the package apache-airflow-providers-slack"
    ):
        notifications.callbacks(notify, "digits")
