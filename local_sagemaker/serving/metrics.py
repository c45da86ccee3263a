"""Metrics of endpoints in CloudWatch, as AWS publishes them: added up in memory and sent every few seconds.

Each is there with the dimensions EndpointName and VariantName, and once more with EndpointConfigName: during an update
both fleets have the variant's name, and the third tells them apart.
"""

import logging
import math
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from local_sagemaker.api.protocol import Document
from local_sagemaker.aws.client import Aws, AwsError

log = logging.getLogger(__name__)

NAMESPACE = "AWS/SageMaker"
STEP = 1.05
"""Latencies are kept to within 2.5 %: few values take little memory in CloudWatch, and percentiles stay percentiles."""
MOST_VALUES = 150
"""Values in one datum, CloudWatch's limit."""


class Key(NamedTuple):
    """Whose invocations are counted together."""

    region: str
    endpoint: str
    variant: str
    config: str


@dataclass
class _Tally:
    """What one variant of one configuration has answered since the last time."""

    requests: int = 0
    client_errors: int = 0
    server_errors: int = 0
    model_errors: int = 0
    model_us: Counter[float] = field(default_factory=Counter)
    overhead_us: list[float] = field(default_factory=list)


class EndpointMetrics:
    """Counts invocations. Methods may be called from any thread."""

    def __init__(self, aws: Aws) -> None:
        self._aws = aws
        self._lock = threading.Lock()
        self._tallies: dict[Key, _Tally] = {}

    def add(self, key: Key, status: int, model_s: float, total_s: float) -> None:
        """Count one invocation: the status that the model answered (0: none), its seconds, and those of all."""
        with self._lock:
            tally = self._tallies.setdefault(key, _Tally())
            tally.requests += 1
            tally.client_errors += 400 <= status < 500
            tally.server_errors += status >= 500
            tally.model_errors += not 200 <= status < 300
            tally.model_us[_rounded(model_s * 1e6)] += 1
            tally.overhead_us.append(max(0.0, total_s - model_s) * 1e6)

    def send(self) -> None:
        """Send what was counted since the last time; what cannot be sent is logged and lost."""
        with self._lock:
            tallies, self._tallies = self._tallies, {}
        now = time.time()
        for key, tally in tallies.items():
            try:
                self._aws.call(
                    "GraniteServiceVersion20100801.PutMetricData",
                    region=key.region,
                    Namespace=NAMESPACE,
                    MetricData=_data(key, tally, now),
                )
            except AwsError as error:
                log.warning("metrics of %d requests were not sent to CloudWatch: %s", tally.requests, error)


def _rounded(value: float) -> float:
    return round(STEP ** round(math.log(max(value, 1.0), STEP)), 1)


def _data(key: Key, tally: _Tally, now: float) -> list[Document]:
    counts = {
        "Invocations": tally.requests,
        "Invocation4XXErrors": tally.client_errors,
        "Invocation5XXErrors": tally.server_errors,
        "InvocationModelErrors": tally.model_errors,
    }
    values: list[Document] = [
        {
            "MetricName": name,
            "Unit": "None",
            # Each request is a sample of 0 or 1: Sum is their number, Average their share.
            "StatisticValues": {
                "SampleCount": tally.requests,
                "Sum": count,
                "Minimum": int(count == tally.requests),
                "Maximum": int(count > 0),
            },
        }
        for name, count in counts.items()
    ]
    overhead = tally.overhead_us
    values.append(
        {
            "MetricName": "OverheadLatency",
            "Unit": "Microseconds",
            "StatisticValues": {
                "SampleCount": len(overhead),
                "Sum": sum(overhead),
                "Minimum": min(overhead),
                "Maximum": max(overhead),
            },
        }
    )
    latencies = sorted(tally.model_us.items())
    for start in range(0, len(latencies), MOST_VALUES):
        some = latencies[start : start + MOST_VALUES]
        values.append(
            {
                "MetricName": "ModelLatency",
                "Unit": "Microseconds",
                "Values": [value for value, _ in some],
                "Counts": [count for _, count in some],
            }
        )
    of_variant = [
        {"Name": "EndpointName", "Value": key.endpoint},
        {"Name": "VariantName", "Value": key.variant},
    ]
    of_config = [*of_variant, {"Name": "EndpointConfigName", "Value": key.config}]
    return [
        {**value, "Timestamp": now, "Dimensions": dimensions}
        for value in values
        for dimensions in (of_variant, of_config)
    ]
