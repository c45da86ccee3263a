"""How far something is that takes minutes: a line every 2 s."""

import logging
import time

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 2


class Progress:
    """:param total: files in all, when that is known; `size` in bytes."""

    def __init__(self, verb: str, total: int = 0, size: int = 0) -> None:
        self._verb = verb
        self._total, self._total_size = total, size
        self._count = self._size = 0
        self._began = self._shown = time.monotonic()

    def add(self, count: int, size: int = 0) -> None:
        self._count += count
        self._size += size
        now = time.monotonic()
        if now - self._shown >= SECONDS_BETWEEN_LINES:
            self._shown = now
            log.info("%s", self._line(now - self._began))

    def _line(self, seconds: float) -> str:
        rate = self._count / seconds
        if not self._total:
            return f"{self._verb} {self._count:,} files ({rate:,.0f}/s)"
        left = (self._total - self._count) / rate if rate else 0
        return (
            f"{self._verb} {self._count:,} of {self._total:,} files, {mib(self._size)} of {mib(self._total_size)} "
            f"({rate:,.0f}/s, {mib(int(self._size / seconds))}/s, {left:,.0f} s left)"
        )


def mib(size: float) -> str:
    return f"{size / (1 << 20):,.1f} MiB"
