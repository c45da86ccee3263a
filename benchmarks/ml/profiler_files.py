"""Profiler files in SageMaker's format from given numbers, for replayed runs and machines without a GPU."""

import json
import time
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Key = tuple[str, str, str]
"""(Type, Name, Dimension)."""
START = 1_795_254_000.0
"""Seconds since the epoch, a full hour."""


def write_samples(folder: Path, times: Array, columns: Mapping[Key, Array], node: str = "algo-1") -> None:
    """Append samples at `times` [T], seconds since the epoch; `columns` are [T], and where NaN there is no line."""
    for minute, group in groupby(range(len(times)), key=lambda i: int(times[i]) // 60 * 60):
        lines = [
            json.dumps(
                {
                    "Type": kind,
                    "Name": name,
                    "Dimension": dimension,
                    "Value": float(column[i]),
                    "NodeId": node,
                    "Timestamp": float(times[i]),
                }
            )
            for i in group
            for (kind, name, dimension), column in columns.items()
            if not np.isnan(column[i])
        ]
        hour = folder / "system" / "incremental" / time.strftime("%Y%m%d%H", time.gmtime(minute))
        hour.mkdir(parents=True, exist_ok=True)
        with (hour / f"{minute}.{node}.json").open("a") as file:
            file.write("".join(f"{line}\n" for line in lines))


def sample_times(folder: Path) -> Array:
    """When a folder's samples were taken, seconds since the epoch, [T]."""
    files = sorted((folder / "system" / "incremental").glob("*/*.json"))
    lines = (line for file in files for line in file.read_text().splitlines())
    return np.array(sorted({float(json.loads(line)["Timestamp"]) for line in lines}))


Event = tuple[str, float, float, int, str]
"""Name, start in seconds since the epoch, seconds, step and mode."""


def write_timeline(folder: Path, events: Sequence[Event], node: str = "algo-1", pid: int = 7) -> Path:
    """One file of smdebug's Python timeline."""
    base = round(1e6 * min(start for _, start, *_ in events))
    end = round(1e6 * max(start + seconds for _, start, seconds, *_ in events))
    names = {name: i for i, name in enumerate(dict.fromkeys(name for name, *_ in events))}
    start_of_file = {"start_time_since_epoch_in_micros": base}
    rows = [{"name": "process_name", "ph": "M", "pid": 0, "args": start_of_file}]
    rows += [
        {"name": "process_name", "ph": "M", "pid": i, "args": {"name": name}} for name, i in names.items()
    ]
    rows += [
        {
            "name": name,
            "pid": names[name],
            "ph": "X",
            "ts": round(1e6 * start) - base,
            "dur": round(1e6 * seconds),
            "args": {"pid": pid, "step_num": str(step), "mode": mode},
        }
        for name, start, seconds, step, mode in events
    ]
    hour = folder / "framework" / "pevents" / time.strftime("%Y%m%d%H", time.gmtime(end / 1e6))
    hour.mkdir(parents=True, exist_ok=True)
    file = hour / f"{end}_{pid}-{node}_pythontimeline.json"
    file.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]")
    return file


def steps(seconds: Array, start: float = START, mode: str = "TRAIN") -> list[Event]:
    """Step events one after the other."""
    starts = start + np.concatenate([[0.0], np.cumsum(seconds)[:-1]])
    return [
        (f"Step:ModeKeys.{mode}", float(begin), float(took), number, mode)
        for number, (begin, took) in enumerate(zip(starts, seconds, strict=True))
    ]


def healthy_gpu(random: np.random.Generator, samples: int, gpus: int = 2) -> dict[Key, Array]:
    """A GPU's use and memory in a training that keeps it busy.

    Use wanders around 93 %; every 40 samples or so an evaluation takes it down for one, every 150 a checkpoint lets it
    wait for one. Memory fills in the first samples and stays, with the allocator's small movements.
    """
    columns: dict[Key, Array] = {}
    evaluations, checkpoints = random.random(samples) < 1 / 40, random.random(samples) < 1 / 150
    level = random.uniform(75, 92)
    for gpu in range(gpus):
        wander = np.convolve(random.normal(0, 3, samples + 4), np.ones(5) / 5**0.5, "valid")
        use = np.clip(93 + wander, 60, 100)
        use[evaluations] = random.uniform(30, 70, int(evaluations.sum()))
        use[checkpoints] = random.uniform(0, 8, int(checkpoints.sum()))
        filling = 1 - np.exp(-np.arange(samples) / 4)
        columns["gpu", f"gpu{gpu}", "GPUUtilization"] = np.round(use)
        columns["gpu", f"gpu{gpu}", "GPUMemoryUtilization"] = np.clip(
            level * filling + random.normal(0, 0.3, samples), 0, 100
        )
    return columns


def processors(
    random: np.random.Generator, samples: int, cores: int = 4, busy: float = 45.0
) -> dict[Key, Array]:
    """Cores that feed a GPU: use around `busy` percent, next to no I/O wait, memory that stays."""
    columns: dict[Key, Array] = {}
    for core in range(cores):
        columns["cpu", f"cpu{core}", "CPUUtilization"] = np.clip(random.normal(busy, 8, samples), 0, 100)
        columns["cpu", f"cpu{core}", "I/OWaitPercentage"] = np.clip(random.exponential(1, samples), 0, 100)
    columns["memory", "MemoryUsedPercent", ""] = 40 + random.normal(0, 0.2, samples)
    return columns
