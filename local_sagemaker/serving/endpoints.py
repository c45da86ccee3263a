"""Endpoints: create, update blue/green, delete, and bring back after a restart."""

import logging
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

from local_sagemaker.api.protocol import Document, invalid
from local_sagemaker.api.resources import Resources, arn
from local_sagemaker.api.unsupported import refuse
from local_sagemaker.aws.s3 import TransferError
from local_sagemaker.cloud import RESTARTED, Cloud
from local_sagemaker.jobs.checks import check_instances
from local_sagemaker.processes.runner import Box
from local_sagemaker.serving.models import EndpointConfigs, Models
from local_sagemaker.serving.router import Fleet, Router, Variant
from local_sagemaker.serving.servers import ModelServer, ServerError, ServerPlan, unpack_model

log = logging.getLogger(__name__)

DRAIN_LIMIT_S = 65.0
TRIES_TO_COME_BACK = 5
# Instances of a variant on one machine share its processors: a second keeps serving while one restarts.
MOST_INSTANCES = 2
UNSUPPORTED = {
    "DeploymentConfig.RollingUpdatePolicy": "rolling updates",
    "DeploymentConfig.AutoRollbackConfiguration": "automatic rollback on alarms",
    "DeploymentConfig.BlueGreenUpdatePolicy.MaximumExecutionTimeoutInSeconds": "this limit",
    "DeploymentConfig.BlueGreenUpdatePolicy.TrafficRoutingConfiguration.Type!='ALL_AT_ONCE' && "
    "DeploymentConfig.BlueGreenUpdatePolicy": "canary and linear traffic shifting",
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
        document = {
            **request,
            "EndpointStatus": "Creating",
            "Region": region,
            "Plan": plan,
            "AsyncInferenceConfig": self._asynchronous(config, region),
        }
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
            if request.get("RetainAllVariantProperties"):
                _retain(plan, endpoint["Plan"], request.get("ExcludeRetainedVariantProperties", []))
            deployment = request.get("DeploymentConfig", {})
            if request.get("RetainDeploymentConfig"):
                deployment = endpoint.get("LastDeploymentConfig") or {}
            endpoint.pop("FailureReason", None)
            endpoint["EndpointStatus"] = "Updating"
            endpoint["PendingDeploymentSummary"] = {
                "EndpointConfigName": config,
                "StartTime": time.time(),
                "ProductionVariants": _summaries(plan, "Creating"),
            }
        asynchronous = self._asynchronous(config, region)
        self._in_background(name, lambda: self._update(name, config, plan, deployment, asynchronous))
        return {"EndpointArn": arn(self.kind, name, region)}

    def update_weights(self, request: Document, region: str) -> Document:
        """UpdateEndpointWeightsAndCapacities: weights count from now on, instances come and go. Raises ApiError."""
        name = request["EndpointName"]
        self.get(name, region)
        with self.store.change(self.kind, name) as endpoint:
            self._refuse_unless_in_service(endpoint)
            old = endpoint["Plan"]
            plan = _with_capacities(endpoint, request["DesiredWeightsAndCapacities"])
            endpoint.pop("FailureReason", None)
            endpoint["Plan"] = plan
            endpoint["EndpointStatus"] = "Updating"
            for summary, variant in zip(endpoint["ProductionVariants"], plan, strict=True):
                summary["CurrentWeight"] = summary["DesiredWeight"] = variant["InitialVariantWeight"]
                summary["DesiredInstanceCount"] = variant["InitialInstanceCount"]
        weights = {variant["VariantName"]: variant["InitialVariantWeight"] for variant in plan}
        self._router.switch(name, self._router.fleet(name).with_weights(weights))
        self._in_background(name, lambda: self._scale(name, old, plan))
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
            name, status, plan = endpoint["EndpointName"], endpoint["EndpointStatus"], endpoint["Plan"]
            if status == "Creating":
                self._in_background(name, partial(self._create, name, plan))
            elif status == "Deleting":
                self.store.delete(self.kind, name)
            elif status != "Failed":
                reason = {"FailureReason": RESTARTED} if status == "Updating" else {}
                self.set(name, EndpointStatus="SystemUpdating", PendingDeploymentSummary=None, **reason)
                self._in_background(name, partial(self._create, name, plan, tries=TRIES_TO_COME_BACK))

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
            {**variant, "Container": self._models.container(variant["ModelName"], region)}
            for variant in variants
        ]

    def _asynchronous(self, config_name: str, region: str) -> Document | None:
        return self._configs.get(config_name, region).get("AsyncInferenceConfig")

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

    def _create(self, name: str, plan: list[Document], tries: int = 1) -> None:
        for attempt in range(1, tries + 1):
            try:
                fleet = self._start(name, plan, asynchronous=bool(self.get(name).get("AsyncInferenceConfig")))
                break
            except (ServerError, TransferError) as error:
                if self._cloud.closing.is_set():
                    return
                log.warning("endpoint %s, start %d of %d: %s", name, attempt, tries, error)
                reason = str(error)
            # What has served before is worth some patience.
            if attempt < tries and self._cloud.closing.wait(2.0**attempt):
                return
        else:
            self.set(name, EndpointStatus="Failed", FailureReason=reason)
            return
        self._router.switch(name, fleet)
        self.set(name, EndpointStatus="InService", ProductionVariants=_summaries(plan))
        log.info("endpoint %s: InService", name)

    def _update(
        self,
        name: str,
        config: str,
        plan: list[Document],
        deployment: Document,
        asynchronous: Document | None,
    ) -> None:
        try:
            fleet = self._start(name, plan, asynchronous=bool(asynchronous))
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
            "AsyncInferenceConfig": asynchronous,
        }
        self.set(name, **changes, LastDeploymentConfig=deployment or None)
        if old:
            self._end(old.servers())
        self.set(name, EndpointStatus="InService", PendingDeploymentSummary=None)
        log.info("endpoint %s: InService on %s", name, config)

    def _delete(self, name: str) -> None:
        if fleet := self._router.switch(name, None):
            self._end(fleet.servers())
        shutil.rmtree(self._folder / name, ignore_errors=True)
        self.store.delete(self.kind, name)
        log.info("endpoint %s: deleted", name)

    def _scale(self, name: str, old: list[Document], plan: list[Document]) -> None:
        """Bring an endpoint in service to the plan's instance counts; it keeps the old ones when that fails."""
        fleet = self._router.fleet(name)
        surplus: list[ModelServer] = []
        started: list[ModelServer] = []
        try:
            for variant, serving in zip(plan, fleet.variants, strict=True):
                wanted = _on_this_machine(variant)
                more = self._start_servers(name, variant, wanted - len(serving.servers), started)
                fleet = fleet.with_servers(serving.name, [*serving.servers[:wanted], *more])
                surplus += serving.servers[wanted:]
            self._wait_until_ready(started)
        except (ServerError, TransferError) as error:
            if not self._cloud.closing.is_set():
                log.warning("endpoint %s: it keeps its instances: %s", name, error)
                counts = {variant["VariantName"]: variant["InitialInstanceCount"] for variant in old}
                kept = [
                    {**variant, "InitialInstanceCount": counts[variant["VariantName"]]} for variant in plan
                ]
                changes: dict[str, Any] = {"Plan": kept, "ProductionVariants": _summaries(kept)}
                self.set(name, EndpointStatus="InService", FailureReason=str(error), **changes)
            return
        self._router.switch(name, fleet)
        self._end(surplus)
        self.set(name, EndpointStatus="InService", ProductionVariants=_summaries(plan))

    def _start(self, name: str, plan: list[Document], *, asynchronous: bool) -> Fleet:
        """A fleet whose servers all answer. Raises ServerError or TransferError, with everything ended again."""
        started: list[ModelServer] = []
        variants = []
        for variant in plan:
            servers = self._start_servers(name, variant, _on_this_machine(variant), started)
            variants.append(Variant(variant["VariantName"], variant["InitialVariantWeight"], tuple(servers)))
        self._wait_until_ready(started)
        return Fleet(tuple(variants), asynchronous)

    def _start_servers(
        self, name: str, variant: Document, count: int, started: list[ModelServer]
    ) -> list[ModelServer]:
        """Start servers of a variant and add them to those started.

        Raises ServerError or TransferError, with all that were started ended again.
        """
        region = self.get(name)["Region"]
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

    def _wait_until_ready(self, started: list[ModelServer]) -> None:
        """Raises ServerError, with all of them ended, when one does not come up."""
        try:
            for server in started:
                server.wait_until_ready()
        except ServerError:
            for server in started:
                server.close()
            raise

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

    def _end(self, servers: list[ModelServer]) -> None:
        """Let requests in flight finish, then end the servers."""
        limit = time.monotonic() + DRAIN_LIMIT_S
        while any(server.in_flight for server in servers) and time.monotonic() < limit:
            time.sleep(0.02)
        for server in servers:
            server.close()


