"""Are the profiler rules right: planted faults found, healthy trainings left alone?

    PYTHONPATH=ml_code var/venv/ml/bin/python -m benchmarks.ml.profiler_truth [RUNS]

Starved loader, step outliers and memory leak are real trainings; what a GPU, a slow disk or half an hour is needed for
is replayed as files. A healthy run is a real training of 5 s and a replayed one of 10 minutes. Progress on stderr, one
JSON document on stdout. 100 healthy runs take about 3 minutes on 2 cores.
"""

import json
import multiprocessing
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.ml.profiler_files import (
    START,
    Array,
    Key,
    healthy_gpu,
    processors,
    sample_times,
    steps,
    write_samples,
    write_timeline,
)
from benchmarks.ml.profiler_runs import plant, train
from rules.profiler.profile import Profile
from rules.profiler.report import RULES, Checked, ProfilerReport

RUNS, AT_ONCE, SECONDS = 100, 6, 5.0
LONG = 1200
"""Samples at 500 ms: more than the 1,000 that AWS's defaults wait for."""
HEALTHY = (
    f"a small network trained for {SECONDS:g} s, {AT_ONCE} at a time, each step waiting 12 ms as for a GPU, sampled at "
    "100 ms, with GPU rows made up for the samples (use around 93 %, dips for evaluation and checkpoints); and "
    f"{LONG} replayed samples at 500 ms of 2 such GPUs, with 2,000 steps of log-normal duration"
)
REAL = {"starved loader": "Dataloader", "step outliers": "StepOutlier", "memory leak": "MemoryLeak"}


def _machine(gpus: int = 2) -> tuple[np.random.Generator, dict[Key, Array]]:
    random = np.random.default_rng(11)
    return random, processors(random, LONG, cores=2) | healthy_gpu(random, LONG, gpus)


def _write(folder: Path, columns: dict[Key, Array]) -> None:
    write_samples(folder, START + 0.5 * np.arange(LONG, dtype=np.float64), columns)


def io_stall(folder: Path) -> None:
    """Seven tenths of the time both cores wait for the disk, and the GPUs for them."""
    random, columns = _machine()
    stalled = random.random(LONG) < 0.7
    for (_, _, dimension), column in columns.items():
        if dimension in {"I/OWaitPercentage", "GPUUtilization"}:
            column[stalled] = 85 if dimension == "I/OWaitPercentage" else 3
    _write(folder, columns)


def io_stall_without_gpus(folder: Path) -> None:
    """The same on a machine that has none."""
    random = np.random.default_rng(11)
    columns = processors(random, LONG, cores=2)
    columns["cpu", "cpu0", "I/OWaitPercentage"][random.random(LONG) < 0.7] = 85
    _write(folder, columns)


def busy_processor(folder: Path) -> None:
    """Two thirds of the time a core is full and a GPU waits."""
    random, columns = _machine()
    stalled = random.random(LONG) < 0.67
    columns["cpu", "cpu1", "CPUUtilization"][stalled] = 99
    columns["gpu", "gpu0", "GPUUtilization"][stalled] = 2
    _write(folder, columns)


def low_gpu_use(folder: Path) -> None:
    """GPUs at half of what they could do."""
    _, columns = _machine()
    _write(
        folder, {key: column / 2 if key[2] == "GPUUtilization" else column for key, column in columns.items()}
    )


def stalling_gpu(folder: Path) -> None:
    """A busy GPU that every eighth sample finds idle."""
    _, columns = _machine()
    columns["gpu", "gpu0", "GPUUtilization"][::8] = 0
    _write(folder, columns)


def small_batch(folder: Path) -> None:
    """A GPU a third used and a tenth full, and processors with little to do."""
    random, columns = _machine(1)
    columns["gpu", "gpu0", "GPUUtilization"] = np.clip(random.normal(33, 4, LONG), 0, 100)
    columns["gpu", "gpu0", "GPUMemoryUtilization"] = 10 + random.normal(0, 0.2, LONG)
    _write(folder, columns)


def unbalanced_gpus(folder: Path) -> None:
    """The second GPU gets a quarter of the work."""
    _, columns = _machine()
    columns["gpu", "gpu1", "GPUUtilization"] /= 4
    _write(folder, columns)


def gpu_memory_increase(folder: Path) -> None:
    """GPU memory that doubles from one sample to the next."""
    random, columns = _machine()
    columns["gpu", "gpu0", "GPUMemoryUtilization"] = (
        40 + 40 * (np.arange(LONG) > 1100) + random.normal(0, 0.3, LONG)
    )
    _write(folder, columns)


