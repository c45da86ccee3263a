"""What GET /metrics shows, in Prometheus's text format."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_IMAGES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    def __init__(self) -> None:
        # A registry of its own: the client's default one is global, and a process may hold two servers.
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "serving_requests",
            "Requests to /invocations, by the status answered",
            ["status"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "serving_request_seconds",
            "From a request's headers to its answer",
            buckets=_SECONDS,
            registry=registry,
        )
        self.in_progress = Gauge(
            "serving_requests_in_progress", "Requests accepted and not answered yet", registry=registry
        )
        self.images = Counter("serving_images", "Images answered", registry=registry)
        self.batch_images = Histogram(
            "serving_batch_images", "Images of a forward pass", buckets=_IMAGES, registry=registry
        )
        stages = Histogram(
            "serving_stage_seconds", "Of an image, by stage", ["stage"], buckets=_SECONDS, registry=registry
        )
        self.stages = {name: stages.labels(name) for name in ("queue", "decode", "forward")}
        self._info = Gauge(
            "serving_info",
            "1 for what is served and what computes it",
            ["model_version", "backend"],
            registry=registry,
        )
        self._backend_ms = Gauge(
            "serving_backend_milliseconds",
            "Processor time an image, measured at start",
            ["backend"],
            registry=registry,
        )

    def observe(self, timings_ms: dict[str, float]) -> None:
        """One image's stages."""
        self.images.inc()
        for name, ms in timings_ms.items():
            self.stages[name].observe(ms / 1000)

    def serves(self, model_version: str, backend: str, ms: dict[str, float]) -> None:
        """:param ms: of each backend that was measured."""
        self._info.labels(model_version, backend).set(1)
        for name, value in ms.items():
            self._backend_ms.labels(name).set(value)

    def text(self) -> bytes:
        return generate_latest(self._registry)
