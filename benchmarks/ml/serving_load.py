"""A load generator that takes little of the processors it shares with the server: 0.1 ms a request.

    python -m benchmarks.ml.serving_load URL FILE CONTENT_TYPE closed CONCURRENCY REQUESTS
    python -m benchmarks.ml.serving_load URL FILE CONTENT_TYPE steady|random RATE REQUESTS

Closed: each of CONCURRENCY callers sends its next request when it has its answer. Steady: requests go out RATE a
second, whether earlier ones are answered or not; random: at moments of a Poisson process of that rate. One connection
a caller, kept. Ends when every answer is there. Prints JSON: seconds from the first request to the last answer,
milliseconds of each, statuses, and the generator's own processor seconds.
"""

import asyncio
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit


class Load:
    def __init__(self, url: str, body: bytes, content_type: str) -> None:
        at = urlsplit(url)
        assert at.hostname
        assert at.port
        self._address = at.hostname, at.port
        head = f"POST {at.path} HTTP/1.1\r\nHost: {at.netloc}\r\nContent-Type: {content_type}\r\n"
        self._request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        self.milliseconds: list[float] = []
        self.statuses: Counter[int] = Counter()
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def one(self, since: float | None = None) -> None:
        """A request; its time counts from `since`, when it was due."""
        started = since or time.perf_counter()
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection(*self._address)
        writer.write(self._request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = next(line for line in head.split("\r\n") if line.startswith("content-length:"))
        await reader.readexactly(int(length.partition(":")[2]))
        self.milliseconds.append(1000 * (time.perf_counter() - started))
        self.statuses[int(head.split(" ", 2)[1])] += 1
        if "connection: close" in head:
            writer.close()
        else:
            self._idle.append((reader, writer))

    async def closed(self, concurrency: int, requests: int) -> None:
        left = iter(range(requests))

        async def caller() -> None:
            for _ in left:
                await self.one()

        await asyncio.gather(*(caller() for _ in range(concurrency)))

    async def open(self, rate: float, requests: int, steady: bool) -> None:
        drawn = random.Random(0)  # ruff: ignore[suspicious-non-cryptographic-random-usage]
        due, tasks = time.perf_counter(), []
        for _ in range(requests):
            due += 1 / rate if steady else drawn.expovariate(rate)
            await asyncio.sleep(max(0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(self.one(due)))
        await asyncio.gather(*tasks)

    def end(self) -> None:
        for _, writer in self._idle:
            writer.close()


async def main(url: str, file: str, content_type: str, way: str, number: str, requests: str) -> None:
    load = Load(url, Path(file).read_bytes(), content_type)
    started = time.perf_counter()
    await (
        load.closed(int(number), int(requests))
        if way == "closed"
        else load.open(float(number), int(requests), way == "steady")
    )
    seconds = time.perf_counter() - started
    load.end()
    said = {
        "seconds": seconds,
        "milliseconds": load.milliseconds,
        "statuses": load.statuses,
        "cpu_seconds": time.process_time(),
    }
    json.dump(said, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
