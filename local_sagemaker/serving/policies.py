"""DeploymentConfig: how an update moves traffic to the new fleet, and what takes it back.

https://docs.aws.amazon.com/sagemaker/latest/dg/deployment-guardrails.html
"""

from dataclasses import dataclass
from fractions import Fraction

from local_sagemaker.api.protocol import Document, invalid

HALF = Fraction(1, 2)
# Bounds of each batch, as shares of a variant's instances.
CANARY = (Fraction(0), HALF)
LINEAR = (Fraction(1, 10), HALF)
ROLLING = (Fraction(1, 20), HALF)


@dataclass(frozen=True)
class Policy:
    """A DeploymentConfig as it is carried out."""

    shares: tuple[Fraction, ...]
    """Of the requests to the new fleet, step by step; the last is 1."""
    wait_s: float
    """Between two steps and after the last, while alarms are watched."""
    termination_wait_s: float
    """Before the old fleet is ended."""
    limit_s: float | None
    alarms: tuple[str, ...]


def policy(deployment: Document, instances: int) -> Policy:
    """A DeploymentConfig for a fleet whose smallest variant has so many instances. Raises ApiError."""
    blue_green, rolling = deployment.get("BlueGreenUpdatePolicy"), deployment.get("RollingUpdatePolicy")
    if blue_green and rolling:
        raise invalid("DeploymentConfig has a BlueGreenUpdatePolicy and a RollingUpdatePolicy; give one")
    chosen: Document = blue_green or rolling or {}
    routing = chosen.get("TrafficRoutingConfiguration", chosen)
    shares = _shares(routing, instances)
    wait_s = routing.get("WaitIntervalInSeconds", 0)
    termination_wait_s = chosen.get("TerminationWaitInSeconds", 0)
    limit_s = chosen.get("MaximumExecutionTimeoutInSeconds")
    waits = len(shares) * wait_s + termination_wait_s
    if limit_s is not None and limit_s <= waits:
        raise invalid(
            f"MaximumExecutionTimeoutInSeconds {limit_s} is not above the {waits} seconds that the deployment waits"
        )
    alarms = deployment.get("AutoRollbackConfiguration", {}).get("Alarms", [])
    return Policy(shares, wait_s, termination_wait_s, limit_s, tuple(alarm["AlarmName"] for alarm in alarms))


def _shares(routing: Document, instances: int) -> tuple[Fraction, ...]:
    """The steps of a TrafficRoutingConfiguration or a RollingUpdatePolicy. Raises ApiError."""
    kind = routing.get("Type", "ROLLING" if "MaximumBatchSize" in routing else "ALL_AT_ONCE")
    needs = {"CANARY": "CanarySize", "LINEAR": "LinearStepSize", "ROLLING": "MaximumBatchSize"}.get(kind)
    for member in {"CanarySize", "LinearStepSize"} - {needs}:
        if member in routing:
            raise invalid(f"TrafficRoutingConfiguration of Type {kind} takes no {member}")
    if needs is None:
        return (Fraction(1),)
    if needs not in routing:
        raise invalid(f"TrafficRoutingConfiguration of Type {kind} needs a {needs}")
    least, most = {"CANARY": CANARY, "LINEAR": LINEAR, "ROLLING": ROLLING}[kind]
    size = _share(needs, routing[needs], instances, least, most)
    if kind == "CANARY":
        return size, Fraction(1)
    return (*(step * size for step in range(1, -(-1 // size))), Fraction(1))


def _share(member: str, size: Document, instances: int, least: Fraction, most: Fraction) -> Fraction:
    """A CapacitySize as a share. Raises ApiError."""
    whole = 100 if size["Type"] == "CAPACITY_PERCENT" else instances
    share = Fraction(size["Value"], max(1, whole))
    if not least <= share <= most:
        bounds = (
            f"at most {float(most):.0%}" if not least else f"from {float(least):.0%} to {float(most):.0%}"
        )
        of = "" if whole == 100 else f" of {instances}"
        raise invalid(
            f"{member} {size['Type']} {size['Value']}{of} has to be {bounds} of the variant's instance count"
        )
    return share
