"""Reading what the profiler wrote: ours, smdebug's own, the platform's, and what is left of an interrupted job."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from smdebug.core.tfevent.timeline_file_writer import TimelineFileWriter
from smdebug.profiler.algorithm_metrics_reader import LocalAlgorithmMetricsReader
from smdebug.profiler.profiler_config_parser import ProfilerConfigParser
from smdebug.profiler.system_metrics_reader import LocalSystemMetricsReader

from benchmarks.ml.profiler_files import START, processors, steps, write_samples, write_timeline
from benchmarks.ml.profiler_runs import train
from report.system_metrics import read_system_metrics
from rules import Outputs, evaluate
from rules.profiler.profile import Profile
from rules.verdict import NotEvaluatedError


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 steps and half a second of real training, profiled."""
    folder = tmp_path_factory.mktemp("real")
    train(folder, seed=0, seconds=0.5, least=40)
    torch.set_num_threads(2)
    return folder


def test_the_timeline_is_read_as_smdebug_reads_it(real: Path) -> None:
    events = Profile(real).timeline.events
    theirs = LocalAlgorithmMetricsReader(str(real)).get_events(0, int(time.time() * 1e6))
    assert len(events) == len(theirs) > 100

    def name(event: str) -> str:
        return "step" if event.startswith("Step:") else event

    ours = sorted((one.name, round(1e6 * one.start), round(1e6 * one.seconds), one.step) for one in events)
    assert ours == sorted(
        (name(one.event_name), one.start_time, one.duration, int(one.event_args["step_num"]))
        for one in theirs
    )


def test_system_metrics_are_read_as_smdebug_reads_them(real: Path) -> None:
    reader = LocalSystemMetricsReader(str(real))
    reader.refresh_event_file_list()
    theirs = reader.get_events(0, int((time.time() + 60) * 1e6))
    node = Profile(real).nodes["algo-1"]
    assert {(one.type, one.name, one.dimension) for one in theirs} == set(node.columns)
    # The sampler's last sample may come within a snapshot's 20 ms after the one before: the later one counts.
    latest = {}
    for event in theirs:
        row = int(np.flatnonzero(node.times <= event.timestamp)[-1])
        latest[event.type, event.name, event.dimension, row] = event.value
    for (*key, row), value in latest.items():
        assert node.columns[tuple(key)][row] == value
    assert len(latest) == sum(int((~np.isnan(column)).sum()) for column in node.columns.values())


def test_steps_and_phases_of_a_real_training(real: Path) -> None:
    timeline = Profile(real).timeline
    taken = timeline.steps("algo-1", "TRAIN")
    assert taken.numbers.tolist() == list(range(len(taken.numbers)))
    phases = timeline.phase_seconds()
    assert list(phases) == ["data_wait", "transfer", "forward", "backward", "optimizer"]
    assert sum(phases.values()) <= taken.seconds.sum()


def test_steps_of_a_long_training_stand_for_those_that_were_not_kept(tmp_path: Path) -> None:
    """profiler/timeline.py keeps every 100th after 20,000; here every 10th after 20."""
    taken = steps(np.full(120, 0.1))
    kept = [event for event in taken if event[3] < 20 or event[3] % 10 == 0]
    waits = [("data_wait", start, 0.04, step, mode) for _, start, _, step, mode in kept]
    write_timeline(tmp_path, [*kept, *waits])
    timeline = Profile(tmp_path).timeline
    assert timeline.steps("algo-1", "TRAIN").stands_for.tolist() == [1] * 20 + [10] * 9 + [1]
    assert timeline.step_seconds("TRAIN") == pytest.approx(0.1 * 111)
    assert timeline.phase_seconds() == pytest.approx({"data_wait": 0.04 * 111})


