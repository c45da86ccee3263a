"""Starting and ending the servers behind an endpoint."""

import shutil
import threading
import time
import uuid
from collections.abc import Iterable
from fractions import Fraction

from local_sagemaker.api.protocol import Document
from local_sagemaker.aws.s3 import TransferError
from local_sagemaker.cloud import ClosedError, Cloud
from local_sagemaker.processes.runner import Box
from local_sagemaker.serving.capture import Capture
from local_sagemaker.serving.fleet import Fleet, Shadow, Variant
from local_sagemaker.serving.sampling import Sampler
from local_sagemaker.serving.servers import ModelServer, ServerError, ServerPlan, unpack_model

DRAIN_LIMIT_S = 65.0
# Instances of a variant on one machine share its processors: a second keeps serving while one restarts.
MOST_INSTANCES = 2
ENDS_BEFORE_FAILED = 3
"""How often in a row a server that served may end before it is given up."""


class Fleets:
    """Makes fleets of what endpoint documents say: `Plan`, `ShadowPlan`, `Capture`, `AsyncInferenceConfig`."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._folder = cloud.state / "endpoints"

    def clear(self, endpoint: str = "") -> None:
        """Remove the files of all endpoints' servers, or of one's."""
        shutil.rmtree(self._folder / endpoint, ignore_errors=True)

    def start(self, name: str, region: str, served: Document) -> Fleet:
        """A fleet whose servers all answer. Raises ServerError or TransferError, with everything ended again."""
        started: list[ModelServer] = []
        variants = [self._variant(name, region, variant, started) for variant in served["Plan"]]
        shadows = [
            self._variant(name, region, variant, started) for variant in served.get("ShadowPlan") or []
        ]
        wait_until_ready(started)
        shadow = None
        if shadows:
            weight = Fraction(shadows[0].weight) / (Fraction(sum(one.weight for one in variants)) or 1)
            shadow = Shadow(shadows[0], Sampler(min(weight, Fraction(1))))
        config = served.get("Capture") or {"EnableCapture": False}
        return Fleet(
            endpoint=name,
            region=region,
            config=served["EndpointConfigName"],
            variants=tuple(variants),
            shadow=shadow,
            asynchronous=bool(served.get("AsyncInferenceConfig")),
            capture=Capture(self._cloud.s3, name, config) if config.get("EnableCapture", True) else None,
        )

    def _variant(self, name: str, region: str, variant: Document, started: list[ModelServer]) -> Variant:
        servers = self.start_servers(name, region, variant, on_this_machine(variant), started)
        return Variant(variant["VariantName"], variant["InitialVariantWeight"], tuple(servers))

    def start_servers(
        self, name: str, region: str, variant: Document, count: int, started: list[ModelServer]
    ) -> list[ModelServer]:
        """Start servers of a variant and add them to those started.

        Raises ServerError or TransferError, with all that were started ended again.
        """
        servers = []
        try:
            for _ in range(count):
                servers.append(self._start_server(name, region, variant))
        except (ServerError, TransferError):
            for server in [*started, *servers]:
                server.close()
            raise
        started += servers
        return servers

    def _start_server(self, name: str, region: str, variant: Document) -> ModelServer:
        instance = f"i-{uuid.uuid4().hex[:17]}"
        where = Box(self._folder / name / instance)
        unpack_model(self._cloud, variant["Container"], where)
        plan = ServerPlan(
            container=variant["Container"],
            box=where,
            region=region,
            log_group=f"/aws/sagemaker/Endpoints/{name}",
            log_stream=f"{variant['VariantName']}/{instance}",
            start_limit_s=variant.get("ContainerStartupHealthCheckTimeoutInSeconds", 60),
        )
        return ModelServer(self._cloud, plan)


def wait_until_ready(started: list[ModelServer]) -> None:
    """Raises ServerError, with all of them ended, when one does not come up."""
    try:
        for server in started:
            server.wait_until_ready()
    except ServerError:
        for server in started:
            server.close()
        raise


def never_up(fleet: Fleet, closing: threading.Event) -> str | None:
    """Wait until each variant has a server that is up; the sentence about one whose servers keep ending.

    Raises ClosedError when the service is ending.
    """
    for variant in fleet.variants:
        while variant.servers and variant.least_busy() is None:
            if all(server.ends_in_a_row >= ENDS_BEFORE_FAILED for server in variant.servers):
                return variant.servers[0].failure("the model server of the old fleet does not start again")
            if closing.wait(0.1):
                raise ClosedError
    return None


def end(fleets: Iterable[Fleet]) -> None:
    """Let requests in flight finish, end the servers, and upload what was captured."""
    fleets = list(fleets)
    end_servers([server for fleet in fleets for server in fleet.servers()])
    for fleet in fleets:
        if fleet.capture:
            fleet.capture.send(final=True)


def end_servers(servers: list[ModelServer]) -> None:
    """Let requests in flight finish, then end the servers."""
    limit = time.monotonic() + DRAIN_LIMIT_S
    while any(server.in_flight for server in servers) and time.monotonic() < limit:
        time.sleep(0.02)
    for server in servers:
        server.close()


def on_this_machine(variant: Document) -> int:
    """How many servers a variant has here."""
    return min(int(variant["InitialInstanceCount"]), MOST_INSTANCES)
