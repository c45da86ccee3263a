"""Serves a model archive over HTTP, as a SageMaker container does.

    SM_MODEL_DIR=var/model SAGEMAKER_BIND_TO_PORT=8080 python -m serving.server

POST /invocations takes an image or many (data/bodies.py) and answers in JSON, JSON lines or CSV
(model/prediction.py). GET /ping, /metrics (Prometheus) and /execution-parameters. The port opens once the model is
loaded, its backend chosen and warmed up: about 5 s for a ResNet18, 3 s of them the import of torch. After SIGTERM
/ping answers 503 and new requests are taken for SERVING_DRAIN_S more; then the port closes, what was accepted is
answered, and the process ends.

| variable | default | |
|---|---|---|
| SM_MODEL_DIR | $SAGEMAKER_BASE_DIR/model, and SAGEMAKER_BASE_DIR is /opt/ml | the unpacked model archive |
| SAGEMAKER_PROGRAM | inference.py | in SAGEMAKER_SUBMIT_DIRECTORY, or beside this package |
| SAGEMAKER_SUBMIT_DIRECTORY | $SM_MODEL_DIR/code | |
| SAGEMAKER_BIND_TO_PORT | 8080 | |
| SAGEMAKER_BIND_HOST | 127.0.0.1 | a container that others call needs 0.0.0.0 |
| SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT | application/json | for callers who accept anything |
| SAGEMAKER_CONTAINER_LOG_LEVEL | 20 | as Python's logging counts: 10 is DEBUG, 20 INFO |
| OMP_NUM_THREADS | the processors that the process may use | threads of all forward passes together |
| SERVING_BACKENDS | int8,onnxruntime,openvino,eager | the fastest of these is used (backends.py) |
| SERVING_MAX_BATCH | 8 | images of one forward pass |
| SERVING_MAX_WAITING | 128 | requests accepted and not answered; more get 503 and Retry-After |
| SERVING_MAX_BODY_MB | 25 | SageMaker's own limit for a request |
| SERVING_BODY_TIMEOUT_S | 30 | for a body to arrive |
| SERVING_DRAIN_S | 0.5 | |
| SERVING_LOG_FORMAT | text | json: an object a line, and one for each request: id, status, time, model version |
"""

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from types import FrameType

import uvicorn

from serving import logs
from serving.app import Endpoint
from serving.metrics import Metrics
from serving.service import Service
from serving.settings import Settings

SHUTDOWN_S = 30
# Longer than a load balancer keeps a connection, so that it is never the server who closes one just as it is used.
KEEP_ALIVE_S = 75


class Server(uvicorn.Server):
    """uvicorn's, which closes the port at once: whoever routes by /ping has not looked by then."""

    def __init__(self, config: uvicorn.Config, endpoint: Endpoint, drain_s: float) -> None:
        super().__init__(config)
        self._endpoint, self._drain_s = endpoint, drain_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._endpoint.draining:
            super().handle_exit(sig, frame)
            return
        self._endpoint.draining = True
        loop = asyncio.get_running_loop()
        loop.call_soon_threadsafe(loop.call_later, self._drain_s, super().handle_exit, sig, frame)


def main(argv: Sequence[str]) -> None:
    """:param argv: nothing, or `serve`, with which SageMaker starts an endpoint's container."""
    if [*argv] not in ([], ["serve"]):
        sys.exit(
            f"serving.server: the argument is serve or none, not {' '.join(argv)}; the rest is environment variables"
        )
    level = int(os.environ.get("SAGEMAKER_CONTAINER_LOG_LEVEL") or logging.INFO)
    settings, metrics = Settings.from_environment(), Metrics()
    logs.configure(level, settings.log_format)
    # Before the port opens: a process that cannot load its model must end, not answer 503 for ever.
    service = Service(settings, metrics)
    endpoint = Endpoint(service, settings, metrics)
    config = uvicorn.Config(
        endpoint.app(), host=settings.host, port=settings.port, log_config=None, access_log=False,
        timeout_graceful_shutdown=SHUTDOWN_S, timeout_keep_alive=KEEP_ALIVE_S,
    )  # fmt: skip
    logging.info("serving %s on port %d by %s", settings.model_dir, settings.port, service.backend)
    try:
        Server(config, endpoint, settings.drain_s).run()
    finally:
        service.close()


if __name__ == "__main__":
    main(sys.argv[1:])
