"""The runtime side: InvokeEndpoint, routed to the servers of the endpoint's fleet."""

import logging
import random
import ssl
import threading
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import httpx
from starlette.requests import Request
from starlette.responses import Response

from local_sagemaker.api.protocol import ACCOUNT, ApiError, Protocol
from local_sagemaker.api.wire import body_of, error_response, region_of
from local_sagemaker.serving.servers import ModelServer

log = logging.getLogger(__name__)

BODY_LIMIT = 6 * 1024 * 1024
TIMEOUT_S = 60.0
# What httpx would make holds every certificate authority; servers here speak plain HTTP.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
PREFIX = "x-amzn-sagemaker-"
PASSED_ON = ("content-type", "accept", f"{PREFIX}custom-attributes", f"{PREFIX}inference-id")
REFUSED = (
    "TargetModel",
    "TargetContainerHostname",
    "InferenceComponentName",
    "EnableExplanations",
    "SessionId",
)


@dataclass(frozen=True)
class Variant:
    """One production variant with its servers."""

    name: str
    weight: float
    servers: tuple[ModelServer, ...]


@dataclass(frozen=True)
class Fleet:
    """What serves an endpoint at a time. An update makes a new one and switches."""

    variants: tuple[Variant, ...]
    asynchronous: bool = False

    def servers(self) -> list[ModelServer]:
        return [server for variant in self.variants for server in variant.servers]

    def with_weights(self, weights: Mapping[str, float]) -> "Fleet":
        """The same servers under other weights, for the variants named."""
        variants = tuple(
            replace(variant, weight=weights.get(variant.name, variant.weight)) for variant in self.variants
        )
        return replace(self, variants=variants)

    def with_servers(self, name: str, servers: Iterable[ModelServer]) -> "Fleet":
        """The same variants, one of them with other servers."""
        variants = tuple(
            replace(variant, servers=tuple(servers)) if variant.name == name else variant
            for variant in self.variants
        )
        return replace(self, variants=variants)

    def choose(self, target: str | None) -> Variant:
        """The target variant, or one by weight. Raises ApiError."""
        if target is not None:
            for variant in self.variants:
                if variant.name == target:
                    return variant
            raise ApiError("ValidationError", f"Variant {target} is not a production variant of the endpoint")
        weights = [variant.weight for variant in self.variants]
        if not any(weights):
            raise ApiError(
                "ValidationError", "All production variants have weight 0; name one with TargetVariant"
            )
        return random.choices(self.variants, weights)[0]  # ruff: ignore[suspicious-non-cryptographic-random-usage]


class Router:
    """The table of fleets by endpoint name, and the proxy."""

    def __init__(self, runtime: Protocol) -> None:
        self._runtime = runtime
        self._lock = threading.Lock()
        self._fleets: dict[str, Fleet] = {}
        # No kept connections: a server may close one just when a request goes out on it, and a new one to this
        # machine takes 0.1 ms.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._client = httpx.AsyncClient(timeout=TIMEOUT_S, limits=limits, trust_env=False, verify=NO_TLS)

    def switch(self, endpoint: str, fleet: Fleet | None) -> Fleet | None:
        """Send new requests to another fleet, None to none; the fleet until now, which may have requests in flight."""
        with self._lock:
            old = self._fleets.pop(endpoint, None)
            if fleet:
                self._fleets[endpoint] = fleet
            return old

    def fleet(self, endpoint: str) -> Fleet:
        """What serves an endpoint. Raises ApiError."""
        fleet = self._fleets.get(endpoint)
        if not fleet:
            raise ApiError("ValidationError", f"Endpoint {endpoint} of account {ACCOUNT} not found.")
        return fleet

    @contextmanager
    def server(
        self, endpoint: str, target: str | None = None
    ) -> Generator[tuple[Variant, ModelServer], None, None]:
        """The least busy server of a variant, counted as busy in the same moment in which it is chosen.

        Raises ApiError: ValidationError, and ServiceUnavailable while none is up.
        """
        with self._lock:
            fleet = self.fleet(endpoint)
            variant = fleet.choose(target)
            ready = [server for server in variant.servers if server.ready.is_set()]
            if not ready:
                message = f"No server of variant {variant.name} is up; it is being started again"
                raise ApiError("ServiceUnavailable", message, 503)
            server = min(ready, key=lambda candidate: candidate.in_flight)
            server.in_flight += 1
        try:
            yield variant, server
        finally:
            with self._lock:
                server.in_flight -= 1

    async def invoke(self, request: Request) -> Response:
        """POST /endpoints/NAME/invocations, signed or not."""
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
            target = members.get("TargetVariant")
            while True:
                with self.server(endpoint, target) as (variant, server):
                    try:
                        return await self._forward(request, body, endpoint, variant, server)
                    except httpx.ConnectError:
                        # It has died, which its supervisor sees within half a second; nothing was sent.
                        server.ready.clear()
        except ApiError as error:
            return error_response(error)

    async def _forward(
        self, request: Request, body: bytes, endpoint: str, variant: Variant, server: ModelServer
    ) -> Response:
        headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
        try:
            answer = await self._client.post(
                f"http://127.0.0.1:{server.port}/invocations", content=body, headers=headers
            )
        except httpx.TimeoutException:
            text = "Your invocation timed out while waiting for a response from container primary."
            return _model_error(request, endpoint, server, 0, text)
        except httpx.ConnectError:
            raise
        except httpx.TransportError as error:
            return _model_error(request, endpoint, server, 503, f"{type(error).__name__}: {error}")
        if answer.status_code >= 400:
            return _model_error(request, endpoint, server, answer.status_code, answer.text)
        kept = {"content-type": answer.headers.get("content-type", "application/octet-stream")}
        if (name := f"{PREFIX}custom-attributes") in answer.headers:
            kept[name] = answer.headers[name]
        return Response(answer.content, 200, {**kept, "x-Amzn-Invoked-Production-Variant": variant.name})


def _model_error(request: Request, endpoint: str, server: ModelServer, status: int, text: str) -> Response:
    group = f"/aws/sagemaker/Endpoints/{endpoint}"
    members = {
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
