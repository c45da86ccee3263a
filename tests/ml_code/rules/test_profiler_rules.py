"""Each profiler rule against its definition, computed here from the same samples.

The samples are written as files in SageMaker's format. No GPU is needed: GPU rows are made up, everything else is
read as it would be of a job on one.
"""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.ml.profiler_files import (
    START,
    Array,
    Key,
    healthy_gpu,
    processors,
    steps,
    write_samples,
    write_timeline,
)
from rules import Outputs, Verdict, evaluate
from rules.profiler.finding import ProfilerFinding
from rules.profiler.gpus import BatchSize, LoadBalancing, LowGPUUtilization
from rules.profiler.memory import GPUMemoryIncrease
from rules.profiler.profile import Profile
from rules.profiler.summaries import OverallSystemUsage

LONG = 1600
"""Samples at 500 ms: what AWS's defaults were made for."""


def verdict(folder: Path, name: str, **parameters: str) -> Verdict:
    return evaluate(Outputs(profiler=folder), {name: {"policy": "warn", "parameters": parameters}})[0]


def record(folder: Path, columns: dict[Key, Array], interval: float = 0.5, node: str = "algo-1") -> None:
    samples = len(next(iter(columns.values())))
    write_samples(folder, START + interval * np.arange(samples), columns, node)


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.fixture
def machine(random: np.random.Generator) -> dict[Key, Array]:
    """A healthy training on two GPUs."""
    return processors(random, LONG, cores=3) | healthy_gpu(random, LONG)


def use(columns: dict[Key, Array], gpu: str = "gpu0") -> Array:
    return columns["gpu", gpu, "GPUUtilization"]


def memory(columns: dict[Key, Array], gpu: str = "gpu0") -> Array:
    return columns["gpu", gpu, "GPUMemoryUtilization"]


def cores(columns: dict[Key, Array], dimension: str) -> Array:
    return np.array([column for (_, _, what), column in columns.items() if what == dimension])


def test_a_healthy_training_on_gpus_has_no_issue(tmp_path: Path, machine: dict[Key, Array]) -> None:
    record(tmp_path, machine)
    found = {one.name: one for one in evaluate(Outputs(profiler=tmp_path))}
    gpu_rules = (
        "LowGPUUtilization",
        "BatchSize",
        "CPUBottleneck",
        "IOBottleneck",
        "GPUMemoryIncrease",
        "MemoryLeak",
    )
    for name in (*gpu_rules, "LoadBalancing", "OverallSystemUsage", "ProfilerReport"):
        assert found[name].status == "NoIssuesFound", found[name]


@pytest.mark.parametrize(
    ("level", "idle", "issue"),
    [(60, 0.0, True), (95, 0.1, True), (95, 0.01, False)],
    ids=["under", "unsteady", "busy"],
)
def test_low_gpu_utilization(
    tmp_path: Path, random: np.random.Generator, level: float, idle: float, issue: bool
) -> None:
    values = np.clip(random.normal(level, 2, LONG), 0, 100)
    values[random.random(LONG) < idle] = 3
    record(tmp_path, {("gpu", "gpu0", "GPUUtilization"): values})
    finding = LowGPUUtilization().check(Profile(tmp_path))
    windows = [values[-1000:-500], values[-500:]]  # those that end after 1,000 points
    fired = [
        np.quantile(one, 0.95) < 70 or (np.quantile(one, 0.95) > 70 and np.quantile(one, 0.05) < 10)
        for one in windows
    ]
    assert finding.issue is issue is any(fired)
    assert finding.triggered == sum(fired)
    assert finding.datapoints == LONG
    shown = finding.details["algo-1"]["gpu0"]
    assert (shown["gpu_95"], shown["gpu_5"]) == pytest.approx(
        (np.quantile(windows[-1], 0.95), np.quantile(windows[-1], 0.05))
    )


@pytest.mark.parametrize("busy", [None, "cpu", "gpu", "memory"])
def test_batch_size_needs_room_in_all_three(
    tmp_path: Path, random: np.random.Generator, busy: str | None
) -> None:
    columns = processors(random, LONG, busy=90 if busy == "cpu" else 30)
    columns["gpu", "gpu0", "GPUUtilization"] = random.normal(90 if busy == "gpu" else 40, 2, LONG)
    columns["gpu", "gpu0", "GPUMemoryUtilization"] = random.normal(90 if busy == "memory" else 20, 1, LONG)
    record(tmp_path, columns)
    finding = BatchSize().check(Profile(tmp_path))
    expected = [
        np.quantile(values[-500:], 0.95)
        for values in (cores(columns, "CPUUtilization").mean(axis=0), use(columns), memory(columns))
    ]
    assert finding.issue is (busy is None) is all(value < 70 for value in expected)
    shown = finding.details["algo-1"]["gpu0"]
    if finding.triggered <= 1:
        assert list(shown) == ["cpu_p95", "gpu_p95", "gpu_memory_p95"]
    assert finding.value == shown["gpu_memory_p95"]


