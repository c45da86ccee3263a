"""When each step and each of its phases was, as smdebug's Python timeline.

    PROFILER/framework/pevents/2026112109/1795254012345678_4711-algo-1_pythontimeline.json

Chrome's trace format, which Perfetto and smdebug's readers open. The name has the end of the file's last event in
microseconds and the process. An `X` event per step, `Step:ModeKeys.TRAIN` or `Step:ModeKeys.EVAL`, one per phase,
and in the first file `Initialization`, from the process's start to the first step's. `ts` and `dur` are
microseconds, `ts` since the first event's `start_time_since_epoch_in_micros`; `args` have `step_num` (a string, the
step's number in its mode) and `mode`.
"""

import json
import os
import time
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import psutil

Mode = Literal["TRAIN", "EVAL"]
Phase = tuple[str, float, float]
"""Name, start by `time.perf_counter()`, seconds."""

BUFFERED_STEPS = 1_000
KEPT_STEPS = 20_000
"""Of each mode. Of those that follow, every 100th is kept: a file has 0.6 kB a step."""
KEPT_AFTERWARDS = 100
FILE_SECONDS = 60.0
"""As smdebug closes its files: whoever watches a training sees its last minute."""
_NAMES = {"data": "data_wait"}


class Timeline:
    """Keeps steps in memory, 40 bytes an event, and writes them between steps, in files of 1,000 or of a minute.

    A failing write ends it and is kept in `error`, since a timeline is not worth a training.
    """

    def __init__(self, profiler_dir: Path, node: str = "algo-1") -> None:
        self._root = profiler_dir / "framework" / "pevents"
        self._node = node
        # Steps are timed by a clock that nobody sets; this is what it lacks to the time since the epoch.
        self._epoch = time.time() - time.perf_counter()
        self._tracks: dict[str, int] = {}
        self._events = array("d")
        """Five numbers an event: track, mode, step, start in us since the epoch, duration in us."""
        self._steps: dict[Mode, int] = {"TRAIN": 0, "EVAL": 0}
        self._buffered = 0
        self._written = time.perf_counter()
        self.error: str | None = None

    def go_on_after(self, training_steps: int, evaluation_steps: int) -> None:
        """Number the next steps as if so many had been: those of a training before its interruption."""
        self._steps = {"TRAIN": training_steps, "EVAL": evaluation_steps}

    def add(self, mode: Mode, start: float, seconds: float, phases: Sequence[Phase]) -> None:
        """A step that has ended; `start` and those of the phases by `time.perf_counter()`."""
        step = self._steps[mode]
        self._steps[mode] = step + 1
        if self.error or (step >= KEPT_STEPS and step % KEPT_AFTERWARDS):
            return
        if not self._tracks:
            began = psutil.Process().create_time() - self._epoch
            self._append("Initialization", mode, step, began, start - began)
        self._append(f"Step:ModeKeys.{mode}", mode, step, start, seconds)
        for name, began, took in phases:
            self._append(_NAMES.get(name, name), mode, step, began, took)
        self._buffered += 1
        if self._buffered >= BUFFERED_STEPS:
            self.write()

    def offer(self) -> None:
        """A good moment to write: does so when the last one was a minute ago."""
        if time.perf_counter() - self._written >= FILE_SECONDS:
            self.write()

    def write(self) -> None:
        """A file with what there is since the last; none when there is nothing."""
        events, self._events = self._events, array("d")
        self._buffered, self._written = 0, time.perf_counter()
        if not events or self.error:
            return
        try:
            self._write_file(events)
        except OSError as error:
            self.error = f"the timeline of steps ended: {error}"
            print(self.error, flush=True)

    def _append(self, name: str, mode: Mode, step: int, start: float, seconds: float) -> None:
        track = self._tracks.setdefault(name, len(self._tracks))
        self._events.extend((track, mode == "EVAL", step, (self._epoch + start) * 1e6, seconds * 1e6))

    def _write_file(self, events: "array[float]") -> None:
        rows = [events[at : at + 5] for at in range(0, len(events), 5)]
        base = int(min(row[3] for row in rows))
        end = int(max(row[3] + row[4] for row in rows))
        folder = self._root / time.strftime("%Y%m%d%H", time.gmtime(end / 1e6))
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{end}_{os.getpid()}-{self._node}_pythontimeline.json"
        # Under its own name only when it is whole: readers take what they find.
        unfinished = file.with_suffix(".tmp")
        unfinished.write_text("[\n" + ",\n".join(map(json.dumps, self._trace(rows, base))) + "\n]")
        unfinished.replace(file)

    def _trace(self, rows: "list[array[float]]", base: int) -> Iterator[dict[str, Any]]:
        kept = f"steps 0 to {KEPT_STEPS - 1} of each mode, then every {KEPT_AFTERWARDS}th"
        start = {"start_time_since_epoch_in_micros": base, "kept": kept}
        yield {"name": "process_name", "ph": "M", "pid": 0, "args": start}
        yield {"name": "process_sort_index", "ph": "M", "pid": 0, "args": {"sort_index": 0}}
        names = list(self._tracks)
        for pid in sorted({int(row[0]) for row in rows}):
            yield {"name": "process_name", "ph": "M", "pid": pid, "args": {"name": names[pid]}}
            yield {"name": "process_sort_index", "ph": "M", "pid": pid, "args": {"sort_index": pid}}
        for track, evaluated, step, start_us, duration in rows:
            yield {
                "name": names[int(track)],
                "pid": int(track),
                "ph": "X",
                "ts": int(start_us) - base,
                "dur": int(duration),
                "args": {
                    "pid": os.getpid(),
                    "step_num": str(int(step)),
                    "mode": "EVAL" if evaluated else "TRAIN",
                },
            }
