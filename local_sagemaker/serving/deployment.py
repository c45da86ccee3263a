"""Carrying out an update: traffic is shifted step by step to a new fleet, watched, and taken back on any doubt."""

import logging
import time
from collections.abc import Callable

from local_sagemaker.aws.client import AwsError
from local_sagemaker.cloud import ClosedError, Cloud
from local_sagemaker.serving.alarms import Alarms
from local_sagemaker.serving.fleet import Fleet
from local_sagemaker.serving.policies import Policy
from local_sagemaker.serving.router import Router
from local_sagemaker.serving.servers import answers_ping

log = logging.getLogger(__name__)

POLL_S = 1.0
PINGS, PING_LIMIT_S = 3, 1.0
"""How many /ping in a row a new server may leave unanswered, and for how long: one that is busy may miss one."""


class RollbackError(Exception):
    """The new fleet is not to serve; the sentence is fit for FailureReason."""


class Deployment:
    """One update of one endpoint, whose new fleet is up."""

    def __init__(self, cloud: Cloud, router: Router, policy: Policy, green: Fleet, started: float) -> None:
        """`started` is when the update began, in epoch seconds."""
        self._cloud = cloud
        self._router = router
        self._policy = policy
        self._green = green
        self._started = started
        self._alarms = Alarms(cloud.aws, green.region)
        self._servers = [server for variant in green.variants for server in variant.servers]
        self._unanswered = 0

    def run(self, tell: Callable[[str, str], None]) -> None:
        """Shift the traffic; at the end the new fleet has all of it.

        `tell` is called with each VariantStatus and its message. Raises RollbackError when the traffic is to go back,
        and ClosedError when the service is ending.
        """
        for share in self._policy.shares:
            # Before too: what is in ALARM already would take back what is shifted now.
            self._look()
            tell("ActivatingTraffic", f"{float(share):.0%} of the requests go to the new fleet")
            self._router.shift(self._green.endpoint, self._green, share)
            tell(
                "Baking", f"{float(share):.0%} of the requests have gone to the new fleet; alarms are watched"
            )
            self._bake()

    def _bake(self) -> None:
        end = time.monotonic() + self._policy.wait_s
        while True:
            left = end - time.monotonic()
            if self._cloud.closing.wait(min(POLL_S, max(0.0, left))):
                raise ClosedError
            self._look()
            if left <= POLL_S:
                return

    def _look(self) -> None:
        """Raises RollbackError."""
        limit = self._policy.limit_s
        if limit is not None and time.time() - self._started > limit:
            raise RollbackError(
                f"The deployment took longer than MaximumExecutionTimeoutInSeconds ({limit:g} s)"
            )
        for server in self._servers:
            if server.ended:
                raise RollbackError(server.failure("a model server of the new fleet ended"))
        self._ping()
        # So that what has just failed counts now.
        self._router.metrics.send()
        try:
            tripped = self._alarms.tripped(self._policy.alarms, self._started)
        except AwsError as error:
            # What cannot be watched must not go on.
            raise RollbackError(f"The alarms cannot be read: {error}") from error
        if tripped:
            raise RollbackError(f"Auto-rollback: {tripped}")

    def _ping(self) -> None:
        silent = [server for server in self._servers if not answers_ping(server.port, PING_LIMIT_S)]
        self._unanswered = self._unanswered + 1 if silent else 0
        if self._unanswered >= PINGS:
            raise RollbackError(silent[0].failure(f"a model server left {PINGS} pings in a row unanswered"))
