"""System metrics in SageMaker's format, and the step clock."""

import json
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from smdebug.profiler.system_metrics_reader import LocalSystemMetricsReader

from profiler.step_clock import StepClock
from profiler.system import SystemSampler
from tests.ml_code.conftest import Job


def rows(root: Path) -> list[dict[str, object]]:
    files = sorted((root / "system" / "incremental").glob("[0-9]" * 10 + "/" + "[0-9]" * 10 + ".algo-1.json"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_smdebug_reads_what_the_sampler_writes(tmp_path: Path) -> None:
    start = time.time()
    with SystemSampler(tmp_path, 0.05):
        time.sleep(0.4)
    reader = LocalSystemMetricsReader(str(tmp_path))
    reader.refresh_event_file_list()
    events = reader.get_events(int((start - 60) * 1e6), int((time.time() + 60) * 1e6))
    seen = {(event.type, event.dimension) for event in events}
    assert {("cpu", "CPUUtilization"), ("cpu", "I/OWaitPercentage"), ("memory", "")} <= seen
    assert len(events) == len(rows(tmp_path))


def test_rows_are_sagemakers(tmp_path: Path) -> None:
    with SystemSampler(tmp_path, 0.05):
        time.sleep(0.4)
    written = rows(tmp_path)
    assert {tuple(row) for row in written} == {("Type", "Name", "Dimension", "Value", "NodeId", "Timestamp")}
    samples = Counter(row["Timestamp"] for row in written)
    assert 4 <= len(samples) <= 12
    assert all(0 <= row["Value"] <= 100 for row in written if row["Type"] in {"cpu", "memory"})
    assert ("network", "ReceiveBytesPerSecond", "Algorithm") in {
        (row["Type"], row["Name"], row["Dimension"]) for row in written
    }


def test_a_job_shorter_than_the_interval_has_a_sample(tmp_path: Path) -> None:
    with SystemSampler(tmp_path, 60):
        pass
    assert rows(tmp_path)


def test_sampling_that_fails_is_reported_and_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "system").write_text("a file where the folder belongs")
    with SystemSampler(tmp_path, 0.05) as sampler:
        pass
    assert sampler.error is not None
    assert sampler.error in capsys.readouterr().out


def test_training_writes_metrics_only_when_asked(run_job: Job) -> None:
    _, profiled = run_job("--epochs", "2", "--profiler-interval-ms", "100", name="profiled")
    _, plain = run_job("--epochs", "2", name="plain")
    assert rows(profiled.output / "profiler-output")
    assert not (plain.output / "profiler-output").exists()


def test_step_clock_adds_up_phases() -> None:
    clock = StepClock(torch.device("cpu"))
    for _ in range(2):
        with clock.phase("forward"):
            time.sleep(0.02)
        with clock.phase("backward"):
            pass
    assert list(clock.seconds) == ["forward", "backward"]
    assert clock.seconds["forward"] >= 0.04 > clock.seconds["backward"]
