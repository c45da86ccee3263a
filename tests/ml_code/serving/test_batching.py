"""Which images share a forward pass, and with how many threads."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from serving.batching import Batcher, Lanes


class Recorder:
    """decode_fn and forward_fn that note what they are called with; a pass waits until it is let go."""

    def __init__(self) -> None:
        self.passes: list[tuple[int, int]] = []
        """(images, threads) of each."""
        self.gate = threading.Event()
        self.awake = threading.Event()
        """When it is set, images that are slow are decoded."""
        self.slow: list[Any] = []

    def decode(self, image: Any) -> Tensor:
        if image == "slow":
            self.slow.append(image)
            self.awake.wait(60)
        if image == "bad":
            raise ValueError("it cannot be decoded")
        return torch.tensor([hash(image) % 1000])

    def forward(self, crops: Tensor) -> list[Any]:
        self.passes.append((len(crops), torch.get_num_threads()))
        self.gate.wait()
        return [SimpleNamespace(value=int(crop), timings_ms={}) for crop in crops]


def run(
    recorder: Recorder, lanes: Lanes, what: Callable[[Batcher], Awaitable[None]], **settings: Any
) -> None:
    async def main() -> None:
        batcher = Batcher(recorder.decode, recorder.forward, lanes, **{"max_batch": 4} | settings)
        try:
            await what(batcher)
        finally:
            recorder.gate.set()
            batcher.close()

    threads = torch.get_num_threads()
    asyncio.run(main())
    assert torch.get_num_threads() == threads


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


def test_one_image_alone_gets_all_threads_at_once() -> None:
    recorder = Recorder()
    recorder.gate.set()

    async def one_after_another(batcher: Batcher) -> None:
        for image in range(3):
            [prediction] = await batcher.predict([image])
            assert prediction.value == image
            assert set(prediction.timings_ms) == {"queue", "decode", "forward"}

    run(recorder, Lanes(2, 1, 2), one_after_another)
    assert recorder.passes == [(1, 2)] * 3


def test_images_that_come_meanwhile_share_a_pass() -> None:
    recorder = Recorder()

    async def many(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.predict([0]))
        await until(lambda: len(recorder.passes) == 1)
        rest = [asyncio.create_task(batcher.predict([image])) for image in range(1, 8)]
        await asyncio.sleep(0.1)
        assert len(recorder.passes) == 1, "there is one lane"
        recorder.gate.set()
        await first
        assert [task[0].value for task in await asyncio.gather(*rest)] == list(range(1, 8))

    run(recorder, Lanes(1, 2, 2), many)
    assert recorder.passes == [(1, 2), (4, 2), (3, 2)]


def test_lanes_share_what_waits() -> None:
    recorder = Recorder()

    async def many(batcher: Batcher) -> None:
        tasks = [asyncio.create_task(batcher.predict([image])) for image in range(2)]
        await until(lambda: len(recorder.passes) == 2)
        tasks += [asyncio.create_task(batcher.predict([image])) for image in range(2, 8)]
        await asyncio.sleep(0.1)
        recorder.gate.set()
        assert [task[0].value for task in await asyncio.gather(*tasks)] == list(range(8))

    run(recorder, Lanes(2, 1, 2), many)
    assert sum(images for images, _ in recorder.passes) == 8
    assert recorder.passes[-1][1] == 1, "a pass among others has its lane's threads"


def test_an_image_waits_for_none_but_those_of_its_own_pass() -> None:
    recorder = Recorder()
    recorder.gate.set()

    async def two(batcher: Batcher) -> None:
        slow = asyncio.create_task(batcher.predict(["slow"]))
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            for _ in range(3):
                await batcher.predict(["quick"])
        recorder.awake.set()
        await slow

    run(recorder, Lanes(2, 1, 2), two)
    assert recorder.passes == [(1, 1)] * 3 + [(1, 2)]


def test_a_pass_of_many_threads_decodes_as_many_images_at_once() -> None:
    recorder = Recorder()
    recorder.gate.set()

    async def four(batcher: Batcher) -> None:
        task = asyncio.create_task(batcher.predict(["slow"] * 4))
        await until(lambda: len(recorder.slow) == 2)
        recorder.awake.set()
        assert len(await task) == 4

    run(recorder, Lanes(1, 2, 2), four)
    assert recorder.passes == [(4, 2)]


def test_an_image_that_fails_holds_up_nobody() -> None:
    recorder = Recorder()
    recorder.gate.set()

    async def two(batcher: Batcher) -> None:
        good, bad = await asyncio.gather(
            batcher.predict(["good"]), batcher.predict(["bad"]), return_exceptions=True
        )
        assert good[0].timings_ms
        assert isinstance(bad, ValueError)
        assert str(bad) == "it cannot be decoded"
        with pytest.raises(ValueError, match=r"^instance 5: it cannot be decoded"):
            await batcher.predict([*range(5), "bad", "good"])

    run(recorder, Lanes(1, 2, 2), two)


def test_what_forward_raises_reaches_everybody_in_the_batch_and_nobody_else() -> None:
    recorder = Recorder()

    def forward(crops: Tensor) -> list[Any]:
        recorder.gate.wait()
        if 1 in crops:
            raise RuntimeError("no answer")
        return [SimpleNamespace(timings_ms={}) for _ in crops]

    async def four(batcher: Batcher) -> None:
        tasks = [asyncio.create_task(batcher.predict([image])) for image in (0, 1, 2)]
        await asyncio.sleep(0)
        recorder.gate.set()
        first, *others = await asyncio.gather(*tasks, return_exceptions=True)
        assert len(first) == 1
        assert [str(outcome) for outcome in others] == ["no answer", "no answer"]
        assert len(await batcher.predict([3])) == 1

    recorder.forward = forward  # type: ignore[method-assign]
    run(recorder, Lanes(1, 1, 1), four)


@pytest.mark.parametrize(
    "error", [StopIteration("none left"), SystemExit("enough"), MemoryError("too large")]
)
def test_nobody_waits_for_an_answer_that_will_not_come(error: BaseException) -> None:
    def fail(what: Any) -> Any:
        raise error

    async def two(batcher: Batcher) -> None:
        async with asyncio.timeout(10):
            for _ in range(2):
                with pytest.raises((type(error), RuntimeError)):
                    await batcher.predict([1])

    for name in ("forward", "decode"):
        recorder = Recorder()
        setattr(recorder, name, fail)
        run(recorder, Lanes(1, 1, 1), two)


def test_what_is_no_prediction_is_an_error_of_its_own_pass() -> None:
    recorder = Recorder()
    recorder.gate.set()
    forward = recorder.forward
    recorder.forward = lambda crops: [float(crop) for crop in crops]  # type: ignore[method-assign]

    async def two(batcher: Batcher) -> None:
        async with asyncio.timeout(10):
            with pytest.raises(AttributeError, match="timings_ms"):
                await batcher.predict([1])
            batcher._forward = forward
            assert len(await batcher.predict([2])) == 1

    run(recorder, Lanes(1, 1, 1), two)


def test_too_few_predictions_are_an_error() -> None:
    recorder = Recorder()
    recorder.forward = lambda crops: []  # type: ignore[method-assign]

    async def one(batcher: Batcher) -> None:
        with pytest.raises(RuntimeError, match="made 0 predictions of 1 images"):
            await batcher.predict([1])

    run(recorder, Lanes(1, 1, 1), one)