@pytest.mark.parametrize("share", [0.4, 0.6])
def test_cpu_bottleneck_counts_snapshots(
    tmp_path: Path, random: np.random.Generator, machine: dict[Key, Array], share: float
) -> None:
    stalled = random.random(LONG) < share
    use(machine, "gpu1")[stalled] = 4
    machine["cpu", "cpu2", "CPUUtilization"][stalled] = 97
    record(tmp_path, machine)
    found = verdict(tmp_path, "CPUBottleneck")
    idle = (use(machine, "gpu0") < 10) | (use(machine, "gpu1") < 10)
    expected = 100 * (idle & (cores(machine, "CPUUtilization") > 90).any(axis=0)).mean()
    assert found.value == pytest.approx(expected)
    assert found.status == ("IssuesFound" if expected > 50 else "NoIssuesFound")
    assert found.threshold == 50


@pytest.mark.parametrize("gpus", [True, False])
def test_io_bottleneck(
    tmp_path: Path, random: np.random.Generator, machine: dict[Key, Array], gpus: bool
) -> None:
    waiting, stalled = random.random(LONG) < 0.7, random.random(LONG) < 0.9
    machine["cpu", "cpu1", "I/OWaitPercentage"][waiting] = 80
    use(machine)[stalled] = 5
    if not gpus:
        machine = {key: column for key, column in machine.items() if key[0] != "gpu"}
    record(tmp_path, machine)
    found = verdict(tmp_path, "IOBottleneck")
    both = (cores(machine, "I/OWaitPercentage") > 50).any(axis=0)
    if gpus:
        both &= (use(machine) < 10) | (use(machine, "gpu1") < 10)
    assert found.value == pytest.approx(100 * both.mean())
    assert found.status == "IssuesFound"
    assert ("there is no GPU" in found.detail) is not gpus


def test_metrics_within_20_ms_are_one_snapshot(tmp_path: Path, machine: dict[Key, Array]) -> None:
    """AWS's agent stamps every kind by itself."""
    record(tmp_path / "whole", machine)
    times = START + 0.5 * np.arange(LONG)
    for i, kind in enumerate(("cpu", "memory", "gpu")):
        part = {key: column for key, column in machine.items() if key[0] == kind}
        write_samples(tmp_path / "parts", times + 0.009 * i, part)
    whole, parts = Profile(tmp_path / "whole"), Profile(tmp_path / "parts")
    assert len(parts.nodes["algo-1"].times) == LONG
    for key, column in whole.nodes["algo-1"].columns.items():
        assert np.array_equal(column, parts.nodes["algo-1"].columns[key])


def test_gpu_memory_increase_is_a_jump_of_the_moving_average(
    tmp_path: Path, random: np.random.Generator, machine: dict[Key, Array]
) -> None:
    values = random.normal(30, 0.3, LONG)
    values[1300:] += 40
    machine["gpu", "gpu1", "GPUMemoryUtilization"] = values
    record(tmp_path, machine)
    finding = GPUMemoryIncrease().check(Profile(tmp_path))
    jumps = [values[: end + 1][-10:].mean() - values[: end + 1][-11:-2].mean() for end in range(1000, LONG)]
    assert finding.issue
    assert finding.value == pytest.approx(max(jumps))
    assert finding.triggered == sum(jump > 5 for jump in jumps) > 0
    assert finding.details["algo-1"]["gpu1"]["p50"] == pytest.approx(np.median(values))


def test_the_documentations_defaults_of_gpu_memory_increase_never_fire(
    tmp_path: Path, machine: dict[Key, Array]
) -> None:
    memory(machine)[:] = np.where(np.arange(LONG) < 1000, 0, 100)
    record(tmp_path, machine)
    documented = {"increase": "10", "patience": "100", "window": "500"}
    assert verdict(tmp_path, "GPUMemoryIncrease", **documented).status == "NoIssuesFound"
    assert verdict(tmp_path, "GPUMemoryIncrease", patience="100").status == "IssuesFound"