def slow_gpu_leak(folder: Path) -> None:
    """GPU memory that grows from 50 to 60 % in 10 minutes, a hundredth of a percent a sample."""
    random, columns = _machine()
    columns["gpu", "gpu1", "GPUMemoryUtilization"] = np.linspace(50, 60, LONG) + random.normal(0, 0.3, LONG)
    _write(folder, columns)


def late_first_step(folder: Path) -> None:
    """Half an hour of downloading before the first step."""
    write_timeline(
        folder, [("Initialization", START, 1800.0, 0, "TRAIN"), *steps(np.full(50, 0.2), START + 1800)]
    )


REPLAYED: dict[str, tuple[str, Callable[[Path], None]]] = {
    "I/O stall": ("IOBottleneck", io_stall),
    "I/O stall without GPUs": ("IOBottleneck", io_stall_without_gpus),
    "busy processor": ("CPUBottleneck", busy_processor),
    "low GPU use": ("LowGPUUtilization", low_gpu_use),
    "stalling GPU": ("LowGPUUtilization", stalling_gpu),
    "small batch": ("BatchSize", small_batch),
    "unbalanced GPUs": ("LoadBalancing", unbalanced_gpus),
    "GPU memory increase": ("GPUMemoryIncrease", gpu_memory_increase),
    "slow GPU leak": ("MemoryLeak", slow_gpu_leak),
    "late first step": ("MaxInitializationTime", late_first_step),
}


def check(folder: Path) -> list[Checked]:
    """Every rule over one folder, with its defaults."""
    results: list[Checked] = ProfilerReport().results(Profile(folder))
    return results


def detail(one: Checked) -> str:
    return one.finding.detail if one.finding else one.reason


def healthy(seed: int) -> tuple[list[tuple[str, str]], list[str]]:
    """(rule, what it said) of each false alarm of a seed's two runs, and the rules not evaluated in either."""
    random = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as name:
        real, replayed = Path(name, "real"), Path(name, "replayed")
        train(real, seed, SECONDS)
        times = sample_times(real)
        write_samples(real, times, healthy_gpu(random, len(times)))
        _write(replayed, processors(random, LONG, cores=2) | healthy_gpu(random, LONG))
        taken = steps(0.25 * random.lognormal(0, 0.15, 2000), START + 20)
        parts = (("data_wait", 0.05), ("forward", 0.3), ("backward", 0.55), ("optimizer", 0.1))
        phases = [
            (part, start, share * seconds, step, mode)
            for _, start, seconds, step, mode in taken
            for part, share in parts
        ]
        write_timeline(replayed, [*taken, *phases])
        runs = [check(real), check(replayed)]
    alarms = {one.name: detail(one) for run in runs for one in run if one.status == "IssuesFound"}
    silent = [
        one.name for one, other in zip(*runs, strict=True) if one.status == other.status == "NotEvaluated"
    ]
    return list(alarms.items()), silent


def faults(folder: Path) -> dict[str, dict[str, object]]:
    """Each planted fault: its rule, whether that found it, and what it said."""
    folders = plant(folder)
    rules = dict(REAL)
    for name, (rule, write) in REPLAYED.items():
        rules[name], folders[name] = rule, folder / name.replace("/", " ")
        write(folders[name])
    found: dict[str, dict[str, object]] = {}
    for name, rule in rules.items():
        one = next(one for one in check(folders[name]) if one.name == rule)
        found[name] = {"rule": rule, "found": one.status == "IssuesFound", "detail": detail(one)}
        print(
            f"{name}: {'found' if found[name]['found'] else 'MISSED'}: {detail(one)}",
            file=sys.stderr,
            flush=True,
        )
    return found


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    with tempfile.TemporaryDirectory() as name:
        planted = faults(Path(name))
    alarms: Counter[str] = Counter()
    silent: Counter[str] = Counter()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.ml.profiler_runs", "rules.profiler.report"])
    # A process for each: memory is measured of all of it.
    with context.Pool(AT_ONCE, maxtasksperchild=1) as pool:
        for done, (wrong, unevaluated) in enumerate(pool.imap_unordered(healthy, range(runs)), 1):
            alarms.update(rule for rule, _ in wrong)
            silent.update(unevaluated)
            for rule, said in wrong:
                print(f"healthy run, yet {rule}: {said}", file=sys.stderr)
            print(f"{done} of {runs} healthy runs", file=sys.stderr, flush=True)
    names = [rule.__name__ for rule in RULES]
    document = {
        "faults": planted,
        "false_alarms": {rule: alarms[rule] for rule in names},
        "runs": runs,
        "not_evaluated": {rule: silent[rule] for rule in names},
        "healthy": HEALTHY,
    }
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
