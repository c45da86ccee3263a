"""The runtime side: InvokeEndpoint, routed to the servers of the endpoint's fleet."""

import asyncio
import logging
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction

import h11
from starlette.requests import Request
from starlette.responses import Response

from local_sagemaker.api.protocol import ACCOUNT, ApiError, Document, Protocol
from local_sagemaker.api.wire import body_of, error_response, region_of
from local_sagemaker.serving.client import Answer, NotConnectedError, post
from local_sagemaker.serving.fleet import Chosen, Fleet, Route, Variant, choose
from local_sagemaker.serving.metrics import EndpointMetrics
from local_sagemaker.serving.servers import ModelServer

log = logging.getLogger(__name__)

BODY_LIMIT = 6 * 1024 * 1024
TIMEOUT_S = 60.0
PREFIX = "x-amzn-sagemaker-"
PASSED_ON = ("content-type", "accept", f"{PREFIX}custom-attributes", f"{PREFIX}inference-id")
REFUSED = (
    "TargetModel",
    "TargetContainerHostname",
    "InferenceComponentName",
    "EnableExplanations",
    "SessionId",
)
MOST_SHADOWED = 16
"""Copies under way at a shadow variant; those beyond are left out, so that a slow one holds nothing up."""


class Router:
    """The table of fleets by endpoint name, and the proxy."""

    def __init__(self, runtime: Protocol, metrics: EndpointMetrics) -> None:
        self.metrics = metrics
        self._runtime = runtime
        self._lock = threading.Lock()
        self._routes: dict[str, Route] = {}
        self._shadowing: set[asyncio.Task[None]] = set()

    def switch(self, endpoint: str, fleet: Fleet | None) -> list[Fleet]:
        """Send all new requests to one fleet, None: to none; those until now, which may have some in flight."""
        with self._lock:
            old = self._routes.pop(endpoint, None)
            if fleet:
                self._routes[endpoint] = Route(fleet)
        return [known for known in old.fleets() if known is not fleet] if old else []

    def shift(self, endpoint: str, green: Fleet, share: Fraction) -> None:
        """Send a share of the requests, evenly spread, to a second fleet, and the others to the first."""
        with self._lock:
            self._routes[endpoint].shift(green, share)

    def fleet(self, endpoint: str) -> Fleet:
        """What serves an endpoint, during an update what did before. Raises ApiError."""
        return self._route(endpoint).fleet

    def fleets(self) -> list[Fleet]:
        """Everything that serves."""
        with self._lock:
            return [fleet for route in self._routes.values() for fleet in route.fleets()]

    def _route(self, endpoint: str) -> Route:
        route = self._routes.get(endpoint)
        if not route:
            raise ApiError("ValidationError", f"Endpoint {endpoint} of account {ACCOUNT} not found.")
        return route

    @contextmanager
    def server(self, endpoint: str, target: str | None = None) -> Generator[Chosen, None, None]:
        """The least busy server of a variant, counted as busy in the same moment in which it is chosen.

        Raises ApiError: ValidationError, and ServiceUnavailable while none is up.
        """
        with self._lock:
            chosen = choose(self._route(endpoint).order(), target)
            chosen.server.in_flight += 1
        try:
            yield chosen
        finally:
            with self._lock:
                chosen.server.in_flight -= 1

    async def invoke(self, request: Request) -> Response:
        """POST /endpoints/NAME/invocations, signed or not."""
        started = time.perf_counter()
        endpoint = request.path_params["EndpointName"]
        try:
            members = self._runtime.parse_rest("InvokeEndpoint", request.path_params, request.headers)
            for member in REFUSED:
                if member in members:
                    raise ApiError("ValidationError", f"local_sagemaker does not do {member}; leave it out")
            if self.fleet(endpoint).asynchronous:
                sentence = (
                    f"Endpoint {endpoint} of account {ACCOUNT} is asynchronous; use InvokeEndpointAsync."
                )
                raise ApiError("ValidationError", sentence)
            body = await body_of(request, BODY_LIMIT, "ValidationError")
            headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
            target = members.get("TargetVariant")
            while True:
                with self.server(endpoint, target) as chosen:
                    try:
                        answer = await self._ask(chosen, headers, body, started)
                    except NotConnectedError:
                        # It has died, which its supervisor sees within half a second; nothing was sent.
                        chosen.server.ready.clear()
                        continue
                self._shadow(chosen.fleet, headers, body)
                if isinstance(answer, _Failure):
                    return _model_error(request, endpoint, chosen.server, answer)
                if capture := chosen.fleet.capture:
                    capture.add(chosen.variant.name, members, headers, body, answer)
                return _response(answer, chosen.variant)
        except ApiError as error:
            return error_response(error)

    async def _ask(
        self, chosen: Chosen, headers: dict[str, str], body: bytes, started: float
    ) -> "Answer | _Failure":
        """The model's answer, counted. Raises NotConnectedError, which is not."""
        answer: Answer | _Failure
        asked = time.perf_counter()
        try:
            answer = await post(chosen.server.port, "/invocations", headers, body, TIMEOUT_S)
            if answer.status_code >= 400:
                answer = _Failure(answer.status_code, answer.text)
        except TimeoutError:
            answer = _Failure(
                0, "Your invocation timed out while waiting for a response from container primary."
            )
        except (OSError, h11.RemoteProtocolError) as error:
            answer = _Failure(503, f"{type(error).__name__}: {error}")
        now = time.perf_counter()
        self.metrics.add(chosen.key, answer.status_code, now - asked, now - started)
        return answer

    def _shadow(self, fleet: Fleet, headers: dict[str, str], body: bytes) -> None:
        """Give the fleet's shadow variant its share of copies, when the caller has its answer."""
        shadow = fleet.shadow
        if not shadow or not shadow.sampler.take():
            return
        server = shadow.variant.least_busy()
        if not server or server.in_flight >= MOST_SHADOWED:
            log.info("endpoint %s: its shadow variant is not up or too slow for a copy", fleet.endpoint)
            return
        chosen = Chosen(fleet, shadow.variant, server)
        with self._lock:
            server.in_flight += 1
        task = asyncio.create_task(self._ask_shadow(chosen, headers, body))
        self._shadowing.add(task)
        task.add_done_callback(self._shadowing.discard)

    async def _ask_shadow(self, chosen: Chosen, headers: dict[str, str], body: bytes) -> None:
        try:
            await self._ask(chosen, headers, body, time.perf_counter())
        except NotConnectedError:
            chosen.server.ready.clear()
        finally:
            with self._lock:
                chosen.server.in_flight -= 1