def test_load_balancing_is_the_jensen_shannon_distance(tmp_path: Path, machine: dict[Key, Array]) -> None:
    use(machine, "gpu1")[: LONG // 2] = 20
    record(tmp_path, machine)
    finding = LoadBalancing().check(Profile(tmp_path))
    p, q = (np.histogram(use(machine, gpu), bins=50, range=(0, 100))[0] / LONG for gpu in ("gpu0", "gpu1"))
    m = (p + q) / 2

    def divergence(one: Array) -> float:
        there = one > 0
        return float((one[there] * np.log(one[there] / m[there])).sum())

    expected = ((divergence(p) + divergence(q)) / 2) ** 0.5
    assert finding.value == pytest.approx(expected)
    assert finding.issue is (expected > 0.5)
    assert finding.details["algo-1"]["distances"] == {"gpu0-gpu1": finding.value}
    use(machine, "gpu1")[:] = 20
    record(tmp_path / "idle", machine)
    assert verdict(tmp_path / "idle", "LoadBalancing").status == "IssuesFound"


def test_one_gpu_has_no_load_to_balance(tmp_path: Path, machine: dict[Key, Array]) -> None:
    record(tmp_path, {key: column for key, column in machine.items() if key[1] != "gpu1"})
    found = verdict(tmp_path, "LoadBalancing")
    assert (found.status, found.detail) == (
        "NotEvaluated",
        "no node has more than one GPU, so there is no load to balance.",
    )


@pytest.mark.parametrize(("planted", "issue"), [(8, False), (14, True)])
def test_step_outlier(tmp_path: Path, random: np.random.Generator, planted: int, issue: bool) -> None:
    seconds = random.normal(0.1, 0.002, 300)
    late = random.choice(300, planted, replace=False)
    seconds[late] = 0.9
    write_timeline(tmp_path, steps(seconds))
    found = verdict(tmp_path, "StepOutlier", n_outliers="9")
    beyond = seconds > seconds.mean() + 3 * seconds.std()
    assert found.value == beyond.sum() == planted
    assert found.threshold == 9
    assert found.status == ("IssuesFound" if issue else "NoIssuesFound")
    assert found.step == int(np.flatnonzero(beyond)[0])


def test_outliers_allowed_by_default_grow_with_the_run(tmp_path: Path, random: np.random.Generator) -> None:
    seconds = random.normal(0.1, 0.002, 1000)
    seconds[::50] = 0.9
    write_timeline(tmp_path, steps(seconds))
    assert (verdict(tmp_path, "StepOutlier").threshold, verdict(tmp_path, "StepOutlier").value) == (30, 20)
    assert verdict(tmp_path, "StepOutlier", n_outliers="12", mode="TRAIN").status == "IssuesFound"
    assert verdict(tmp_path, "StepOutlier", mode="EVAL").status == "NotEvaluated"


def test_max_initialization_time(tmp_path: Path) -> None:
    first = steps(np.full(10, 0.1), start=START + 1500)
    write_timeline(tmp_path, [("Initialization", START, 1500.0, 0, "TRAIN"), *first])
    found = verdict(tmp_path, "MaxInitializationTime")
    assert (found.status, found.value, found.threshold) == ("IssuesFound", pytest.approx(25), 20)
    assert verdict(tmp_path, "MaxInitializationTime", threshold="26").status == "NoIssuesFound"


def test_initialization_begins_with_the_first_sample_where_no_event_says(tmp_path: Path) -> None:
    """As with the platform's metrics and smdebug's own timeline."""
    record(tmp_path, {("cpu", "cpu0", "CPUUtilization"): np.full(4000, 50.0)})
    write_timeline(tmp_path, steps(np.full(10, 0.1), start=START + 1320))
    assert verdict(tmp_path, "MaxInitializationTime").value == pytest.approx(22)


@pytest.mark.parametrize(("wait", "issue"), [(0.02, False), (0.2, True)])
def test_dataloader_by_the_time_that_steps_wait(tmp_path: Path, wait: float, issue: bool) -> None:
    phases = {"data_wait": wait, "transfer": 0.01, "forward": 0.03, "backward": 0.05, "optimizer": 0.01}
    events, now = [], START
    for step in range(20):
        events.append(("Step:ModeKeys.TRAIN", now, sum(phases.values()), step, "TRAIN"))
        for name, seconds in phases.items():
            events.append((name, now, seconds, step, "TRAIN"))
            now += seconds
        events.append(("data_wait", now, 5.0, step, "EVAL"))  # not the training's
    write_timeline(tmp_path, events)
    found = verdict(tmp_path, "Dataloader")
    assert found.value == pytest.approx(100 * wait / sum(phases.values()))
    assert found.status == ("IssuesFound" if issue else "NoIssuesFound")


@pytest.mark.parametrize(("workers", "issue"), [(1, True), (2, True), (3, False), (8, False), (9, True)])
def test_dataloader_by_workers_is_awss(
    tmp_path: Path, random: np.random.Generator, workers: int, issue: bool
) -> None:
    record(tmp_path, processors(random, 5, cores=4))
    found = verdict(tmp_path, "Dataloader", num_workers=str(workers))
    assert found.value == 100 * workers / 4
    assert found.status == ("IssuesFound" if issue else "NoIssuesFound")


def growth(samples: int, kind: str) -> Array:
    x = np.arange(samples) / samples
    return {
        "slow leak": 30 + 8 * x,
        "steps": 30 + np.floor(16 * x) / 2,
        "full": 30 + 20 * (1 - np.exp(-12 * x)),
        "jump": np.where(x < 0.6, 30.0, 60.0),
        "flat": np.full(samples, 30.0),
    }[kind]


@pytest.mark.parametrize("kind", ["slow leak", "steps", "full", "jump", "flat"])
@pytest.mark.parametrize("samples", [60, LONG])
def test_memory_leak_is_growth_that_goes_on(
    tmp_path: Path, random: np.random.Generator, kind: str, samples: int
) -> None:
    """A leak of 8 points that GPUMemoryIncrease cannot see, against memory that fills, jumps or stays."""
    values = growth(samples, kind) + random.normal(0, 0.1, samples)
    record(tmp_path, {("gpu", "gpu0", "GPUMemoryUtilization"): values})
    found = verdict(tmp_path, "MemoryLeak")
    leaks = kind in {"slow leak", "steps"}
    assert found.status == ("IssuesFound" if leaks else "NoIssuesFound"), found.detail
    if leaks:
        later = values[samples // 4 :]
        rise = np.polyfit(np.arange(len(later)), later, 1)[0] * len(later)
        assert found.value == pytest.approx(100 * rise / np.median(later[: len(later) // 4]), rel=0.25)
        assert verdict(tmp_path, "GPUMemoryIncrease").status == "NoIssuesFound"


def test_memory_leak_looks_at_the_process_before_the_machine(tmp_path: Path) -> None:
    columns = {
        ("memory", "MemoryUsedPercent", ""): growth(100, "slow leak"),
        ("memory", "ProcessMemoryInBytes", ""): 1e9 * growth(100, "flat"),
    }
    record(tmp_path / "both", columns)
    assert verdict(tmp_path / "both", "MemoryLeak").status == "NoIssuesFound"
    record(
        tmp_path / "platform", {key: value for key, value in columns.items() if key[1] == "MemoryUsedPercent"}
    )
    assert verdict(tmp_path / "platform", "MemoryLeak").status == "IssuesFound"


def test_overall_system_usage_sums_up(tmp_path: Path, machine: dict[Key, Array]) -> None:
    machine["network", "ReceiveBytesPerSecond", "Algorithm"] = np.full(LONG, 100.0)
    machine["network", "TransmitBytesPerSecond", "Algorithm"] = np.full(LONG, 20.0)
    machine["network", "ReceiveBytesPerSecond", "Platform"] = np.full(LONG, 1e9)
    record(tmp_path, machine, node="algo-1")
    record(tmp_path, machine, node="algo-2")
    finding = OverallSystemUsage().check(Profile(tmp_path))
    assert not finding.issue
    details = finding.details
    assert set(details) == {"CPU", "GPU", "CPU memory", "GPU memory", "I/O", "Network"}
    assert set(details["CPU"]) == {"algo-1", "algo-2"}
    values = cores(machine, "CPUUtilization").mean(axis=0)
    expected = {"max": values.max(), "min": values.min()} | {
        f"p{p}": np.quantile(values, p / 100) for p in (99, 95, 50)
    }
    assert details["CPU"]["algo-2"] == pytest.approx(expected)
    assert details["Network"]["algo-1"]["p50"] == 120


def test_thresholds_scale_with_a_short_run_and_say_so(tmp_path: Path, random: np.random.Generator) -> None:
    record(tmp_path, {("gpu", "gpu0", "GPUUtilization"): random.normal(30, 2, 100)})
    found = verdict(tmp_path, "LowGPUUtilization")
    assert found.status == "IssuesFound"
    assert "patience 25 instead of 1000, window 75 instead of 500" in found.detail
    own = verdict(tmp_path, "LowGPUUtilization", patience="10", window="50")
    assert own.status == "IssuesFound"
    assert "instead of" not in own.detail
    waiting = verdict(tmp_path, "LowGPUUtilization", patience="200")
    assert waiting.status == "NotEvaluated"
    assert "too short: 100 samples in 49.5 s" in waiting.detail


def test_a_run_that_is_too_short_is_not_evaluated(tmp_path: Path, random: np.random.Generator) -> None:
    columns = processors(random, 30) | healthy_gpu(random, 30)
    record(tmp_path, columns)
    found = {one.name: one for one in evaluate(Outputs(profiler=tmp_path))}
    for name in (
        "LowGPUUtilization",
        "BatchSize",
        "CPUBottleneck",
        "IOBottleneck",
        "GPUMemoryIncrease",
        "LoadBalancing",
    ):
        assert found[name].status == "NotEvaluated", name
        assert "too short: 30 samples in 14.5 s" in found[name].detail
    assert found["MemoryLeak"].status == "NotEvaluated"
    assert "algo-1 MemoryUsedPercent: too short: 30 samples" in found["MemoryLeak"].detail
    write_timeline(tmp_path, [("data_wait", START, 0.1, 0, "TRAIN")])
    found["Dataloader"] = verdict(tmp_path, "Dataloader")
    assert (found["Dataloader"].status, "1 training steps" in found["Dataloader"].detail) == (
        "NotEvaluated",
        True,
    )


def test_a_job_that_still_runs_is_given_awss_patience(tmp_path: Path, random: np.random.Generator) -> None:
    """Its first samples, of memory that fills and GPUs that warm up, are not what it will be."""
    filling = {("gpu", "gpu0", "GPUUtilization"): np.full(100, 20.0)}
    filling["gpu", "gpu0", "GPUMemoryUtilization"] = np.linspace(10, 60, 100)
    record(tmp_path, processors(random, 100) | filling)
    for name in ("LowGPUUtilization", "MemoryLeak", "BatchSize"):
        (running,) = evaluate(Outputs(profiler=tmp_path, ended=False), {name: {}})
        assert running.status == "NotEvaluated"
        assert "100 samples so far" in running.detail
    assert verdict(tmp_path, "LowGPUUtilization").status == "IssuesFound"
    assert verdict(tmp_path, "MemoryLeak").status == "IssuesFound"


def test_only_the_training_loop_counts_where_a_timeline_says_when_it_was(
    tmp_path: Path, random: np.random.Generator
) -> None:
    values = np.concatenate([np.zeros(100), random.normal(95, 1, 100), np.zeros(100)])
    record(tmp_path, {("gpu", "gpu0", "GPUUtilization"): values})
    assert verdict(tmp_path, "LowGPUUtilization").status == "IssuesFound"
    write_timeline(tmp_path, steps(np.full(490, 0.1), start=START + 50.2))
    found = verdict(tmp_path, "LowGPUUtilization")
    assert (found.status, found.value) == (
        "NoIssuesFound",
        pytest.approx(np.quantile(values[125:199], 0.95), rel=0.01),
    )


def test_rules_without_their_metrics_say_what_to_turn_on(tmp_path: Path, random: np.random.Generator) -> None:
    record(tmp_path, processors(random, 100))
    found = {one.name: one for one in evaluate(Outputs(profiler=tmp_path))}
    for name in ("LowGPUUtilization", "BatchSize", "CPUBottleneck", "GPUMemoryIncrease", "LoadBalancing"):
        assert found[name].status == "NotEvaluated"
        assert found[name].detail.startswith("no GPU metrics: ")
    for name in ("StepOutlier", "MaxInitializationTime", "Dataloader"):
        assert found[name].status == "NotEvaluated"
        assert "set profiler-interval-ms" in found[name].detail
    assert found["IOBottleneck"].status == "NoIssuesFound"
    (empty,) = evaluate(Outputs(profiler=tmp_path / "nothing"), {"IOBottleneck": {}})
    assert (empty.status, "set profiler-interval-ms" in empty.detail) == ("NotEvaluated", True)


def test_a_finding_is_awss_json(tmp_path: Path, machine: dict[Key, Array]) -> None:
    record(tmp_path, machine)
    finding: ProfilerFinding = LoadBalancing(threshold=0.4).check(Profile(tmp_path))
    report = finding.report(LoadBalancing(threshold=0.4))
    assert list(report) == ["RuleTriggered", "Violations", "Details", "Datapoints", "RuleParameters"]
    assert report["RuleParameters"] == "threshold:0.4\npatience:1000"
    assert report["Datapoints"] == LONG
    assert list(report["Details"]) == ["algo-1"]