def test_a_timeline_of_smdebugs_own_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As its hook writes on AWS: modules' names, with the phase as the row's."""
    monkeypatch.setenv("SMPROFILER_CONFIG_PATH", str(tmp_path / "profilerconfig.json"))
    config = {"ProfilingParameters": {"ProfilerEnabled": "true", "LocalPath": str(tmp_path / "out")}}
    (tmp_path / "profilerconfig.json").write_text(json.dumps(config))
    writer = TimelineFileWriter(ProfilerConfigParser("pytorch"))
    now = time.time()
    for step in range(120):
        begin = now + 0.01 * step
        phase = "Step:ModeKeys.TRAIN"
        writer.write_trace_events(begin, phase, phase, "X", 0.009, step_num=str(step), pid=1)
        writer.write_trace_events(begin, "Forward", "Net", "X", 0.004, step_num=str(step), pid=1)
        writer.write_trace_events(
            begin, "Backward(post-forward)", "Net", "X", 0.005, step_num=str(step), pid=1
        )
    writer.close()
    timeline = Profile(tmp_path / "out").timeline
    (node,) = timeline.nodes()
    assert timeline.steps(node, "TRAIN").seconds == pytest.approx(np.full(120, 0.009), abs=2e-6)
    assert len(timeline.named("forward")) == len(timeline.named("backward")) == 120
    found = {one.name: one for one in evaluate(Outputs(profiler=tmp_path / "out"))}
    assert found["StepOutlier"].status == "NoIssuesFound"
    assert found["Dataloader"].status == "NotEvaluated"
    assert "no data_wait" in found["Dataloader"].detail


def test_a_cut_off_line_is_left_out_and_counted(tmp_path: Path) -> None:
    columns = processors(np.random.default_rng(0), 10, cores=1)
    write_samples(tmp_path, START + 0.5 * np.arange(10), columns)
    (file,) = tmp_path.glob("system/incremental/*/*.json")
    file.write_text(file.read_text()[:-30])
    profile = Profile(tmp_path)
    assert profile.unreadable_lines == 1
    assert len(profile.nodes["algo-1"].times) == 10
    metrics, broken = read_system_metrics(tmp_path)
    assert broken == 1
    assert {metric.resource: len(metric.values) for metric in metrics} == {
        "CPU": 10,
        "I/O wait": 10,
        "Memory": 9,
    }


def test_a_cut_off_timeline_keeps_its_whole_events(tmp_path: Path) -> None:
    file = write_timeline(tmp_path, steps(np.full(10, 0.1)))
    file.write_text(file.read_text()[:-40])
    timeline = Profile(tmp_path).timeline
    assert len(timeline.steps("algo-1", "TRAIN").seconds) == 9
    assert timeline.unreadable == 1


def test_rows_that_are_no_events_are_counted(tmp_path: Path) -> None:
    file = write_timeline(tmp_path, steps(np.full(3, 0.1)))
    rows = json.loads(file.read_text())
    file.write_text(json.dumps([*rows, 5, {"ph": "X", "name": "no time"}, None]))
    assert Profile(tmp_path).timeline.unreadable == 3


def test_nodes_are_kept_apart(tmp_path: Path) -> None:
    for i, node in enumerate(("algo-1", "algo-2")):
        write_samples(
            tmp_path, START + np.arange(5), {("cpu", "cpu0", "CPUUtilization"): np.full(5, 10.0 * i)}, node
        )
        write_timeline(tmp_path, steps(np.full(5, 0.1 + i)), node)
    profile = Profile(tmp_path)
    assert list(profile.nodes) == profile.timeline.nodes() == ["algo-1", "algo-2"]
    assert profile.nodes["algo-2"].columns["cpu", "cpu0", "CPUUtilization"].tolist() == [10] * 5
    assert profile.timeline.steps("algo-2", "TRAIN").seconds == pytest.approx([1.1] * 5)


def test_an_empty_folder_says_what_to_turn_on(tmp_path: Path) -> None:
    with pytest.raises(NotEvaluatedError, match="set profiler-interval-ms"):
        Profile(tmp_path)
