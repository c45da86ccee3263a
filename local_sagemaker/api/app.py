"""The HTTP side: the control plane's one POST address, dispatched by X-Amz-Target, the runtime, and a health check."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local_sagemaker.api.find import Finder
from local_sagemaker.api.protocol import ApiError, Document, Protocol, load_json
from local_sagemaker.api.resources import Tags
from local_sagemaker.api.wire import answer, body_of, error_response, region_of
from local_sagemaker.aws.client import AwsError
from local_sagemaker.cloud import Cloud
from local_sagemaker.jobs.base import Slots
from local_sagemaker.jobs.processing import ProcessingJobs
from local_sagemaker.jobs.training import TrainingJobs
from local_sagemaker.jobs.transform import TransformJobs
from local_sagemaker.serving.async_invocations import AsyncInvocations
from local_sagemaker.serving.endpoints import Endpoints
from local_sagemaker.serving.metrics import EndpointMetrics
from local_sagemaker.serving.models import EndpointConfigs, Models
from local_sagemaker.serving.registry import Registry
from local_sagemaker.serving.router import Router
from local_sagemaker.serving.telemetry import Telemetry
from local_sagemaker.tuning.jobs import TuningJobs

log = logging.getLogger(__name__)

VERSION = "0.1.0"

BODY_LIMIT = 4 * 1024 * 1024
"""Bytes of a request to the control plane; the longest that is of use has some 300 KB of hyperparameters."""

Handler = Callable[[Document, str], Document]


class Service:
    """Everything that a running service does, by operation name."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        runtime = Protocol(
            "sagemaker-runtime", ["InvokeEndpoint", "InvokeEndpointAsync"], cloud.state / "model"
        )
        self.router = Router(runtime, EndpointMetrics(cloud.aws))
        self.telemetry = Telemetry(cloud, self.router)
        self.invocations = AsyncInvocations(cloud, self.router, runtime)
        slots = Slots(cloud.settings.slots)
        self.training = TrainingJobs(cloud, slots)
        self.tuning = TuningJobs(cloud, self.training)
        self.processing = ProcessingJobs(cloud, slots)
        self.registry = Registry(cloud.store)
        self.models = Models(cloud, self.registry)
        self.configs = EndpointConfigs(cloud, self.models)
        self.endpoints = Endpoints(cloud, self.models, self.configs, self.router)
        self.transform = TransformJobs(cloud, slots, self.models)
        self.tags = Tags(cloud.store)
        self.finder = Finder(self._sources())
        self.operations = self._operations()
        self.protocol = Protocol("sagemaker", self.operations, cloud.state / "model")

    def _operations(self) -> dict[str, Handler]:
        groups = self.registry.groups
        return {
            "CreateTrainingJob": self.training.create_job,
            "DescribeTrainingJob": self.training.describe,
            "ListTrainingJobs": self.training.lister("TrainingJobSummaries"),
            "StopTrainingJob": self.training.stop,
            "DeleteTrainingJob": self.training.delete_ended,
            "UpdateTrainingJob": self.training.update,
            "CreateHyperParameterTuningJob": self.tuning.create_job,
            "DescribeHyperParameterTuningJob": self.tuning.describe,
            "ListHyperParameterTuningJobs": self.tuning.list_jobs,
            "ListTrainingJobsForHyperParameterTuningJob": self.tuning.list_training_jobs,
            "StopHyperParameterTuningJob": self.tuning.stop,
            "DeleteHyperParameterTuningJob": self.tuning.delete_ended,
            "CreateProcessingJob": self.processing.create_job,
            "DescribeProcessingJob": self.processing.describe,
            "ListProcessingJobs": self.processing.lister("ProcessingJobSummaries"),
            "StopProcessingJob": self.processing.stop,
            "DeleteProcessingJob": self.processing.delete_ended,
            "CreateTransformJob": self.transform.create_job,
            "DescribeTransformJob": self.transform.describe,
            "ListTransformJobs": self.transform.lister("TransformJobSummaries"),
            "StopTransformJob": self.transform.stop,
            "CreateModel": self.models.create_model,
            "DescribeModel": self.models.describe,
            "ListModels": self.models.lister("Models"),
            "DeleteModel": self.models.delete,
            "CreateEndpointConfig": self.configs.create_config,
            "DescribeEndpointConfig": self.configs.describe,
            "ListEndpointConfigs": self.configs.lister("EndpointConfigs"),
            "DeleteEndpointConfig": self.configs.delete,
            "CreateEndpoint": self.endpoints.create_endpoint,
            "DescribeEndpoint": self.endpoints.describe,
            "UpdateEndpoint": self.endpoints.update_endpoint,
            "UpdateEndpointWeightsAndCapacities": self.endpoints.update_weights,
            "ListEndpoints": self.endpoints.lister("Endpoints"),
            "DeleteEndpoint": self.endpoints.delete_endpoint,
            "CreateModelPackageGroup": self.registry.create_group,
            "DescribeModelPackageGroup": self.registry.describe_group,
            "ListModelPackageGroups": groups.lister("ModelPackageGroupSummaryList"),
            "DeleteModelPackageGroup": self.registry.delete_group,
            "PutModelPackageGroupPolicy": self.registry.put_policy,
            "GetModelPackageGroupPolicy": self.registry.get_policy,
            "DeleteModelPackageGroupPolicy": self.registry.delete_policy,
            "CreateModelPackage": self.registry.create_package,
            "DescribeModelPackage": self.registry.describe,
            "BatchDescribeModelPackage": self.registry.describe_batch,
            "ListModelPackages": self.registry.list_packages,
            "UpdateModelPackage": self.registry.update,
            "DeleteModelPackage": self.registry.delete,
            "Search": lambda request, _: self.finder.search(request, self.protocol.shape("SearchRecord")),
            "AddTags": self.tags.add,
            "ListTags": self.tags.list,
            "DeleteTags": self.tags.delete,
        }

    def _sources(self) -> dict[str, Callable[[], list[Document]]]:
        """What Search looks through."""
        plain = ("TrainingJob", "Endpoint", "Model", "ModelPackage", "ModelPackageGroup")
        store, tuning = self.cloud.store, self.tuning
        return {
            **{kind: partial(store.all, kind) for kind in plain},
            tuning.kind: lambda: [
                tuning.describe({tuning.name_key: job[tuning.name_key]}, job["Region"])
                for job in store.all(tuning.kind)
            ],
        }

    def recover(self) -> None:
        """Bring what a previous run left behind into order."""
        for kind in (self.training, self.processing, self.transform, self.tuning, self.endpoints):
            kind.recover()
        self.invocations.recover()

    def close(self) -> None:
        """End jobs and servers; the documents of jobs in progress are put in order at the next start."""
        self.cloud.closing.set()
        self.telemetry.close()
        self.cloud.warm.close()

    def call(self, operation: str, body: Any, region: str) -> Document:
        """Carry out one operation. Raises ApiError."""
        if operation not in self.operations:
            known = "does not do" if operation in self.protocol.known else "does not know"
            raise ApiError("UnknownOperationException", f"local_sagemaker {known} the operation {operation}")
        request = self.protocol.parse(operation, body)
        return self.protocol.serialize(operation, self.operations[operation](request, region))

    def health(self) -> Document:
        kinds = (self.training, self.tuning, self.processing, self.transform, self.endpoints)
        jobs = {
            resources.kind: resources.store.counts(resources.kind, resources.status_key)
            for resources in kinds
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
            body = load_json(await body_of(request, BODY_LIMIT, "RequestEntityTooLargeException"))
            content = await run_in_threadpool(service.call, operation, body, region_of(request))
            return answer(content, 200)
        except ApiError as error:
            log.info("%s: %s: %s", target, error.code, error.message)
            return error_response(error)
        except AwsError as error:
            # MiniStack is being started again; clients try again by themselves.
            log.warning("%s: %s", target, error)
            return error_response(ApiError("ServiceUnavailable", str(error), 503))
        except Exception:
            log.exception("%s", target)
            return error_response(ApiError("InternalFailure", "local_sagemaker failed, see its log", 500))

    async def interrupt(request: Request) -> Response:
        """Not of the API: takes a managed spot job's capacity away, as AWS does when it needs it."""
        try:
            await run_in_threadpool(service.training.interrupt, request.path_params["name"])
            return answer({}, 200)
        except ApiError as error:
            return error_response(error)

    async def health(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(service.health))

    def unknown(request: Request, _: Exception) -> Response:
        message = f"local_sagemaker has no {request.method} {request.url.path}"
        return error_response(ApiError("UnknownOperationException", message, 404))

    hosts = ["127.0.0.1", "localhost", *filter(None, [service.cloud.settings.host])]
    return Starlette(
        routes=[
            Route("/", control, methods=["POST"]),
            Route("/", health, methods=["GET"]),
            Route("/training-jobs/{name}/interruption", interrupt, methods=["POST"]),
            Route("/endpoints/{EndpointName}/invocations", service.router.invoke, methods=["POST"]),
            Route(
                "/endpoints/{EndpointName}/async-invocations", service.invocations.invoke, methods=["POST"]
            ),
        ],
        exception_handlers={404: unknown, 405: unknown},
        # A page in a browser must not reach the service by a name of its own that leads to this machine.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
    )
