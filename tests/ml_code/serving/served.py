"""The server in a thread of this process: real HTTP without another import of torch."""

import http.client
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn

from serving.app import Endpoint
from serving.metrics import Metrics
from serving.service import Service
from serving.settings import Settings


class Served:
    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def __call__(self, body: bytes, content_type: str = "", accept: str = "") -> tuple[int, str, bytes]:
        """Status, content type and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("POST", "/invocations", body, {"Content-Type": content_type, "Accept": accept})
            response = connection.getresponse()
            return response.status, response.headers["content-type"], response.read()
        finally:
            connection.close()


@contextmanager
def served(settings: Settings) -> Generator[Served]:
    """Like serving.server, but for signals."""
    metrics = Metrics()
    service = Service(settings, metrics)
    app = Endpoint(service, settings, metrics).app()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield Served(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()
        service.close()
