"""What watching a training costs, for `make bench NAME=debugger-overhead`; prints JSON.

PYTHONPATH=.:ml_code var/venv/ml/bin/python -m benchmarks.ml.debugger_overhead
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from torchvision import models

from debugger import hook as debugger
from profiler.operators import OperatorProfile
from profiler.step_clock import StepClock
from profiler.system import ProcessMemory, SystemSampler
from profiler.timeline import Timeline

FULL, SMALL = (64, 224), (2, 32)
"""Images in a batch and pixels a side: of a step's time, and of the hook's, which saves no activations."""
FULL_ROUNDS, SMALL_ROUNDS, WARM_UP = 3, 64, 2
INTERVALS = {"train": 100, "eval": 10}
BETWEEN_SAVES = 4
SAMPLER_SECONDS, SAMPLER_ROUNDS = 10, 3
CLOCK_STEPS, PROFILED_STEPS = 10_000, 10
VARIANTS = {"train, all": ("TRAIN", False), "train, frozen": ("TRAIN", True), "eval": ("EVAL", True)}
CPU = torch.device("cpu")


def measure() -> dict[str, Any]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return {
            "hook": {variant: _hook(folder / variant, variant) for variant in VARIANTS},
            "sampler": _sampler(folder),
            "timeline": _timeline(folder),
            "torch_profiler": _torch_profiler(folder),
        }


def _hook(folder: Path, variant: str) -> dict[str, float]:
    mode, frozen = VARIANTS[variant]
    interval = INTERVALS[mode.lower()]
    # Full size: what a step takes, and whether the hook is seen at all.
    full = _in_turn(folder / "full", mode, frozen, FULL, FULL_ROUNDS, interval)
    small = _in_turn(folder / "small", mode, frozen, SMALL, SMALL_ROUNDS, BETWEEN_SAVES)
    step = median(full["plain"])
    # What a step saves, the next one writes out.
    saves, ends, others = (
        [seconds for number, seconds in enumerate(small["hooked"]) if number % BETWEEN_SAVES in chosen]
        for chosen in ((0,), (1,), range(2, BETWEEN_SAVES))
    )
    save = median(saves) + median(ends) - 2 * median(others)
    other = median(others) - median(small["plain"])
    figures = {
        "step_ms": 1e3 * step,
        "hooked_step_ms": 1e3 * median(full["hooked"]),
        "other_step_extra_ms": 1e3 * other,
        "save_extra_ms": 1e3 * save,
        "interval": interval,
        "overhead_percent": 100 * (other + save / interval) / step,
    }
    print(f"hook, {variant}: {figures}", file=sys.stderr, flush=True)
    return figures


def _in_turn(
    folder: Path, mode: str, frozen: bool, size: tuple[int, int], rounds: int, interval: int
) -> dict[str, list[float]]:
    """Processor seconds of steps of two networks that only the hook tells apart; a round is a step of each."""
    names = ("weights", "gradients", "biases", "losses")
    parameters = {f"{name}.save_interval": str(interval) for name in INTERVALS}
    config = {
        "HookParameters": parameters,
        "CollectionConfigurations": [{"CollectionName": name} for name in names],
    }
    plain, _ = _network(frozen)
    hooked, criterion = _network(frozen)
    hook = debugger.create(config, folder, hooked, criterion)
    hook.phase(mode)
    steps = {
        "plain": _step(plain, nn.CrossEntropyLoss(), mode, size),
        "hooked": _step(hooked, criterion, mode, size),
    }
    took: dict[str, list[float]] = {name: [] for name in steps}
    # The warm-up is a whole number of intervals where there are many rounds, so that round 0 saves.
    warm_up = WARM_UP if interval > rounds else interval
    for number in range(warm_up + rounds):
        for name, step in steps.items():
            start = time.process_time()
            step()
            if number >= warm_up:
                took[name].append(time.process_time() - start)
        if size == FULL:
            print(f"{mode}, {'frozen' if frozen else 'all'}: round {number}", file=sys.stderr, flush=True)
    hook.finish()
    if hook.errors:
        raise RuntimeError(hook.errors[0])
    return took


def _network(frozen: bool) -> tuple[nn.Module, nn.Module]:
    network = models.resnet18(num_classes=10)
    if frozen:
        network.requires_grad_(False)
        network.fc.requires_grad_(True)
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # as the hook has it
    return network, nn.CrossEntropyLoss()


def _step(network: nn.Module, criterion: nn.Module, mode: str, size: tuple[int, int]) -> Callable[[], None]:
    batch, pixels = size
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, pixels, pixels, generator=generator)
    labels = torch.randint(10, (batch,), generator=generator)
    network.train(mode == "TRAIN")
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1e-3, momentum=0.9)

    def train() -> None:
        optimizer.zero_grad()
        criterion(network(images), labels).backward()
        optimizer.step()

    def evaluate() -> None:
        with torch.no_grad():
            criterion(network(images), labels)

    return train if mode == "TRAIN" else evaluate


def _sampler(folder: Path) -> dict[str, float]:
    """% of one core at 500 ms, in a process that does nothing else."""
    shares: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(SAMPLER_ROUNDS):
        for on in shares:
            sampler = SystemSampler(folder / f"{turn}", 0.5, memory=ProcessMemory()) if on else None
            start = time.process_time()
            if sampler:
                sampler.start()
            time.sleep(SAMPLER_SECONDS)
            if sampler:
                sampler.stop()
            shares[on].append(100 * (time.process_time() - start) / SAMPLER_SECONDS)
        print(f"sampler, round {turn}: {shares}", file=sys.stderr, flush=True)
    return {
        "percent_of_a_core": median(shares[True]) - median(shares[False]),
        "idle_percent": median(shares[False]),
    }


def _timeline(folder: Path) -> dict[str, float]:
    """Microseconds of processor time a step of five phases, files included, against the step clock alone."""
    took = {}
    for name, timeline in (("clock_us", None), ("with_timeline_us", Timeline(folder / "timeline"))):
        clock = StepClock(CPU, timeline)
        start = time.process_time()
        for _ in range(CLOCK_STEPS):
            clock.begin_step("TRAIN")
            for phase in ("data", "transfer", "forward", "backward", "optimizer"):
                with clock.phase(phase):
                    pass
            clock.end_step()
        took[name] = 1e6 * (time.process_time() - start) / CLOCK_STEPS
    return took


def _torch_profiler(folder: Path) -> dict[str, float]:
    """Milliseconds a profiled step of a whole ResNet18 takes more, and what reading the profile takes, a step."""
    network, criterion = _network(frozen=False)
    step = _step(network, criterion, "TRAIN", SMALL)
    took: dict[str, list[float]] = {"plain": [], "profiled": [], "reading": []}
    for turn in range(4):
        start = time.process_time()
        for _ in range(PROFILED_STEPS):
            step()
        took["plain"].append(time.process_time() - start)
        profile = OperatorProfile(folder / f"torch-{turn}", PROFILED_STEPS + 1, CPU)
        start = time.process_time()
        for _ in range(PROFILED_STEPS):
            profile.before_step("TRAIN")
            step()
            profile.after_step("TRAIN")
        took["profiled"].append(time.process_time() - start)
        start = time.process_time()
        profile.finish()
        took["reading"].append(time.process_time() - start)
        if profile.error:
            raise RuntimeError(profile.error)
    each = {name: 1e3 * median(seconds[1:]) / PROFILED_STEPS for name, seconds in took.items()}
    return {"step_extra_ms": each["profiled"] - each["plain"], "reading_ms_a_step": each["reading"]}


if __name__ == "__main__":
    json.dump(measure(), sys.stdout)
