"""Images of many requests in one forward pass, without making anybody wait for a batch to fill.

A pass starts as soon as a lane is free, with what is there. Only when an image is being decoded at that moment does it
wait for it, up to the delay. An image that is alone gets a pass with all threads, its latency the least there can be;
under load every lane runs passes with its share of the threads, which wait for one another less and so take less
processor time an image.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MOST_LANES = 4

Decode = Callable[[Any], Tensor]
Forward = Callable[[Tensor], Sequence[Any]]


@dataclass(frozen=True)
class Lanes:
    """How the processors are shared among forward passes."""

    count: int
    threads: int
    """Of one lane."""
    all_threads: int

    @classmethod
    def of(cls, threads: int, on_gpu: bool) -> "Lanes":
        count = 1 if on_gpu else min(MOST_LANES, threads)
        return cls(count, threads // count, threads)


@dataclass
class _Waiting:
    crop: Tensor
    result: "asyncio.Future[Any]"
    decode_ms: float
    since: float


class Batcher:
    """Everything but the two functions runs on the event loop, so nothing is locked."""

    def __init__(
        self,
        decode: Decode,
        forward: Forward,
        lanes: Lanes,
        max_batch: int,
        delay_s: float,
        observe: Callable[[int], None] = lambda images: None,
    ) -> None:
        """:param observe: is told the number of images of every pass."""
        self._decode, self._forward = decode, forward
        self._lanes, self._max_batch, self._delay_s = lanes, max_batch, delay_s
        self._observe = observe
        self._decoders = ThreadPoolExecutor(lanes.all_threads, thread_name_prefix="decode")
        self._passes = ThreadPoolExecutor(lanes.count, thread_name_prefix="forward")
        self._waiting: deque[_Waiting] = deque()
        self._decoding = self._running = 0
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def predict(self, images: Sequence[Any]) -> list[Any]:
        """A prediction an image, with its timings. No more than a batch of one caller's images is held decoded.

        :raises Exception: what decode raises for one of them, or forward for a batch that one was in.
        """
        predictions: list[Any] = []
        for first in range(0, len(images), self._max_batch):
            some = images[first : first + self._max_batch]
            outcomes = await asyncio.gather(*map(self._one, some), return_exceptions=True)
            for number, outcome in enumerate(outcomes, first):
                if isinstance(outcome, ValueError) and len(images) > 1:
                    raise type(outcome)(f"instance {number}: {outcome}") from outcome
                if isinstance(outcome, BaseException):
                    raise outcome
                predictions.append(outcome)
        return predictions

    def warm_up(self, crop: Tensor) -> None:
        """The first passes, which set up threads and memory: one image alone, and a full batch in every lane.

        :raises Exception: what forward raises.
        """
        lanes, full = self._lanes, crop[None].repeat(self._max_batch, 1, 1, 1)
        self._passes.submit(self._forward_with, crop[None], lanes.all_threads).result()
        for done in [
            self._passes.submit(self._forward_with, full, lanes.threads) for _ in range(lanes.count)
        ]:
            done.result()

    def close(self) -> None:
        self._decoders.shutdown(wait=True)
        self._passes.shutdown(wait=True)

    async def _one(self, image: Any) -> Any:
        loop = asyncio.get_running_loop()
        self._decoding += 1
        try:
            crop, decode_ms = await loop.run_in_executor(self._decoders, self._timed_decode, image)
        except BaseException:
            self._decoding -= 1
            self._start()
            raise
        self._decoding -= 1
        waiting = _Waiting(crop, loop.create_future(), decode_ms, time.perf_counter())
        self._waiting.append(waiting)
        self._start()
        return await waiting.result

    def _timed_decode(self, image: Any) -> tuple[Tensor, float]:
        started = time.perf_counter()
        return self._decode(image), 1000 * (time.perf_counter() - started)

    def _start(self) -> None:
        """Start passes while there are images and free lanes."""
        while self._waiting and self._running < self._lanes.count:
            age = time.perf_counter() - self._waiting[0].since
            if self._decoding and len(self._waiting) < self._max_batch and age < self._delay_s:
                if self._timer is None:
                    loop = asyncio.get_running_loop()
                    self._timer = loop.call_later(self._delay_s - age, self._on_time)
                return
            # What is there is dealt out evenly among the lanes, those that will be free in a moment included: a long
            # pass makes its images wait for one another, and on processors saves little.
            count = min(self._max_batch, -(-len(self._waiting) // self._lanes.count))
            batch = [self._waiting.popleft() for _ in range(count)]
            alone = not (self._running or self._waiting or self._decoding)
            self._running += 1
            task = asyncio.create_task(
                self._pass(batch, self._lanes.all_threads if alone else self._lanes.threads)
            )
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _on_time(self) -> None:
        self._timer = None
        self._start()

    async def _pass(self, batch: list[_Waiting], threads: int) -> None:
        loop = asyncio.get_running_loop()
        crops = torch.stack([one.crop for one in batch])
        self._observe(len(batch))
        started = time.perf_counter()
        try:
            predictions = await loop.run_in_executor(self._passes, self._forward_with, crops, threads)
            if len(predictions) != len(batch):
                raise RuntimeError(f"forward_fn made {len(predictions)} predictions of {len(batch)} images")
        except Exception as error:
            for one in batch:
                if not one.result.done():
                    one.result.set_exception(error)
        else:
            forward_ms = 1000 * (time.perf_counter() - started)
            for one, prediction in zip(batch, predictions, strict=True):
                prediction.timings_ms = {
                    "queue": round(1000 * (started - one.since), 3),
                    "decode": round(one.decode_ms, 3),
                    "forward": round(forward_ms, 3),
                }
                if not one.result.done():
                    one.result.set_result(prediction)
        finally:
            self._running -= 1
            self._start()

    def _forward_with(self, crops: Tensor, threads: int) -> Sequence[Any]:
        # Torch keeps the number for each thread that calls it, and so do the backends.
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        return self._forward(crops)
