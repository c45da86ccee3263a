"""A clock with one hand per phase of the training loop."""

import time
from collections.abc import Generator
from contextlib import contextmanager

import torch

from profiler.operators import OperatorProfile
from profiler.timeline import Mode, Phase, Timeline


class StepClock:
    """Seconds spent in each named phase; with a timeline, also when each step and each of its phases was.

    Reading the time twice costs well under a microsecond a phase. CUDA runs behind the program's back: there, each
    phase waits for the device before the clock is read, so that time is booked where it was spent. That costs tens
    of microseconds a phase, and only there.
    """

    def __init__(
        self,
        device: torch.device,
        timeline: Timeline | None = None,
        operators: OperatorProfile | None = None,
    ) -> None:
        self.seconds: dict[str, float] = {}
        """Phase to seconds, in the order of first use; what `steps.json` holds."""
        self._device = device
        self._timeline, self._operators = timeline, operators
        self._mode: Mode = "TRAIN"
        self._start = 0.0
        self._phases: list[Phase] = []

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Outside of steps, or a part of a training step."""
        start = time.perf_counter()
        try:
            yield
        finally:
            took = self._book(name, start)
            self.seconds[name] = self.seconds.get(name, 0.0) + took

    @contextmanager
    def part(self, name: str) -> Generator[None]:
        """A part of an evaluation step: only the timeline has it, `seconds` has the evaluation as a whole."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._book(name, start)

    def begin_step(self, mode: Mode) -> None:
        """Forgets a step that was begun and not ended: there was no more data for it."""
        if self._operators:
            self._operators.before_step(mode)
        self._phases.clear()
        self._mode, self._start = mode, time.perf_counter()

    def end_step(self) -> None:
        if self._timeline:
            self._timeline.add(self._mode, self._start, time.perf_counter() - self._start, self._phases)
        if self._operators:
            self._operators.after_step(self._mode)

    def end_epoch(self) -> None:
        """Between steps, where writing to a disk is in nobody's way."""
        if self._timeline:
            self._timeline.offer()

    def _book(self, name: str, start: float) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        took = time.perf_counter() - start
        if self._timeline:
            self._phases.append((name, start, took))
        return took
