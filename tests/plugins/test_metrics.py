"""Gauges as a StatsD server gets them: UDP on loopback, through Airflow's own client."""

import socket
from collections.abc import Iterator

import pytest
from airflow.sdk.observability import stats
from airflow.sdk.observability.metrics.stats_utils import get_stats_factory

from evergreen import metrics


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """What Airflow's `[metrics]` names; the rest is done as a task's process does at its start."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(5)
        host, port = listener.getsockname()
        for name, value in (("ON", "True"), ("HOST", host), ("PORT", port), ("PREFIX", "airflow")):
            monkeypatch.setenv(f"AIRFLOW__METRICS__STATSD_{name}", str(value))
        client = get_stats_factory()()
        stats.initialize(factory=lambda: client, export_legacy_names=False)
        yield listener
        client.statsd.close()
    monkeypatch.undo()
    stats.initialize(factory=get_stats_factory(), export_legacy_names=False)


def received(server: socket.socket, count: int) -> list[str]:
    return [server.recv(1024).decode() for _ in range(count)]


def test_an_assessments_figures(server: socket.socket) -> None:
    stages = [
        {"stage": "tuning", "seconds": 12.5, "cost": 0.01},
        {"stage": "features", "seconds": 3.0, "cost": None},
    ]
    report = {
        "metrics": {"accuracy": 0.975},
        "champion": {"accuracy": 0.95},
        "verdict": {"decision": "promote"},
        "cost": {"stages": stages, "total": None},
    }
    metrics.of_report("digits", report)
    assert received(server, 6) == [
        "airflow.evergreen.digits.challenger.accuracy:0.975|g",
        "airflow.evergreen.digits.champion.accuracy:0.95|g",
        "airflow.evergreen.digits.tuning.seconds:12.5|g",
        "airflow.evergreen.digits.tuning.cost:0.01|g",
        "airflow.evergreen.digits.features.seconds:3.0|g",
        "airflow.evergreen.digits.verdict.promote:1|c",
    ]


def test_drift(server: socket.socket) -> None:
    rows = [{"name": "shorter side", "psi": 0.5}]
    metrics.of_drift("digits", {"measures": rows, "images": 120, "drifted": True})
    assert received(server, 3) == [
        "airflow.evergreen.digits.psi.shorter_side:0.5|g",
        "airflow.evergreen.digits.captured_images:120|g",
        "airflow.evergreen.digits.drifted:1|g",
    ]
