"""All that watches a training job: the machine, the timeline of its steps and their operators."""

from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from profiler.operators import OperatorProfile
from profiler.step_clock import StepClock
from profiler.system import ProcessMemory, SystemSampler
from profiler.timeline import Timeline


class JobProfiler:
    """For the length of a `with` block; without a folder only the step clock runs.

    :param folder: SageMaker's profiler folder, or None.
    :param interval: seconds between samples of the machine; 0 where somebody else samples it.
    :param steps: training steps for torch.profiler; 0 is none.
    """

    def __init__(self, folder: Path | None, interval: float, steps: int, device: torch.device) -> None:
        self.timeline = Timeline(folder) if folder else None
        self._operators = OperatorProfile(folder, steps, device) if folder and steps else None
        self._sampler = (
            SystemSampler(folder, interval, memory=ProcessMemory()) if folder and interval else None
        )
        self.clock = StepClock(device, self.timeline, self._operators)

    @property
    def errors(self) -> list[str]:
        """What went wrong so far, one sentence each; none of it is worth a training."""
        parts = (self._sampler, self.timeline, self._operators)
        return [f"profiler: {part.error}" for part in parts if part and part.error]

    def go_on_after(self, training_steps: int, evaluation_steps: int) -> None:
        """As the debugger hook's."""
        if self.timeline:
            self.timeline.go_on_after(training_steps, evaluation_steps)

    def finish_steps(self) -> None:
        """There are no more steps: writes what there is of them."""
        if self._operators:
            self._operators.finish()
        if self.timeline:
            self.timeline.write()

    def __enter__(self) -> Self:
        if self._sampler:
            self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish_steps()
        if self._sampler:
            self._sampler.stop()
