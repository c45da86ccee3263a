"""A clock with one hand per phase of the training loop."""

import time
from collections.abc import Generator
from contextlib import contextmanager

import torch


class StepClock:
    """Seconds spent in each named phase; reading the time twice costs well under a microsecond a phase.

    CUDA runs behind the program's back: there, each phase waits for the device before the clock is read, so that
    time is booked where it was spent. That costs tens of microseconds a phase, and only there.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        """Phase to seconds, in the order of first use; what `steps.json` holds."""
        self._device = device

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
