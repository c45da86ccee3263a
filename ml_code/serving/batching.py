"""Images of many requests in one forward pass, without making anybody wait for a batch to fill.

As soon as a lane is free it takes what is there, decodes it and runs one pass. An image that is alone gets a pass with
all threads, its latency the least there can be; under load every lane has its share of the threads, so that lanes wait
for one another less and take less processor time an image. A lane of one thread decodes in that thread: handing each
image to another costs 5 % of the answers of a ResNet18 on 2 processors.
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
        # With two, one decodes while the other has the GPU.
        count = 2 if on_gpu else min(MOST_LANES, threads)
        return cls(count, max(1, threads // count), threads)


@dataclass
class _Waiting:
    image: Any
    outcome: "asyncio.Future[Any]"
    """A prediction, or an error: as a result either way, since a future takes not every exception as one."""
    since: float


class Batcher:
    """Everything but the two functions runs on the event loop, so nothing is locked."""

    def __init__(
        self,
        decode: Decode,
        forward: Forward,
        lanes: Lanes,
        max_batch: int,
        observe: Callable[[int], None] = lambda images: None,
    ) -> None:
        """:param observe: is told the number of images of every pass."""
        self._decode, self._forward = decode, forward
        self._lanes, self._max_batch = lanes, max_batch
        self._observe = observe
        self._passes = ThreadPoolExecutor(lanes.count, thread_name_prefix="forward")
        self._decoders = ThreadPoolExecutor(lanes.all_threads, thread_name_prefix="decode")
        self._waiting: deque[_Waiting] = deque()
        self._running = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def predict(self, images: Sequence[Any]) -> list[Any]:
        """A prediction an image, with its timings. No more than a batch of one caller's images waits at a time.

        :raises Exception: what decode raises for one of them, or forward for a batch that one was in.
        """
        predictions: list[Any] = []
        for first in range(0, len(images), self._max_batch):
            some = images[first : first + self._max_batch]
            outcomes = await asyncio.gather(*self._enter(some))
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
        lanes, full = self._lanes, [crop] * self._max_batch
        self._passes.submit(self._forward_with, full[:1], lanes.all_threads).result()
        for done in [
            self._passes.submit(self._forward_with, full, lanes.threads) for _ in range(lanes.count)
        ]:
            done.result()

    def close(self) -> None:
        self._passes.shutdown(wait=True)
        self._decoders.shutdown(wait=True)

    def _enter(self, images: Sequence[Any]) -> list["asyncio.Future[Any]"]:
        loop, now = asyncio.get_running_loop(), time.perf_counter()
        entered = [_Waiting(image, loop.create_future(), now) for image in images]
        self._waiting.extend(entered)
        self._start()
        return [one.outcome for one in entered]

    def _start(self) -> None:
        """Start passes while there are images and free lanes."""
        while self._waiting and self._running < self._lanes.count:
            alone = len(self._waiting) == 1 and not self._running
            # What is there is dealt out evenly among the lanes, those that will be free in a moment included: a long
            # pass makes its images wait for one another, and on processors saves little.
            count = min(self._max_batch, -(-len(self._waiting) // self._lanes.count))
            batch = [self._waiting.popleft() for _ in range(count)]
            self._running += 1
            task = asyncio.create_task(
                self._pass(batch, self._lanes.all_threads if alone else self._lanes.threads)
            )
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass(self, batch: list[_Waiting], threads: int) -> None:
        loop = asyncio.get_running_loop()
        try:
            outcomes = await loop.run_in_executor(self._passes, self._outcomes, batch, threads)
        finally:
            self._running -= 1
            self._start()
        for one, outcome in zip(batch, outcomes, strict=True):
            if not one.outcome.done():  # else who asked has gone
                one.outcome.set_result(outcome)

    # In a lane's thread

    def _outcomes(self, batch: list[_Waiting], threads: int) -> list[Any]:
        """For each image its prediction, or why there is none."""
        started = time.perf_counter()
        images = [one.image for one in batch]
        at_once = threads > 1 and len(images) > 1
        decoded = list((self._decoders.map if at_once else map)(self._decoded, images))
        outcomes: list[Any] = [crop for crop, _ in decoded]
        good = [number for number, crop in enumerate(outcomes) if not isinstance(crop, BaseException)]
        if not good:
            return outcomes
        self._observe(len(good))
        began = time.perf_counter()
        try:
            predictions = self._forward_with([outcomes[number] for number in good], threads)
            forward_ms = 1000 * (time.perf_counter() - began)
            for number, prediction in zip(good, predictions, strict=True):
                prediction.timings_ms = {
                    "queue": round(1000 * (started - batch[number].since), 3),
                    "decode": round(decoded[number][1], 3),
                    "forward": round(forward_ms, 3),
                }
        except BaseException as error:  # nobody who waits may be forgotten
            predictions = [error] * len(good)
        for number, prediction in zip(good, predictions, strict=True):
            outcomes[number] = prediction
        return outcomes

    def _decoded(self, image: Any) -> tuple[Tensor | BaseException, float]:
        """The crop, or why there is none; and the milliseconds."""
        started = time.perf_counter()
        try:
            crop: Tensor | BaseException = self._decode(image)
        except BaseException as error:
            crop = error
        return crop, 1000 * (time.perf_counter() - started)

    def _forward_with(self, crops: Sequence[Tensor], threads: int) -> Sequence[Any]:
        # Torch keeps the number for each thread that calls it, and so do the backends.
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        predictions = self._forward(torch.stack([*crops]))
        if len(predictions) != len(crops):
            raise RuntimeError(f"forward_fn made {len(predictions)} predictions of {len(crops)} images")
        return predictions
