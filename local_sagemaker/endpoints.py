"""Endpoints: create, update blue/green, delete, and bring back after a restart."""

import logging
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from local_sagemaker.cloud import Cloud
from local_sagemaker.jobs import RESTARTED, refuse
from local_sagemaker.models import EndpointConfigs, Models
from local_sagemaker.protocol import Document, invalid
from local_sagemaker.resources import Resources, arn
from local_sagemaker.router import Fleet, Router, Variant
from local_sagemaker.runner import Box
from local_sagemaker.s3 import TransferError
from local_sagemaker.servers import ModelServer, ServerError, ServerPlan, unpack_model

log = logging.getLogger(__name__)

DRAIN_LIMIT_S = 65.0
# Instances of a variant on one machine share its processors: a second keeps serving while one restarts.
MOST_INSTANCES = 2
UNSUPPORTED = {
    "DeploymentConfig.RollingUpdatePolicy": "rolling updates",
    "DeploymentConfig.AutoRollbackConfiguration": "automatic rollback on alarms",
    "DeploymentConfig.BlueGreenUpdatePolicy.MaximumExecutionTimeoutInSeconds": "this limit",
    "DeploymentConfig.BlueGreenUpdatePolicy.TrafficRoutingConfiguration.Type!='ALL_AT_ONCE' && "
    "DeploymentConfig.BlueGreenUpdatePolicy": "canary and linear traffic shifting",
    "RetainAllVariantProperties": "RetainAllVariantProperties",
    "RetainDeploymentConfig": "RetainDeploymentConfig",
}


