"""SageMaker's serving contract over HTTP."""

import asyncio
import time
from uuid import uuid4

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serving.logs import access
from serving.metrics import Metrics
from serving.service import CallerError, ModelError, Service
from serving.settings import Settings

# What callers name a request by: SageMaker's InferenceId, and the web's custom.
IDS = ("x-amzn-sagemaker-inference-id", "x-request-id")


class Endpoint:
    """The routes around one service."""

    def __init__(self, service: Service, settings: Settings, metrics: Metrics) -> None:
        self._service, self._settings, self._metrics = service, settings, metrics
        self._in_progress = 0
        self.draining = False

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/ping", self.ping),
                Route("/invocations", self.invocations, methods=["POST"]),
                Route("/execution-parameters", self.execution_parameters),
                Route("/metrics", self.show_metrics),
            ],
            exception_handlers={HTTPException: _error_response},
        )

    async def ping(self, request: Request) -> Response:
        return Response(status_code=503 if self.draining else 200)

    async def execution_parameters(self, request: Request) -> Response:
        """What a batch transform asks for when its request does not say."""
        return JSONResponse(
            {
                "MaxConcurrentTransforms": min(self._settings.max_waiting, 2 * self._settings.max_batch),
                "BatchStrategy": "MULTI_RECORD",
                "MaxPayloadInMB": max(1, min(6, self._settings.max_body // 2**20)),
            }
        )

    async def show_metrics(self, request: Request) -> Response:
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4")

    async def invocations(self, request: Request) -> Response:
        started = time.perf_counter()
        try:
            response = await self._answer(request)
        except HTTPException as error:
            response = _error_response(request, error)
        except ClientDisconnect:
            response = Response(status_code=499)  # nginx's number; nobody reads it
        if self.draining:
            response.headers["connection"] = "close"
        seconds = time.perf_counter() - started
        self._metrics.requests.labels(str(response.status_code)).inc()
        self._metrics.request_seconds.observe(seconds)
        if not access.disabled:
            self._log(request, response, seconds)
        return response

    def _log(self, request: Request, response: Response, seconds: float) -> None:
        """The id is the caller's, or one that the answer tells."""
        identifier = (
            next((request.headers[name] for name in IDS if name in request.headers), None) or uuid4().hex
        )
        response.headers[IDS[-1]] = identifier
        members = {
            "request_id": identifier,
            "status": response.status_code,
            "milliseconds": round(1000 * seconds, 1),
            "content_type": request.headers.get("content-type", ""),
            "model_version": self._service.model_version,
        }
        access.info("%s %s", request.method, request.url.path, extra={"members": members})

    async def _answer(self, request: Request) -> Response:
        body = await self._body(request)
        if self._in_progress >= self._settings.max_waiting:
            raise HTTPException(
                503, f"{self._in_progress} requests are waiting already; try again", {"Retry-After": "1"}
            )
        self._in_progress += 1
        self._metrics.in_progress.set(self._in_progress)
        try:
            answer = await self._service.answer(
                body, request.headers.get("content-type", ""), request.headers.get("accept", "")
            )
        except CallerError as error:
            raise HTTPException(error.status, str(error)) from error
        except ModelError as error:
            raise HTTPException(500, str(error)) from error
        finally:
            self._in_progress -= 1
            self._metrics.in_progress.set(self._in_progress)
        return Response(answer.content, media_type=answer.content_type)

    async def _body(self, request: Request) -> bytes:
        """:raises HTTPException: 413, before more than the limit is in memory; 408."""
        limit = self._settings.max_body
        body = bytearray()
        try:
            async with asyncio.timeout(self._settings.body_timeout_s):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > limit:
                        raise HTTPException(413, f"the body is larger than {limit / 2**20:g} MiB")
        except TimeoutError as error:
            sentence = f"the body did not arrive within {self._settings.body_timeout_s:g} s"
            raise HTTPException(408, sentence, {"Connection": "close"}) from error
        return bytes(body)


def _error_response(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)
