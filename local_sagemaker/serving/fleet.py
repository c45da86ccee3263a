"""What serves an endpoint: variants with their servers, and during an update two fleets of them."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction

from local_sagemaker.api.protocol import ApiError
from local_sagemaker.serving.capture import Capture
from local_sagemaker.serving.metrics import Key
from local_sagemaker.serving.sampling import Sampler
from local_sagemaker.serving.servers import ModelServer


@dataclass(frozen=True)
class Variant:
    """One production or shadow variant with its servers."""

    name: str
    weight: float
    servers: tuple[ModelServer, ...]

    def least_busy(self) -> ModelServer | None:
        """None when no server is up."""
        ready = [server for server in self.servers if server.ready.is_set()]
        return min(ready, key=lambda server: server.in_flight, default=None)


@dataclass(frozen=True)
class Shadow:
    """A variant that gets copies of requests, and the share of them that it gets."""

    variant: Variant
    sampler: Sampler


@dataclass(frozen=True)
class Fleet:
    """What serves one configuration of an endpoint. An update makes a new one."""

    endpoint: str
    region: str
    config: str
    variants: tuple[Variant, ...]
    shadow: Shadow | None = None
    asynchronous: bool = False
    capture: Capture | None = None

    def servers(self) -> list[ModelServer]:
        variants = (*self.variants, self.shadow.variant) if self.shadow else self.variants
        return [server for variant in variants for server in variant.servers]

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

    def key(self, variant: Variant) -> Key:
        return Key(self.region, self.endpoint, variant.name, self.config)

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


@dataclass
class Route:
    """The fleet of an endpoint and, while an update shifts traffic, the new one with its share of the requests."""

    fleet: Fleet
    green: Fleet | None = None
    sampler: Sampler = field(default_factory=lambda: Sampler(Fraction(0)))
    left: tuple[Fleet, ...] = ()
    """Of updates whose rollback failed: these may stand in."""

    def shift(self, green: Fleet, share: Fraction) -> None:
        """Send a share of the requests to a second fleet."""
        if self.green and self.green is not green:
            self.left += (self.green,)
        self.green, self.sampler = green, Sampler(share)

    def fleets(self) -> list[Fleet]:
        return [self.fleet, *([self.green] if self.green else []), *self.left]

    def order(self) -> list[Fleet]:
        """Whose turn it is, and who may stand in."""
        if self.green and self.sampler.take():
            return [self.green, self.fleet, *self.left]
        return self.fleets()


@dataclass(frozen=True)
class Chosen:
    """Where one request goes."""

    fleet: Fleet
    variant: Variant
    server: ModelServer

    @property
    def key(self) -> Key:
        return self.fleet.key(self.variant)


def choose(fleets: Iterable[Fleet], target: str | None) -> Chosen:
    """A server of the first fleet that has one. Raises ApiError, the first fleet's, when none has."""
    failures = []
    for fleet in fleets:
        try:
            variant = fleet.choose(target)
        except ApiError as error:
            failures.append(error)
            continue
        if server := variant.least_busy():
            return Chosen(fleet, variant, server)
        message = f"No server of variant {variant.name} is up; it is being started again"
        failures.append(ApiError("ServiceUnavailable", message, 503))
    raise failures[0]
