"""The service's side of the search process: one for all tuning jobs, started when the first one asks."""

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from local_sagemaker.cloud import Cloud
from local_sagemaker.processes.mark import MARK
from local_sagemaker.tuning.ranges import Range

log = logging.getLogger(__name__)

IDLE_S = 60.0


class SearchEndedError(Exception):
    """The search process has ended, and all that it knew is gone."""

    def __init__(self) -> None:
        super().__init__("the search process ended, see log/search.log in the state directory")


class _Process:
    """A search process. Its methods may be called from any thread."""

    def __init__(self, cloud: Cloud) -> None:
        self._lock = threading.Lock()
        with (cloud.state / "log" / "search.log").open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "local_sagemaker.tuning.search"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                # One thread: the matrices are tiny, and a pool of threads is started when numpy is imported.
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", MARK: cloud.settings.mark},
                cwd=Path(__file__).parents[2],
                start_new_session=True,
            )
        log.info("search process %d started", self._process.pid)

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def call(self, search: str, method: str, *arguments: Any) -> Any:
        """One request. Raises SearchEndedError, and RuntimeError when the search itself fails."""
        assert self._process.stdin
        assert self._process.stdout
        with self._lock:
            try:
                self._process.stdin.write(json.dumps([search, method, arguments]).encode() + b"\n")
                self._process.stdin.flush()
                line = self._process.stdout.readline()
            except (OSError, ValueError) as error:
                raise SearchEndedError from error
        if not line:
            raise SearchEndedError
        reply = json.loads(line)
        if "error" in reply:
            raise RuntimeError(f"the search failed: {reply['error']}")
        return reply["answer"]

    def close(self) -> None:
        with self._lock:
            for stream in (self._process.stdin, self._process.stdout):
                assert stream
                # What a process that has ended was still to be told.
                with suppress(OSError):
                    stream.close()
            self._process.wait()
        log.info("search process %d ended", self._process.pid)


class Session:
    """One tuning job's searches, one for each of its training job definitions."""

    def __init__(self, process: _Process, tuning_job: str) -> None:
        self._process = process
        self._job = tuning_job
        self._count = 0

    def open(
        self,
        strategy: str,
        seed: int,
        ranges: list[Range],
        *,
        maximize: bool,
        parallel: int,
        resources: tuple[int, int] | None,
    ) -> None:
        """Add a search; the first has the number 0."""
        described = [asdict(item) for item in ranges]
        self._call(self._count, "open", strategy, seed, described, maximize, parallel, resources)
        self._count += 1

    def learn(self, search: int, trials: list[tuple[dict[str, str], float]]) -> None:
        self._call(search, "learn", trials)

    def ask(self, search: int) -> tuple[int, dict[str, str]]:
        number, values = self._call(search, "ask")
        return number, values

    def restore(self, search: int, number: int, values: dict[str, str]) -> None:
        self._call(search, "restore", number, values)

    def report(self, search: int, number: int, step: int, value: float) -> bool:
        return bool(self._call(search, "report", number, step, value))

    def tell(self, search: int, number: int, objective: float | None, *, pruned: bool) -> None:
        self._call(search, "tell", number, objective, pruned)

    def close(self) -> None:
        """Forget the searches."""
        for search in range(self._count):
            self._call(search, "close")

    def _call(self, search: int, method: str, *arguments: Any) -> Any:
        return self._process.call(f"{self._job}/{search}", method, *arguments)


class Searches:
    """Starts the search process when it is needed, and ends it when it has not been for a minute."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._users = 0
        self._timer: threading.Timer | None = None

    @contextmanager
    def session(self, tuning_job: str) -> Generator[Session, None, None]:
        """Searches for a tuning job. Whoever uses them must be ready for SearchEndedError."""
        with self._lock:
            if self._timer:
                self._timer.cancel()
            if not self._process or not self._process.is_alive:
                if self._process:
                    self._process.close()
                self._process = _Process(self._cloud)
            session = Session(self._process, tuning_job)
            self._users += 1
        try:
            yield session
        finally:
            with suppress(SearchEndedError):
                session.close()
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._timer = threading.Timer(IDLE_S, self._end_if_idle)
                    self._timer.daemon = True
                    self._timer.start()

    def _end_if_idle(self) -> None:
        with self._lock:
            if self._process and not self._users:
                self._process.close()
                self._process = None