class Endpoints(Resources):
    """CreateEndpoint and its kin. A document's `Plan` is what it serves, with its models: they may be deleted."""

    def __init__(self, cloud: Cloud, models: Models, configs: EndpointConfigs, router: Router) -> None:
        super().__init__(cloud.store, "Endpoint")
        self._cloud = cloud
        self._models = models
        self._configs = configs
        self._router = router
        self._folder = cloud.state / "endpoints"

    def create_endpoint(self, request: Document, region: str) -> Document:
        """CreateEndpoint. Raises ApiError."""
        refuse(request, UNSUPPORTED)
        name, config = request["EndpointName"], request["EndpointConfigName"]
        plan = self._plan(config, region)
        document = {**request, "EndpointStatus": "Creating", "Region": region, "Plan": plan}
        identifier = self.create(name, region, document)
        self._in_background(name, lambda: self._create(name, plan))
        return {"EndpointArn": identifier}

    def update_endpoint(self, request: Document, region: str) -> Document:
        """UpdateEndpoint. Raises ApiError."""
        refuse(request, UNSUPPORTED)
        name, config = request["EndpointName"], request["EndpointConfigName"]
        plan = self._plan(config, region)
        self.get(name, region)
        with self.store.change(self.kind, name) as endpoint:
            self._refuse_unless_in_service(endpoint)
            if endpoint["EndpointConfigName"] == config:
                raise invalid(
                    f'Cannot update endpoint "{endpoint["EndpointArn"]}" to the configuration that it has, {config}.'
                )
            endpoint.pop("FailureReason", None)
            endpoint["EndpointStatus"] = "Updating"
            endpoint["PendingDeploymentSummary"] = {
                "EndpointConfigName": config,
                "StartTime": time.time(),
                "ProductionVariants": _summaries(plan, "Creating"),
            }
        deployment = request.get("DeploymentConfig", {})
        self._in_background(name, lambda: self._update(name, config, plan, deployment))
        return {"EndpointArn": arn(self.kind, name, region)}

    def delete_endpoint(self, request: Document, region: str) -> Document:
        """DeleteEndpoint. Raises ApiError."""
        name = request["EndpointName"]
        self.get(name, region)
        with self.store.change(self.kind, name) as endpoint:
            if endpoint["EndpointStatus"] not in {"InService", "Failed"}:
                self._refuse_unless_in_service(endpoint)
            endpoint["EndpointStatus"] = "Deleting"
        self._in_background(name, lambda: self._delete(name))
        return {}

    def recover(self) -> None:
        """After a restart: endpoints come back with what they served; an update that was under way is undone."""
        shutil.rmtree(self._folder, ignore_errors=True)
        for endpoint in self.store.all(self.kind):
            name, status = endpoint["EndpointName"], endpoint["EndpointStatus"]
            if status == "Creating":
                self.set(name, EndpointStatus="Failed", FailureReason=RESTARTED)
            elif status == "Deleting":
                self.store.delete(self.kind, name)
            elif status != "Failed":
                reason = {"FailureReason": RESTARTED} if status == "Updating" else {}
                self.set(name, EndpointStatus="SystemUpdating", PendingDeploymentSummary=None, **reason)
                self._in_background(name, lambda name=name, plan=endpoint["Plan"]: self._create(name, plan))  # type: ignore[misc]

    def _refuse_unless_in_service(self, endpoint: Document) -> None:
        status = endpoint["EndpointStatus"]
        if status == "Failed":
            raise invalid(f'Cannot update endpoint "{endpoint["EndpointArn"]}" in status Failed; delete it.')
        if status != "InService":
            raise invalid(f'Cannot update in-progress endpoint "{endpoint["EndpointArn"]}".')

    def _plan(self, config_name: str, region: str) -> list[Document]:
        """The variants of a configuration, each with its model's container."""
        variants: list[Document] = self._configs.get(config_name, region)["ProductionVariants"]
        return [
            {**variant, "Container": self._models.get(variant["ModelName"], region)["Container"]}
            for variant in variants
        ]

    def _in_background(self, name: str, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            except Exception:
                if not self._cloud.closing.is_set():
                    log.exception("endpoint %s", name)
                    self.set(
                        name,
                        EndpointStatus="Failed",
                        FailureReason="InternalServerError: see the service's log",
                    )

        threading.Thread(target=run, name=f"endpoint {name}", daemon=True).start()

    def _create(self, name: str, plan: list[Document]) -> None:
        try:
            fleet = self._start(name, plan)
        except (ServerError, TransferError) as error:
            if not self._cloud.closing.is_set():
                log.warning("endpoint %s: Failed: %s", name, error)
                self.set(name, EndpointStatus="Failed", FailureReason=str(error))
            return
        self._router.switch(name, fleet)
        self.set(name, EndpointStatus="InService", ProductionVariants=_summaries(plan))
        log.info("endpoint %s: InService", name)

    def _update(self, name: str, config: str, plan: list[Document], deployment: Document) -> None:
        try:
            fleet = self._start(name, plan)
        except (ServerError, TransferError) as error:
            if not self._cloud.closing.is_set():
                log.warning("endpoint %s: the update to %s failed: %s", name, config, error)
                self.set(
                    name, EndpointStatus="InService", FailureReason=str(error), PendingDeploymentSummary=None
                )
            return
        old = self._router.switch(name, fleet)
        policy = deployment.get("BlueGreenUpdatePolicy", {})
        wait = policy.get("TrafficRoutingConfiguration", {}).get("WaitIntervalInSeconds", 0)
        self._cloud.closing.wait(wait + policy.get("TerminationWaitInSeconds", 0))
        # Written before the old fleet is drained: from the switch on, a restart is to bring back the new one.
        changes: dict[str, Any] = {
            "EndpointConfigName": config,
            "Plan": plan,
            "ProductionVariants": _summaries(plan),
        }
        self.set(name, **changes, LastDeploymentConfig=deployment or None)
        if old:
            self._end(old)
        self.set(name, EndpointStatus="InService", PendingDeploymentSummary=None)
        log.info("endpoint %s: InService on %s", name, config)

    def _delete(self, name: str) -> None:
        if fleet := self._router.switch(name, None):
            self._end(fleet)
        shutil.rmtree(self._folder / name, ignore_errors=True)
        self.store.delete(self.kind, name)
        log.info("endpoint %s: deleted", name)

    def _start(self, name: str, plan: list[Document]) -> Fleet:
        """A fleet whose servers all answer. Raises ServerError or TransferError, with everything ended again."""
        region = self.get(name)["Region"]
        started: list[ModelServer] = []
        variants = []
        try:
            for variant in plan:
                servers = self._start_variant(name, region, variant)
                started += servers
                variants.append(
                    Variant(variant["VariantName"], variant["InitialVariantWeight"], tuple(servers))
                )
            for server in started:
                server.wait_until_ready()
        except (ServerError, TransferError):
            for server in started:
                server.close()
            raise
        return Fleet(tuple(variants))

    def _start_variant(self, name: str, region: str, variant: Document) -> list[ModelServer]:
        servers = []
        for _ in range(min(variant["InitialInstanceCount"], MOST_INSTANCES)):
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
            servers.append(ModelServer(self._cloud, plan))
        return servers

    def _end(self, fleet: Fleet) -> None:
        """Let requests in flight finish, then end the servers."""
        limit = time.monotonic() + DRAIN_LIMIT_S
        while any(server.in_flight for server in fleet.servers()) and time.monotonic() < limit:
            time.sleep(0.02)
        for server in fleet.servers():
            server.close()


def _summaries(plan: list[Document], status: str | None = None) -> list[Document]:
    """ProductionVariantSummary, or PendingProductionVariantSummary with a status."""
    now = time.time()
    summaries = []
    for variant in plan:
        image, count = variant["Container"]["Image"], variant["InitialInstanceCount"]
        weight = variant["InitialVariantWeight"]
        summary: Document = {
            "VariantName": variant["VariantName"],
            "DeployedImages": [{"SpecifiedImage": image, "ResolvedImage": image, "ResolutionTime": now}],
            "CurrentWeight": weight,
            "DesiredWeight": weight,
            "CurrentInstanceCount": count,
            "DesiredInstanceCount": count,
        }
        if status:
            summary["VariantStatus"] = [{"Status": status, "StartTime": now}]
        summaries.append(summary)
    return summaries
