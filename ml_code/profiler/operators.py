"""torch.profiler over the first training steps: which operators take the time.

    PROFILER/framework/torch/operators.json     the 50 operators with the most time of their own
    PROFILER/framework/torch/trace.json.gz      Chrome's trace format: open it in https://ui.perfetto.dev

operators.json: {"steps": N, "device": "cpu"|"cuda", "operators": [{"name", "calls", "self_cpu_ms", "cpu_total_ms",
"self_cuda_ms" (null without CUDA), "cpu_memory_bytes", "share"}]}: sums over the N steps, sorted by the device's own
time, of which `share` is the operator's part. Memory is what an operator allocated less what it freed.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

OPERATORS = 50


class OperatorProfile:
    """Profiles the first `steps` training steps, or those of the first epoch where it has fewer.

    A profiled step takes a few percent longer, and reading the profile afterwards some tenths of a second a step of
    a whole network: none of it on a step's clock. The first error ends it and is kept in `error`; the training goes
    on.
    """

    def __init__(self, profiler_dir: Path, steps: int, device: torch.device) -> None:
        self._folder = profiler_dir / "framework" / "torch"
        self._wanted, self._done = steps, 0
        self._device = device
        self._profile: profile | None = None
        self._step: record_function | None = None
        self._ended = False
        self.error: str | None = None

    def before_step(self, mode: str) -> None:
        """To be called before each step, of evaluations too: the first one ends the profile."""
        if self._ended:
            return
        if mode != "TRAIN":
            self.finish()
            return
        try:
            if self._profile is None:
                activities = [ProfilerActivity.CPU]
                if self._device.type == "cuda":
                    activities.append(ProfilerActivity.CUDA)
                self._profile = profile(activities=activities, profile_memory=True, acc_events=True)
                self._profile.start()
            # The name by which tools that read the trace know steps.
            self._step = record_function(f"ProfilerStep#{self._done}")
            self._step.__enter__()  # type: ignore[no-untyped-call]
        except Exception as error:  # kineto's and CUPTI's own, whatever they are
            self._fail(error)

    def after_step(self, mode: str) -> None:
        """To be called after each step that there was data for."""
        if self._ended or mode != "TRAIN":
            return
        self._end_step()
        self._done += 1
        if self._done == self._wanted:
            self.finish()

    def finish(self) -> None:
        """Ends the profile, if it has not ended, and writes what there is."""
        if self._ended:
            return
        self._end_step()
        self._ended, running = True, self._profile
        if running is None:
            return
        try:
            running.stop()
            if self._done:
                self._write(running)
        except Exception as error:  # the same, and a full disk
            self._fail(error)
        self._profile = None  # it holds every event

    def _end_step(self) -> None:
        step, self._step = self._step, None
        if step:
            step.__exit__(None, None, None)

    def _fail(self, error: Exception) -> None:
        self._ended, self._profile = True, None
        self.error = " ".join(f"torch.profiler ended: {type(error).__name__}: {error}".split())
        print(self.error, flush=True)

    def _write(self, finished: profile) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        document = {
            "steps": self._done,
            "device": self._device.type,
            "operators": operators(finished, self._device.type == "cuda"),
        }
        (self._folder / "operators.json").write_text(json.dumps(document, indent=1))
        finished.export_chrome_trace(str(self._folder / "trace.json.gz"))


def operators(finished: profile, cuda: bool) -> list[dict[str, Any]]:
    """Rows of operators.json.

    Only what the processor called: kernels have rows of their own in torch's table, and their time is their
    operator's too.
    """
    rows = [
        row for row in finished.key_averages() if row.device_type.name == "CPU" and not row.is_user_annotation
    ]

    def own(row: Any) -> float:
        return float(row.self_device_time_total if cuda else row.self_cpu_time_total)

    total = sum(map(own, rows)) or 1.0
    return [
        {
            "name": row.key,
            "calls": row.count,
            "self_cpu_ms": row.self_cpu_time_total / 1000,
            "cpu_total_ms": row.cpu_time_total / 1000,
            "self_cuda_ms": row.self_device_time_total / 1000 if cuda else None,
            "cpu_memory_bytes": row.self_cpu_memory_usage,
            "share": own(row) / total,
        }
        for row in sorted(rows, key=own, reverse=True)[:OPERATORS]
    ]
