"""The HTTP side: one POST address for the control plane, dispatched by X-Amz-Target, and a health check."""

import json
import logging
import re
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local_sagemaker import VERSION
from local_sagemaker.cloud import Cloud
from local_sagemaker.jobs import Slots
from local_sagemaker.processing import ProcessingJobs
from local_sagemaker.protocol import ApiError, Document, Protocol
from local_sagemaker.resources import Resources, Tags
from local_sagemaker.training import TrainingJobs

log = logging.getLogger(__name__)

Handler = Callable[[Document, str], Document]


class Service:
    """Everything that a running service does, by operation name."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        slots = Slots(cloud.settings.slots)
        self.training = TrainingJobs(cloud, slots)
        self.processing = ProcessingJobs(cloud, slots)
        self.tags = Tags(cloud.store)
        self.operations: dict[str, Handler] = {
            "CreateTrainingJob": self.training.create_job,
            "StopTrainingJob": self.training.stop,
            "CreateProcessingJob": self.processing.create_job,
            "StopProcessingJob": self.processing.stop,
            "AddTags": self.tags.add,
            "ListTags": self.tags.list,
            "DeleteTags": self.tags.delete,
        }
        described: list[Resources] = [self.training, self.processing]
        for resources in described:
            self.operations[f"Describe{resources.kind}"] = resources.describe
        self.protocol = Protocol(frozenset([*self.operations, *(f"List{r.kind}s" for r in described)]))
        for resources in described:
            operation = f"List{resources.kind}s"
            self.operations[operation] = resources.lister(self.protocol.list_output(operation))

    def recover(self) -> None:
        """Bring what a previous run left behind into order."""
        self.training.recover()
        self.processing.recover()

    def close(self) -> None:
        """End jobs and servers; the documents of jobs in progress are put in order at the next start."""
        self.cloud.closing.set()
        self.cloud.warm.close()

    def call(self, operation: str, body: Any, region: str) -> Document:
        """Carry out one operation. Raises ApiError."""
        if operation not in self.operations:
            known = "does not do" if operation in self.protocol.known else "does not know"
            raise ApiError("UnknownOperationException", f"local_sagemaker {known} the operation {operation}")
        request = self.protocol.parse(operation, body)
        return self.protocol.serialize(operation, self.operations[operation](request, region))

    def health(self) -> Document:
        jobs = {
            resources.kind: dict(
                Counter(job[resources.status_key] for job in resources.store.all(resources.kind))
            )
            for resources in (self.training, self.processing)
        }
        return {
            "service": "local_sagemaker",
            "version": VERSION,
            "state": str(self.cloud.state),
            "aws": self.cloud.settings.aws_url,
            "jobs": jobs,
        }


def application(service: Service) -> Starlette:
    """The ASGI application."""

    async def control(request: Request) -> Response:
        target = request.headers.get("x-amz-target", "")
        try:
            operation = target.removeprefix("SageMaker.")
            if operation == target:
                raise ApiError(
                    "UnknownOperationException", f"X-Amz-Target is {target!r}, not SageMaker.OPERATION"
                )
            body = _json(await request.body())
            answer = await run_in_threadpool(service.call, operation, body, region_of(request))
            return _answer(answer, 200)
        except ApiError as error:
            log.info("%s: %s: %s", target, error.code, error.message)
            return error_response(error)
        except Exception:
            log.exception("%s", target)
            return error_response(ApiError("InternalFailure", "local_sagemaker failed, see its log", 500))

    async def health(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(service.health))

    async def unknown(request: Request) -> Response:
        message = f"local_sagemaker has no {request.method} {request.url.path}"
        return error_response(ApiError("UnknownOperationException", message, 404))

    return Starlette(
        routes=[
            Route("/", control, methods=["POST"]),
            Route("/", health, methods=["GET"]),
            Route("/{path:path}", unknown, methods=["GET", "POST", "PUT", "DELETE", "PATCH"]),
        ]
    )


def region_of(request: Request) -> str:
    """The region in the signature's credential scope."""
    found = re.search(r"Credential=[^/]*/\d+/([^/]+)/", request.headers.get("authorization", ""))
    return found.group(1) if found else "us-east-1"


def _json(body: bytes) -> Any:
    try:
        return json.loads(body or b"{}")
    except ValueError as error:
        raise ApiError("SerializationException", f"The request body is not JSON: {error}") from error


def error_response(error: ApiError) -> Response:
    """An error in AWS's JSON shape."""
    headers = {"x-amzn-errortype": error.code}
    return _answer({"__type": error.code, "message": error.message}, error.status, headers)


def _answer(content: Document, status: int, headers: dict[str, str] | None = None) -> Response:
    return Response(
        json.dumps(content),
        status,
        {"x-amzn-requestid": str(uuid.uuid4()), **(headers or {})},
        media_type="application/x-amz-json-1.1",
    )
