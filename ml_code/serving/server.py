"""Serves a model archive over HTTP, as a SageMaker container does.

    SM_MODEL_DIR=var/model SAGEMAKER_BIND_TO_PORT=8080 python -m serving.server

GET /ping answers 200; the port opens once the model is loaded and warmed up. POST /invocations takes an image
and answers JSON (docs/contracts.md). Ready in about 4 s, most of it the import of torch; SIGTERM finishes the
requests in hand and ends it.

| variable | default | |
|---|---|---|
| SM_MODEL_DIR | $SAGEMAKER_BASE_DIR/model, and SAGEMAKER_BASE_DIR is /opt/ml | the unpacked model archive |
| SAGEMAKER_BIND_TO_PORT | 8080 | |
| SAGEMAKER_BIND_HOST | 127.0.0.1 | a container that others call needs 0.0.0.0 |
| SAGEMAKER_PROGRAM | inference.py | below SM_MODEL_DIR/code, or beside this package |
"""

import asyncio
import importlib.util
import io
import os
import sys
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

# SageMaker's own limit for a request to an endpoint.
MAX_BODY = 25 * 1024 * 1024


@dataclass(frozen=True)
class Settings:
    model_dir: Path
    program: str = "inference.py"
    host: str = "127.0.0.1"
    port: int = 8080

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        base = environment.get("SAGEMAKER_BASE_DIR", "/opt/ml")
        return cls(
            Path(environment.get("SM_MODEL_DIR") or f"{base}/model"),
            environment.get("SAGEMAKER_PROGRAM", cls.program),
            environment.get("SAGEMAKER_BIND_HOST", cls.host),
            int(environment.get("SAGEMAKER_BIND_TO_PORT", cls.port)),
        )


class Service:
    """The program's four functions around one loaded model."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._program: ModuleType | None = None
        self._model: Any = None
        # Decoding and the forward pass release the interpreter's lock; the loop stays free for /ping.
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="predict")

    def load(self) -> None:
        """Loads the model, and answers one image so that the first caller does not wait for warming up.

        :raises Exception: whatever the program raises; the server then does not start.
        """
        self._program = load_program(self._settings)
        self._model = self._program.model_fn(str(self._settings.model_dir))
        image = io.BytesIO()
        Image.new("RGB", (64, 64)).save(image, "PNG")
        self._answer(image.getvalue(), "image/png", "application/json")

    def _answer(self, body: bytes, content_type: str, accept: str) -> str:
        assert self._program is not None
        data = self._program.input_fn(body, content_type)
        answer: str = self._program.output_fn(self._program.predict_fn(data, self._model), accept)
        return answer

    async def answer(self, body: bytes, content_type: str, accept: str) -> str:
        """Off the event loop. Whoever gathers requests into batches does it here."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self._answer, body, content_type, accept)

    def close(self) -> None:
        self._pool.shutdown(wait=True)


def load_program(settings: Settings) -> ModuleType:
    """The model archive's own program, so that a model is served by the code that it was made with.

    :raises FileNotFoundError: naming the file that is missing.
    """
    beside = Path(__file__).resolve().parents[1]
    for folder in (settings.model_dir / "code", beside):
        file = folder / settings.program
        if file.is_file():
            break
    else:
        raise FileNotFoundError(f"there is no {settings.program} in {settings.model_dir}/code or {beside}")
    sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module


def create_app(settings: Settings) -> Starlette:
    service = Service(settings)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        # Before the port opens: a process that cannot load its model must end, not answer 503 for ever.
        await asyncio.to_thread(service.load)
        print(f"serving {settings.model_dir}", flush=True)
        try:
            yield
        finally:
            service.close()

    def ping(request: Request) -> Response:
        return Response()

    async def invocations(request: Request) -> Response:
        content_type = request.headers.get("content-type", "")
        accept = request.headers.get("accept", "")
        try:
            answer = await service.answer(await read_body(request), content_type, accept)
        except ValueError as error:
            # The program's ValueErrors are about the request: of the wrong type, or unreadable.
            status = 415 if type(error).__name__ == "UnsupportedMediaTypeError" else 400
            raise HTTPException(status, str(error)) from error
        return Response(answer, media_type="application/json")

    return Starlette(
        routes=[
            Route("/ping", ping),
            Route("/invocations", invocations, methods=["POST"]),
        ],
        exception_handlers={HTTPException: error_response},
        lifespan=lifespan,
    )


async def read_body(request: Request) -> bytes:
    """:raises HTTPException: 413, before more than `MAX_BODY` bytes are in memory."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"the body is larger than {MAX_BODY // 2**20} MiB")
    return bytes(body)


def error_response(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


def main() -> None:
    settings = Settings.from_environment()
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_level="warning",
        timeout_graceful_shutdown=30,
    )


if __name__ == "__main__":
    main()
