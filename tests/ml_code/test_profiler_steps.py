"""The step clock, and the timeline of steps as smdebug's reader opens it."""

import json
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from smdebug.profiler.algorithm_metrics_reader import LocalAlgorithmMetricsReader

from profiler import timeline
from profiler.step_clock import StepClock
from profiler.timeline import Timeline
from tests.ml_code.conftest import Job

CPU = torch.device("cpu")


def events(profiler: Path) -> list[Any]:
    """smdebug's TraceEvents, in the order of their starts."""
    reader = LocalAlgorithmMetricsReader(str(profiler))
    return sorted(reader.get_events(0, int((time.time() + 60) * 1e6)), key=lambda event: event.start_time)


def test_step_clock_adds_up_phases() -> None:
    clock = StepClock(CPU)
    for _ in range(2):
        clock.begin_step("TRAIN")
        with clock.phase("forward"):
            time.sleep(0.02)
        with clock.phase("backward"):
            pass
        clock.end_step()
    assert list(clock.seconds) == ["forward", "backward"]
    assert clock.seconds["forward"] >= 0.04 > clock.seconds["backward"]


def test_parts_of_an_evaluation_count_once() -> None:
    clock = StepClock(CPU)
    with clock.phase("evaluation"):
        clock.begin_step("EVAL")
        with clock.part("forward"):
            time.sleep(0.01)
        clock.end_step()
    assert list(clock.seconds) == ["evaluation"]


def test_smdebug_reads_each_step_and_its_phases(tmp_path: Path) -> None:
    began = time.time()
    steps = Timeline(tmp_path)
    clock = StepClock(CPU, steps)
    for _ in range(2):
        clock.begin_step("TRAIN")
        with clock.phase("data"):
            time.sleep(0.02)
        with clock.phase("forward"):
            time.sleep(0.01)
        clock.end_step()
    clock.begin_step("TRAIN")  # no data for a third
    with clock.phase("data"):
        pass
    clock.begin_step("EVAL")
    with clock.part("forward"):
        pass
    clock.end_step()
    steps.write()
    (file,) = (tmp_path / "framework" / "pevents").glob("*/*_pythontimeline.json")
    assert int(file.name.split("_")[0]) / 1e6 == pytest.approx(time.time(), abs=5)
    first, *rest = events(tmp_path)
    assert first.event_name == "Initialization"
    assert first.start_time / 1e6 == pytest.approx(psutil.Process().create_time(), abs=0.1)
    assert first.end_time / 1e6 == pytest.approx(began, abs=5)
    assert [(event.event_name, event.event_args["mode"], event.event_args["step_num"]) for event in rest] == [
        ("Step:ModeKeys.TRAIN", "TRAIN", "0"),
        ("data_wait", "TRAIN", "0"),
        ("forward", "TRAIN", "0"),
        ("Step:ModeKeys.TRAIN", "TRAIN", "1"),
        ("data_wait", "TRAIN", "1"),
        ("forward", "TRAIN", "1"),
        ("Step:ModeKeys.EVAL", "EVAL", "0"),
        ("forward", "EVAL", "0"),
    ]
    step, waiting, forward = rest[:3]
    assert waiting.duration >= 20_000
    assert forward.duration >= 10_000
    assert step.duration >= waiting.duration + forward.duration
    assert first.node_id == "algo-1-" + str(psutil.Process().pid)


def test_long_trainings_keep_few_of_their_later_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeline, "KEPT_STEPS", 25)
    monkeypatch.setattr(timeline, "KEPT_AFTERWARDS", 10)
    monkeypatch.setattr(timeline, "BUFFERED_STEPS", 20)
    steps = Timeline(tmp_path)
    for _ in range(60):
        steps.add("TRAIN", time.perf_counter(), 0.001, ())
    steps.write()
    steps.write()  # nothing new, no file
    numbers = [int(event.event_args["step_num"]) for event in events(tmp_path) if "Step" in event.event_name]
    assert numbers == [*range(25), 30, 40, 50]
    files = list((tmp_path / "framework" / "pevents").glob("*/*.json"))
    assert len(files) == 2
    assert (
        json.loads(files[0].read_text())[0]["args"]["kept"] == "steps 0 to 24 of each mode, then every 10th"
    )


def test_a_timeline_that_cannot_be_written_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "framework").write_text("a file where the folder belongs")
    steps = Timeline(tmp_path)
    steps.add("TRAIN", time.perf_counter(), 0.001, ())
    steps.write()
    assert steps.error is not None
    assert steps.error in capsys.readouterr().out


def test_training_writes_its_steps(run_job: Job) -> None:
    _, result = run_job("--epochs", "2", "--batch-size", "32", "--profiler-interval-ms", "60000")
    read = events(result.output / "profiler-output")
    trained = [event for event in read if event.event_name == "Step:ModeKeys.TRAIN"]
    assert [event.event_args["step_num"] for event in trained] == [str(number) for number in range(10)]
    assert sum(event.event_name == "Step:ModeKeys.EVAL" for event in read) == 2
    parts = {"data_wait", "transfer", "forward", "backward", "optimizer"}
    assert {event.event_name for event in read} == parts | {
        "Initialization",
        "Step:ModeKeys.TRAIN",
        "Step:ModeKeys.EVAL",
    }
    seconds = json.loads((result.output / "steps.json").read_text())
    backward = sum(event.duration for event in read if event.event_name == "backward") / 1e6
    assert backward == pytest.approx(seconds["backward"], abs=1e-4)
    assert {"data", "evaluation", "checkpoint"} <= set(seconds)
    assert json.loads((result.output / "history.json").read_text())["hook_errors"] == []
