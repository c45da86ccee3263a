"""StalledTrainingRule, by the times of real files."""

import os
import time
from pathlib import Path

import pytest

from tests.ml_code.rules.recording import Recorded, run


@pytest.fixture
def recorded(tmp_path: Path) -> Recorded:
    return run(tmp_path / "out", epochs=3, lr=0.1, collections={"losses": None})


def spread(folder: Path, seconds: float, pause: tuple[int, float] = (-1, 0.0), ago: float = 0.0) -> None:
    """Give the event files times `seconds` apart, with `pause` = (step, seconds more after it); the last is
    `ago` seconds old."""
    files = sorted((folder / "events").rglob("*.tfevents"))
    times, now = [], 0.0
    for file in files:
        times.append(now)
        now += seconds + (pause[1] if int(file.parent.name) == pause[0] else 0)
    for file, at in zip(files, times, strict=True):
        moment = time.time() - ago - times[-1] + at
        os.utime(file, (moment, moment))


def test_a_stall_in_the_middle_is_found(recorded: Recorded) -> None:
    spread(recorded.folder, 600, pause=(4, 1500), ago=86400)
    verdict = recorded.verdict("StalledTrainingRule")
    assert (verdict.status, verdict.step) == ("IssuesFound", 4)
    assert verdict.value == pytest.approx(2100, abs=1)
    assert "has not ended" not in verdict.detail
    assert recorded.verdict("StalledTrainingRule", threshold="2200").status == "NoIssuesFound"


def test_a_job_that_has_ended_does_not_stall_afterwards(recorded: Recorded) -> None:
    spread(recorded.folder, 600, ago=86400)
    verdict = recorded.verdict("StalledTrainingRule")
    assert verdict.status == "NoIssuesFound"
    assert verdict.value == pytest.approx(600, abs=1)


def test_a_job_that_runs_stalls_until_now(recorded: Recorded) -> None:
    spread(recorded.folder, 600, ago=3600)
    (recorded.folder / "training_job_end.ts").unlink()
    verdict = recorded.verdict("StalledTrainingRule", stop_training_on_fire="True")
    assert (verdict.status, verdict.step) == ("IssuesFound", 8)
    assert verdict.value == pytest.approx(3600, abs=60)
    assert "the job has not ended" in verdict.detail
    spread(recorded.folder, 600, ago=60)
    assert recorded.verdict("StalledTrainingRule").status == "NoIssuesFound"
