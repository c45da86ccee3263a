"""One loaded model behind the program's functions: a request's body in, an answer's body out."""

import asyncio
import dataclasses
import io
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from PIL import Image

from serving.backends import choose
from serving.batching import Batcher, Lanes
from serving.metrics import Metrics
from serving.program import Program
from serving.settings import Settings

log = logging.getLogger("serving")

LINES = "application/jsonlines"


class Answer(NamedTuple):
    content: str | bytes
    content_type: str


class CallerError(Exception):
    """The request is at fault; the sentence is for the caller."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class ModelError(Exception):
    """The model is at fault, whatever it was asked; the sentence is for the caller, the log has the traceback."""


class Service:
    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        """Loads the program and the model, chooses the backend and warms it up; seconds.

        :raises Exception: whatever the program raises, for a test image too; the server then does not start.
        """
        self._settings, self._metrics = settings, metrics
        lanes = Lanes.of(torch.get_num_threads(), torch.cuda.is_available())
        self._program = Program(settings)
        self._model = self._program.model_fn(str(settings.model_dir))
        log.info("program %s", self._program.file)
        self.backend, measured = "program", dict[str, float]()
        # The program's functions, which may take as long as they like.
        self._pool = ThreadPoolExecutor(max(2, lanes.all_threads), thread_name_prefix="program")
        self._batcher: Batcher | None = None
        if (decode_fn := self._program.decode_fn) and (forward_fn := self._program.forward_fn):
            crop = decode_fn(_test_image(), self._model)
            forward_fn(crop[None], self._model)  # what is wrong with the model is not a backend's fault
            measured = self._use_fastest(crop, lanes)
            batcher = self._batcher = Batcher(
                lambda image: decode_fn(image, self._model),
                lambda crops: forward_fn(crops, self._model),
                lanes, settings.max_batch, metrics.batch_images.observe,
            )  # fmt: skip
            batcher.warm_up(crop)
        self.model_version: str = getattr(self._model, "manifest", {}).get("version", "")
        metrics.serves(self.model_version, self.backend, measured)

    def _use_fastest(self, crop: torch.Tensor, lanes: Lanes) -> dict[str, float]:
        """Puts the fastest backend in the place of the model's network, where the model is one that has such.

        Returns the processor milliseconds of each that was measured.
        """
        model = self._model
        if not hasattr(model, "network") or model.device.type != "cpu":
            self.backend = "torch"
            return {}
        example = model.preprocessing.normalize(crop[None].repeat(2, 1, 1, 1))
        names, threads = self._settings.backends, (lanes.threads, lanes.all_threads)
        choice = choose(model.network, example, names, self._settings.model_dir, threads)
        for name, reason in choice.rejected.items():
            log.info("backend %s is not used: %s", name, reason)
        log.info("backend %s, of %s", choice.name, choice.ms or "one candidate")
        self._model = dataclasses.replace(model, network=choice.backend)
        self.backend = choice.name
        return choice.ms

    async def answer(self, body: bytes, content_type: str, accept: str) -> Answer:
        """:raises CallerError: when the request is at fault. :raises ModelError: when the model is."""
        if accept in {"", "*/*"}:
            # A batch transform joins answers by lines, as it joined the records.
            lines = content_type.partition(";")[0].strip().lower() == LINES
            accept = LINES if lines else self._settings.default_accept
        program = self._program
        if program.transform_fn:
            answer = await self._call(program.transform_fn, self._model, body, content_type, accept)
            return _answer(answer, accept)
        data = await self._call(program.input_fn, body, content_type, bad_value=400)
        if self._batcher:
            many = isinstance(data, list | tuple)
            try:
                predictions = await self._batcher.predict(data if many else [data])
            except Exception as error:
                raise _blamed(error) from error
            for prediction in predictions:
                self._metrics.observe(prediction.timings_ms)
            prediction = predictions if many else predictions[0]
        else:
            prediction = await self._call(program.predict_fn, data, self._model)
        if program.writes_at_once and not isinstance(data, list | tuple):
            # 0.1 ms, which is less than handing it to a thread. input_fn stays there: a body decides what it takes.
            try:
                return _answer(program.output_fn(prediction, accept), accept)
            except Exception as error:
                raise _blamed(error) from error
        return _answer(await self._call(program.output_fn, prediction, accept), accept)

    async def _call(self, function: Any, *arguments: Any, bad_value: int | None = None) -> Any:
        """:param bad_value: the status that a ValueError without one stands for."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool, function, *arguments)
        except Exception as error:
            raise _blamed(error, bad_value) from error

    def close(self) -> None:
        if self._batcher:
            self._batcher.close()
        self._pool.shutdown(wait=True)


def _blamed(error: Exception, bad_value: int | None = None) -> Exception:
    """The caller's error where the program says so by a `status` of 4xx; the model's otherwise."""
    status = getattr(error, "status", bad_value if isinstance(error, ValueError) else None)
    if isinstance(status, int) and 400 <= status < 500:
        return CallerError(status, str(error))
    log.error("the model failed", exc_info=error)
    return ModelError(f"the model failed: {' '.join(str(error).split()) or type(error).__name__}")


def _answer(answer: Any, accept: str) -> Answer:
    """The toolkit's two forms: content, or content and its type."""
    if isinstance(answer, tuple):
        return Answer(*answer)
    return Answer(answer, accept.partition(",")[0].partition(";")[0].strip())


def _test_image() -> bytes:
    image = io.BytesIO()
    Image.effect_noise((64, 64), 90).convert("RGB").save(image, "PNG")
    return image.getvalue()