def _on_this_machine(variant: Document) -> int:
    """How many servers a variant has here."""
    return min(int(variant["InitialInstanceCount"]), MOST_INSTANCES)


def _retain(plan: list[Document], old: list[Document], excluded: list[Document]) -> None:
    """Give a new plan's variants the counts and weights that variants of the same names have now."""
    kept = {"DesiredInstanceCount": "InitialInstanceCount", "DesiredWeight": "InitialVariantWeight"}
    for item in excluded:
        kept.pop(item["VariantPropertyType"], None)
    before = {variant["VariantName"]: variant for variant in old}
    for variant in plan:
        if now := before.get(variant["VariantName"]):
            variant |= {member: now[member] for member in kept.values()}


def _with_capacities(endpoint: Document, desired: list[Document]) -> list[Document]:
    """An endpoint's plan with other weights and instance counts. Raises ApiError."""
    plan = {variant["VariantName"]: dict(variant) for variant in endpoint["Plan"]}
    names = [change["VariantName"] for change in desired]
    if missing := [name for name in names if name not in plan]:
        raise invalid(
            f'The variant name(s) "{", ".join(missing)}" is/are not present within endpoint configuration '
            f'"{endpoint["EndpointConfigName"]}".'
        )
    if len(set(names)) < len(names):
        raise invalid("DesiredWeightsAndCapacities names a variant twice")
    for change in desired:
        if "ServerlessUpdateConfig" in change:
            raise invalid(
                "local_sagemaker does not do serverless inference; leave out ServerlessUpdateConfig"
            )
        variant = plan[change["VariantName"]]
        if (count := change.get("DesiredInstanceCount")) is not None:
            if not count and not endpoint.get("AsyncInferenceConfig"):
                raise invalid(
                    f"The variant {change['VariantName']} needs an instance: it is not asynchronous"
                )
            check_instances(variant.get("InstanceType", "local"), count, "endpoint")
            variant["InitialInstanceCount"] = count
        variant["InitialVariantWeight"] = change.get("DesiredWeight", variant["InitialVariantWeight"])
    return list(plan.values())


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
