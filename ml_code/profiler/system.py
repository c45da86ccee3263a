"""System metrics in the files that SageMaker writes, sampled by a thread of the script, or by a process of its own.

    PROFILER/system/incremental/2026112109/1795254000.algo-1.json

    python -m profiler.system --output PROFILER --interval-ms 500    # until SIGTERM; as the platform would

One JSON object a line, one file a minute, named by the minute's start (UTC), in a folder per hour. smdebug's
readers, and the report, open them like the platform's own. Beside the platform's rows there are GPUs' power and
temperature (profiler/gpu.py) and the memory of the job's processes.
"""

import argparse
import json
import signal
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from profiler.gpu import Row, gpu_sampler

INTERVAL_MS = (100, 60_000)
"""The shortest and the longest that SageMaker takes."""
_CHILDREN_SECONDS = 10.0


class SystemSampler:
    """Samples every `interval` seconds between `start()` and `stop()`, or for the length of a `with` block.

    A sample takes about a millisecond; the thread sleeps in between. A failing sample ends sampling and is kept
    in `error`, since metrics are not worth a training. `memory` yields the rows of the job's processes.
    """

    def __init__(
        self,
        profiler_dir: Path,
        interval: float,
        node: str = "algo-1",
        memory: Callable[[], Iterable[Row]] = tuple,
    ) -> None:
        if interval <= 0:
            raise ValueError(f"the interval must be above 0 seconds: got {interval}")
        self._root = profiler_dir / "system" / "incremental"
        self._interval = interval
        self._node = node
        self._memory = memory
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system-metrics", daemon=True)
        self.error: str | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Takes one last sample, so that even a job shorter than the interval has one, and ends the thread."""
        self._stopped.set()
        self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            sources = (_cpu, _memory, self._memory, _Rates(), gpu_sampler())
            due = time.monotonic()
            while not self._stopped.wait(max(0.0, due - time.monotonic())):
                self._write([row for source in sources for row in source()])
                due = max(due + self._interval, time.monotonic())
            self._write([row for source in sources for row in source()])
        except Exception as error:  # anything at all: a full disk, a driver that went away
            self.error = f"system metrics ended: {type(error).__name__}: {error}"
            print(self.error, flush=True)

    def _write(self, rows: Iterable[Row]) -> None:
        now = time.time()
        folder = self._root / time.strftime("%Y%m%d%H", time.gmtime(now))
        folder.mkdir(parents=True, exist_ok=True)
        lines = (
            json.dumps(
                {
                    "Type": kind,
                    "Name": name,
                    "Dimension": dimension,
                    "Value": value,
                    "NodeId": self._node,
                    "Timestamp": now,
                }
            )
            for kind, name, dimension, value in rows
        )
        with (folder / f"{int(now) // 60 * 60}.{self._node}.json").open("a") as file:
            file.write("\n".join(lines) + "\n")


def _cpu() -> Iterable[Row]:
    # Since the call before; psutil keeps that per process, and no other part of a job asks.
    for index, times in enumerate(psutil.cpu_times_percent(percpu=True)):
        yield "cpu", f"cpu{index}", "CPUUtilization", round(100 - times.idle - getattr(times, "iowait", 0), 2)
        yield "cpu", f"cpu{index}", "I/OWaitPercentage", getattr(times, "iowait", 0.0)


def _memory() -> Iterable[Row]:
    yield "memory", "MemoryUsedPercent", "", psutil.virtual_memory().percent


class _Rates:
    """Disk and network counters as rates since the sample before; the first sample has none."""

    def __init__(self) -> None:
        self._before: tuple[float, Any, Any] | None = None

    def __call__(self) -> Iterable[Row]:
        now, disk, net = time.monotonic(), psutil.disk_io_counters(), psutil.net_io_counters()
        before, self._before = self._before, (now, disk, net)
        if before is None:
            return
        seconds = max(now - before[0], 1e-6)
        if disk and before[1]:  # None on machines without disks, containers among them
            operations = disk.read_count + disk.write_count - before[1].read_count - before[1].write_count
            yield "i/o", "IOPS", "", operations / seconds
            read, written = (
                disk.read_bytes - before[1].read_bytes,
                disk.write_bytes - before[1].write_bytes,
            )
            yield "i/o", "ReadThroughputInBytesPerSecond", "", read / seconds
            yield "i/o", "WriteThroughputInBytesPerSecond", "", written / seconds
        if net and before[2]:
            received = (net.bytes_recv - before[2].bytes_recv) / seconds
            sent = (net.bytes_sent - before[2].bytes_sent) / seconds
            # SageMaker tells the job's traffic from the platform's; from here only their sum is known. Both
            # dimensions have it, so that what reads either finds the rows that it knows.
            for side in ("Algorithm", "Platform"):
                yield "network", "ReceiveBytesPerSecond", side, received
                yield "network", "TransmitBytesPerSecond", side, sent


class ProcessMemory:
    """Resident bytes of a process and its descendants; pages that they share count once for each.

    Finding descendants goes through every process of the machine: new ones are looked for every ten seconds.
    """

    def __init__(self, pid: int | None = None) -> None:
        self._root = psutil.Process(pid)
        self._processes: list[psutil.Process] = []
        self._looked = -_CHILDREN_SECONDS

    def __call__(self) -> Iterable[Row]:
        now = time.monotonic()
        if now - self._looked >= _CHILDREN_SECONDS and self._root.is_running():
            self._processes, self._looked = [self._root, *self._root.children(recursive=True)], now
        used = [resident for process in self._processes if (resident := _resident(process))]
        if used:
            yield "memory", "ProcessMemoryInBytes", "", float(sum(used))


def _resident(process: psutil.Process) -> int:
    """0 for one that has ended."""
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(description="Sample this machine until SIGTERM.")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--interval-ms", type=int, default=500)
    parser.add_argument("--pid", type=int, help="of a job whose memory is sampled too, with its children's")
    arguments = parser.parse_args()
    shortest, longest = INTERVAL_MS
    if not shortest <= arguments.interval_ms <= longest:
        parser.error(f"--interval-ms must be from {shortest} to {longest}, got {arguments.interval_ms}")
    memory = ProcessMemory(arguments.pid) if arguments.pid else tuple
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    with SystemSampler(arguments.output, arguments.interval_ms / 1000, memory=memory):
        ended.wait()


if __name__ == "__main__":
    main()