@dataclass(frozen=True)
class _Failure:
    """An error that the model answered, or its silence (status 0)."""

    status_code: int
    text: str


def _response(answer: Answer, variant: Variant) -> Response:
    kept = {"content-type": answer.headers.get("content-type", "application/octet-stream")}
    if (name := f"{PREFIX}custom-attributes") in answer.headers:
        kept[name] = answer.headers[name]
    return Response(answer.content, 200, {**kept, "x-Amzn-Invoked-Production-Variant": variant.name})


def _model_error(request: Request, endpoint: str, server: ModelServer, failure: _Failure) -> Response:
    group = f"/aws/sagemaker/Endpoints/{endpoint}"
    status, text = failure.status_code, failure.text
    members: Document = {
        "OriginalStatusCode": status,
        "OriginalMessage": text[:4096],
        "LogStreamArn": f"arn:aws:logs:{region_of(request)}:{ACCOUNT}:log-group:{group}:log-stream:{server.log_stream}",
    }
    return error_response(ApiError("ModelError", model_failure(endpoint, status, text), 424), members)


def model_failure(endpoint: str, status: int, text: str) -> str:
    """AWS's sentence for an error that the model answered, or for its silence (status 0)."""
    kind = "client" if 400 <= status < 500 else "server"
    return (
        f'Received {kind} error ({status}) from primary with message "{text[:1024]}". '
        f"See log group /aws/sagemaker/Endpoints/{endpoint} in account {ACCOUNT} for more information."
    )
