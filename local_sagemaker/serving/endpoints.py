"""Endpoints: create, update blue/green, roll back, delete, and bring back after a restart."""

import logging
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

from local_sagemaker.api.protocol import Document, invalid
from local_sagemaker.api.resources import Resources, arn
from local_sagemaker.aws.s3 import TransferError
from local_sagemaker.cloud import RESTARTED, ClosedError, Cloud
from local_sagemaker.serving.alarms import Alarms
from local_sagemaker.serving.deployment import Deployment, RollbackError
from local_sagemaker.serving.fleet import Fleet
from local_sagemaker.serving.fleets import (
    Fleets,
    end,
    end_servers,
    never_up,
    on_this_machine,
    wait_until_ready,
)
from local_sagemaker.serving.models import EndpointConfigs, Models
from local_sagemaker.serving.plans import described, pending, retain, summaries, with_capacities
from local_sagemaker.serving.policies import Policy, policy
from local_sagemaker.serving.router import Router
from local_sagemaker.serving.servers import ModelServer, ServerError

log = logging.getLogger(__name__)

TRIES_TO_COME_BACK = 5


class Endpoints(Resources):
    """CreateEndpoint and its kin.

    A document's `Plan`, `ShadowPlan`, `Capture` and `AsyncInferenceConfig` are what it serves, with the models'
    containers: models and configurations may be deleted.
    """

    def __init__(self, cloud: Cloud, models: Models, configs: EndpointConfigs, router: Router) -> None:
        super().__init__(cloud.store, "Endpoint")
        self._cloud = cloud
        self._models = models
        self._configs = configs
        self._router = router
        self._fleets = Fleets(cloud)

    def create_endpoint(self, request: Document, region: str) -> Document:
        """CreateEndpoint. Raises ApiError."""
        name = request["EndpointName"]
        served = self._served(request["EndpointConfigName"], region)
        deployment = request.pop("DeploymentConfig", None)
        # Its alarms may come later: they are looked for when an update retains it.
        _policy(deployment or {}, served)
        document = {
            **request,
            **served,
            "EndpointStatus": "Creating",
            "Region": region,
            "LastDeploymentConfig": deployment,
        }
        identifier = self.create(name, region, document)
        self._in_background(name, lambda: self._create(name))
        return {"EndpointArn": identifier}

    def update_endpoint(self, request: Document, region: str) -> Document:
        """UpdateEndpoint. Raises ApiError."""
        name, config = request["EndpointName"], request["EndpointConfigName"]
        served = self._served(config, region)
        deployment = request.get("DeploymentConfig", {})
        if request.get("RetainDeploymentConfig"):
            deployment = self.get(name, region).get("LastDeploymentConfig") or {}
        carried_out = _policy(deployment, served)
        if carried_out.alarms:
            Alarms(self._cloud.aws, region).check(carried_out.alarms)
        self.get(name, region)
        with self.store.change(self.kind, name) as endpoint:
            self._refuse_unless(endpoint, {"InService", "UpdateRollbackFailed"})
            if endpoint["EndpointConfigName"] == config:
                raise invalid(
                    f'Cannot update endpoint "{endpoint["EndpointArn"]}" to the configuration that it has, {config}.'
                )
            if request.get("RetainAllVariantProperties"):
                retain(served, endpoint, request.get("ExcludeRetainedVariantProperties", []))
            endpoint.pop("FailureReason", None)
            endpoint["EndpointStatus"] = "Updating"
            endpoint["PendingDeploymentSummary"] = pending(served, "Creating", time.time())
        self._in_background(name, lambda: self._update(name, served, deployment, carried_out))
        return {"EndpointArn": arn(self.kind, name, region)}

    def update_weights(self, request: Document, region: str) -> Document:
        """UpdateEndpointWeightsAndCapacities: weights count from now on, instances come and go. Raises ApiError."""
        name = request["EndpointName"]
        self.get(name, region)
        with self.store.change(self.kind, name) as endpoint:
            self._refuse_unless(endpoint, {"InService"})
            old = endpoint["Plan"]
            plan = with_capacities(endpoint, request["DesiredWeightsAndCapacities"])
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
            self._refuse_unless(endpoint, {"InService", "Failed", "UpdateRollbackFailed"})
            endpoint["EndpointStatus"] = "Deleting"
        self._in_background(name, lambda: self._delete(name))
        return {}

    def recover(self) -> None:
        """After a restart: endpoints come back with what they served; an update that was under way is undone."""
        self._fleets.clear()
        for endpoint in self.store.all(self.kind):
            name, status = endpoint["EndpointName"], endpoint["EndpointStatus"]
            if status == "Creating":
                self._in_background(name, partial(self._create, name))
            elif status == "Deleting":
                self.store.delete(self.kind, name)
            elif status != "Failed":
                reason = {"FailureReason": RESTARTED} if status == "Updating" else {}
                self.set(name, EndpointStatus="SystemUpdating", PendingDeploymentSummary=None, **reason)
                self._in_background(name, partial(self._create, name, tries=TRIES_TO_COME_BACK))

    def _refuse_unless(self, endpoint: Document, statuses: set[str]) -> None:
        status = endpoint["EndpointStatus"]
        if status in statuses:
            return
        if status == "Failed":
            raise invalid(f'Cannot update endpoint "{endpoint["EndpointArn"]}" in status Failed; delete it.')
        raise invalid(f'Cannot update in-progress endpoint "{endpoint["EndpointArn"]}".')

    def _served(self, config_name: str, region: str) -> Document:
        """What an endpoint with a configuration serves. Raises ApiError."""
        config = self._configs.get(config_name, region)

        def with_containers(variants: list[Document]) -> list[Document]:
            return [
                {**variant, "Container": self._models.container(variant["ModelName"], region)}
                for variant in variants
            ]

        return {
            "EndpointConfigName": config_name,
            "Plan": with_containers(config["ProductionVariants"]),
            "ShadowPlan": with_containers(config.get("ShadowProductionVariants", [])),
            "Capture": config.get("DataCaptureConfig"),
            "AsyncInferenceConfig": config.get("AsyncInferenceConfig"),
        }

    def _in_background(self, name: str, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            except ClosedError:
                return
            except Exception:
                if not self._cloud.closing.is_set():
                    log.exception("endpoint %s", name)
                    self.set(
                        name,
                        EndpointStatus="Failed",
                        FailureReason="InternalServerError: see the service's log",
                    )

        threading.Thread(target=run, name=f"endpoint {name}", daemon=True).start()

    def _create(self, name: str, tries: int = 1) -> None:
        endpoint = self.get(name)
        for attempt in range(1, tries + 1):
            try:
                fleet = self._fleets.start(name, endpoint["Region"], endpoint)
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
        self.set(name, EndpointStatus="InService", **described(endpoint))
        log.info("endpoint %s: InService", name)

    def _update(self, name: str, served: Document, deployment: Document, carried_out: Policy) -> None:
        started, region = time.time(), self.get(name)["Region"]
        try:
            green = self._fleets.start(name, region, served)
        except (ServerError, TransferError) as error:
            if not self._cloud.closing.is_set():
                self._undone(name, str(error))
            return

        def tell(status: str, message: str) -> None:
            self.set(name, PendingDeploymentSummary=pending(served, status, started, message))

        try:
            Deployment(self._cloud, self._router, carried_out, green, started).run(tell)
        except RollbackError as error:
            self._roll_back(name, green, str(error))
            return
        except ClosedError:
            raise
        except Exception:
            log.exception("endpoint %s", name)
            self._roll_back(name, green, "InternalServerError: see the service's log")
            return
        old = self._router.switch(name, green)
        if self._cloud.closing.wait(carried_out.termination_wait_s):
            return
        # Written before the old fleet is drained: from now on a restart is to bring back the new one.
        self.set(name, **served, **described(served), LastDeploymentConfig=deployment or None)
        end(old)
        self.set(name, EndpointStatus="InService", PendingDeploymentSummary=None)
        log.info("endpoint %s: InService on %s", name, served["EndpointConfigName"])

    def _roll_back(self, name: str, green: Fleet, reason: str) -> None:
        """All traffic to the old fleet at once, then end the new one."""
        blue = self._router.fleet(name)
        self._router.shift(name, green, Fraction(0))
        log.warning("endpoint %s: back to %s: %s", name, blue.config, reason)
        self.set(name, EndpointStatus="RollingBack", FailureReason=reason)
        if failure := never_up(blue, self._cloud.closing):
            # Both stay: the new one answers where the old one cannot.
            self.set(
                name,
                EndpointStatus="UpdateRollbackFailed",
                FailureReason=f"{reason} The rollback to {blue.config} failed: {failure}",
                PendingDeploymentSummary=None,
            )
            return
        self._router.switch(name, blue)
        end([green])
        self._undone(name, reason)

    def _undone(self, name: str, reason: str) -> None:
        log.warning("endpoint %s: the update was undone: %s", name, reason)
        self.set(name, EndpointStatus="InService", FailureReason=reason, PendingDeploymentSummary=None)

    def _delete(self, name: str) -> None:
        end(self._router.switch(name, None))
        self._fleets.clear(name)
        self.store.delete(self.kind, name)
        log.info("endpoint %s: deleted", name)

    def _scale(self, name: str, old: list[Document], plan: list[Document]) -> None:
        """Bring an endpoint in service to the plan's instance counts; it keeps the old ones when that fails."""
        fleet = self._router.fleet(name)
        surplus: list[ModelServer] = []
        started: list[ModelServer] = []
        try:
            for variant, serving in zip(plan, fleet.variants, strict=True):
                wanted = on_this_machine(variant)
                missing = wanted - len(serving.servers)
                more = self._fleets.start_servers(name, fleet.region, variant, missing, started)
                fleet = fleet.with_servers(serving.name, [*serving.servers[:wanted], *more])
                surplus += serving.servers[wanted:]
            wait_until_ready(started)
        except (ServerError, TransferError) as error:
            if not self._cloud.closing.is_set():
                log.warning("endpoint %s: it keeps its instances: %s", name, error)
                counts = {variant["VariantName"]: variant["InitialInstanceCount"] for variant in old}
                kept = [
                    {**variant, "InitialInstanceCount": counts[variant["VariantName"]]} for variant in plan
                ]
                changes: dict[str, Any] = {"Plan": kept, "ProductionVariants": summaries(kept)}
                self.set(name, EndpointStatus="InService", FailureReason=str(error), **changes)
            return
        self._router.switch(name, fleet)
        end_servers(surplus)
        self.set(name, EndpointStatus="InService", ProductionVariants=summaries(plan))


def _policy(deployment: Document, served: Document) -> Policy:
    """Raises ApiError."""
    return policy(deployment, min(int(variant["InitialInstanceCount"]) for variant in served["Plan"]))
