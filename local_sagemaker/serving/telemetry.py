"""What leaves the router by itself: metrics to CloudWatch, captured invocations to S3."""

import logging
import threading

from local_sagemaker.cloud import Cloud
from local_sagemaker.serving.router import Router

log = logging.getLogger(__name__)

EVERY_S = 5.0
"""CloudWatch keeps each value for two weeks; while an update watches alarms they are sent every second."""


class Telemetry:
    """One thread for all endpoints, so that no request waits for CloudWatch or S3."""

    def __init__(self, cloud: Cloud, router: Router) -> None:
        self._cloud = cloud
        self._router = router
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Send the rest, when the service is ending."""
        self._thread.join()
        self._send(final=True)

    def _run(self) -> None:
        while not self._cloud.closing.wait(EVERY_S):
            self._send()

    def _send(self, *, final: bool = False) -> None:
        try:
            self._router.metrics.send()
            for fleet in self._router.fleets():
                if fleet.capture:
                    fleet.capture.send(final=final)
        except Exception:
            # It must go on with the next.
            log.exception("telemetry")
