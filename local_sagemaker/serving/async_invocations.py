"""InvokeEndpointAsync: requests that wait in the store until the endpoint's servers have answered them.

A request in progress when the service ends is carried out again after the next start.
"""

import base64
import contextlib
import logging
import ssl
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable

import httpx
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from local_sagemaker.api.protocol import ACCOUNT, ApiError, Document, Protocol
from local_sagemaker.api.wire import answer, body_of, error_response
from local_sagemaker.aws.s3 import TransferError
from local_sagemaker.cloud import Cloud
from local_sagemaker.serving.fleet import Chosen
from local_sagemaker.serving.router import PREFIX, Router, model_failure

log = logging.getLogger(__name__)

# What httpx would make holds every certificate authority; servers here speak plain HTTP.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
KIND = "AsyncInvocation"
BODY_LIMIT = 128_000
CONCURRENT = 4
"""Requests at once for each instance, where the endpoint does not say; AWS then chooses."""
# As the API reference has them, in seconds.
WAITS_S = 6 * 3600
TIMEOUT_S = 15 * 60
POLL_S = 0.5


class FailedError(Exception):
    """A request that has no answer; the sentence goes to FailureLocation."""


class AsyncInvocations:
    """The requests of all asynchronous endpoints."""

    def __init__(self, cloud: Cloud, router: Router, runtime: Protocol) -> None:
        self._cloud = cloud
        self._store = cloud.store
        self._router = router
        self._runtime = runtime
        self._lock = threading.Lock()
        self._lanes: dict[str, _Lane] = {}
        self._client = httpx.Client(
            trust_env=False, verify=NO_TLS, limits=httpx.Limits(max_keepalive_connections=0)
        )

    async def invoke(self, request: Request) -> Response:
        """POST /endpoints/NAME/async-invocations, signed or not."""
        try:
            members = self._runtime.parse_rest("InvokeEndpointAsync", request.path_params, request.headers)
            body = await body_of(request, BODY_LIMIT, "ValidationError")
            if bool(body) == ("InputLocation" in members):
                raise ApiError("ValidationError", "Give either InputLocation or a body")
            accepted = await run_in_threadpool(self._accept, members, body)
        except ApiError as error:
            return error_response(error)
        headers = {f"{PREFIX}outputlocation": accepted["OutputLocation"]}
        if "FailureLocation" in accepted:
            headers[f"{PREFIX}failurelocation"] = accepted["FailureLocation"]
        return answer({"InferenceId": accepted["InferenceId"]}, 202, headers)

    def recover(self) -> None:
        """After a restart: what waited goes on waiting."""
        for waiting in self._store.all(KIND):
            self._submit(waiting)

    def _accept(self, members: Document, body: bytes) -> Document:
        name = members["EndpointName"]
        fleet = self._router.fleet(name)
        output = self._config(name).get("OutputConfig")
        if not fleet.asynchronous or output is None:
            sentence = f"Endpoint {name} of account {ACCOUNT} is not asynchronous; use InvokeEndpoint."
            raise ApiError("ValidationError", sentence)
        identifier = str(uuid.uuid4())
        folder = "/".join(
            part.strip("/") for part in (output["S3OutputPath"], members.get("S3OutputPathExtension")) if part
        )
        document = {
            "InferenceId": identifier,
            **members,
            "Identifier": identifier,
            "Body": base64.b64encode(body).decode() if body else None,
            "OutputLocation": f"{folder}/{members.get('Filename', f'{identifier}.out')}",
            "CreationTime": time.time(),
        }
        if "S3FailurePath" in output:
            document["FailureLocation"] = f"{output['S3FailurePath'].rstrip('/')}/{identifier}-error.out"
        self._store.create(KIND, identifier, f"async-invocation/{identifier}", document)
        self._submit(document)
        return document

    def _config(self, endpoint: str) -> Document:
        document = self._store.get("Endpoint", endpoint) or {}
        return document.get("AsyncInferenceConfig") or {}

    def _submit(self, waiting: Document) -> None:
        name = waiting["EndpointName"]
        instances = sum(
            summary["CurrentInstanceCount"]
            for summary in (self._store.get("Endpoint", name) or {}).get("ProductionVariants", [])
        )
        client = self._config(name).get("ClientConfig", {})
        at_once = client.get("MaxConcurrentInvocationsPerInstance", CONCURRENT) * max(1, instances)
        with self._lock:
            lane = self._lanes.setdefault(name, _Lane(name))
        lane.submit(lambda: self._carry_out(waiting), at_once)

    def _carry_out(self, waiting: Document) -> None:
        identifier, failure = waiting["Identifier"], waiting.get("FailureLocation")
        try:
            try:
                response = self._ask(waiting, self._content(waiting))
                content_type = response.headers.get("content-type", "application/octet-stream")
                self._upload(response.content, waiting["OutputLocation"], content_type)
            except (FailedError, TransferError) as error:
                log.warning("asynchronous request %s: %s", identifier, error)
                if self._cloud.closing.is_set():
                    return
                if failure:
                    self._upload(str(error).encode(), failure, "text/plain")
        except Exception:
            # Nothing of the service depends on it, and no caller waits.
            log.exception("asynchronous request %s", identifier)
            if self._cloud.closing.is_set():
                return
        self._store.delete(KIND, identifier)

    def _content(self, waiting: Document) -> bytes:
        if waiting.get("Body"):
            return base64.b64decode(waiting["Body"])
        return self._cloud.s3.read(waiting["InputLocation"])

    def _upload(self, content: bytes, uri: str, content_type: str) -> None:
        self._cloud.s3.upload_bytes(content, uri, content_type)

    def _ask(self, waiting: Document, content: bytes) -> httpx.Response:
        """The model's answer, as soon as a server of the endpoint is up. Raises FailedError."""
        name, expires = (
            waiting["EndpointName"],
            waiting["CreationTime"] + waiting.get("RequestTTLSeconds", WAITS_S),
        )
        while time.time() < expires:
            with contextlib.suppress(httpx.ConnectError):
                if (response := self._try(waiting, content)) is not None:
                    return response
            status = (self._store.get("Endpoint", name) or {}).get("EndpointStatus", "Deleting")
            if status in {"Deleting", "Failed"}:
                raise FailedError(f"Endpoint {name} of account {ACCOUNT} not found.")
            if self._cloud.closing.wait(POLL_S):
                raise FailedError("the service is ending")
        raise FailedError("The request expired before the endpoint had a server for it.")

    def _try(self, waiting: Document, content: bytes) -> httpx.Response | None:
        """The model's answer; None when no server is up. Raises FailedError and httpx.ConnectError."""
        headers = {
            header: waiting[member]
            for member, header in (
                ("ContentType", "content-type"),
                ("Accept", "accept"),
                ("CustomAttributes", f"{PREFIX}custom-attributes"),
                ("InferenceId", f"{PREFIX}inference-id"),
            )
            if member in waiting
        }
        timeout = waiting.get("InvocationTimeoutSeconds", TIMEOUT_S)
        name = waiting["EndpointName"]
        try:
            with self._router.server(name) as chosen:
                url, asked = f"http://127.0.0.1:{chosen.server.port}/invocations", time.perf_counter()
                try:
                    response = self._client.post(url, content=content, headers=headers, timeout=timeout)
                    self._count(chosen, response.status_code, asked)
                except httpx.ConnectError:
                    chosen.server.ready.clear()
                    raise
                except httpx.TimeoutException as error:
                    self._count(chosen, 0, asked)
                    sentence = (
                        "Your invocation timed out while waiting for a response from container primary."
                    )
                    raise FailedError(model_failure(name, 0, sentence)) from error
                except httpx.TransportError as error:
                    self._count(chosen, 503, asked)
                    text = f"{type(error).__name__}: {error}"
                    raise FailedError(model_failure(name, 503, text)) from error
        except ApiError:
            return None
        if response.status_code >= 400:
            raise FailedError(model_failure(name, response.status_code, response.text))
        return response

    def _count(self, chosen: Chosen, status: int, asked: float) -> None:
        seconds = time.perf_counter() - asked
        self._router.metrics.add(chosen.key, status, seconds, seconds)


class _Lane:
    """The requests of one endpoint, some at once; a thread ends when nothing waits."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._waiting: deque[Callable[[], None]] = deque()
        self._threads = 0

    def submit(self, work: Callable[[], None], at_once: int) -> None:
        with self._lock:
            self._waiting.append(work)
            if self._threads >= at_once:
                return
            self._threads += 1
        threading.Thread(target=self._run, name=f"async {self._name}", daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads -= 1
                    return
                work = self._waiting.popleft()
            work()
