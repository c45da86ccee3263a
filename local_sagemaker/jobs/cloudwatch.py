"""A training job's metrics in CloudWatch, where AWS puts them and the SDK's TrainingJobAnalytics looks for them."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from local_sagemaker.api.protocol import Document
from local_sagemaker.aws.client import Aws, AwsError
from local_sagemaker.jobs.metrics import MetricLog

log = logging.getLogger(__name__)

NAMESPACE = "/aws/sagemaker/TrainingJobs"
MOST_DATA = 1000
"""Values in one request."""


class MetricSender:
    """Follows the logs of one attempt at a job and sends what its metric definitions find in them.

    A failure to send is logged and tried again with the next values: it must not fail the job.
    """

    def __init__(self, aws: Aws, job: Document, logs: Sequence[Path]) -> None:
        definitions = job["AlgorithmSpecification"].get("MetricDefinitions", [])
        self._aws = aws
        self._dimensions = [{"Name": "TrainingJobName", "Value": job["TrainingJobName"]}]
        self._logs = [(item["Name"], MetricLog(file, item)) for item in definitions for file in logs]
        self._unsent: list[Document] = []
        for _, metric in self._logs:
            # What is there already is of an earlier attempt.
            metric.read(ended=True)

    def send(self, final: bool) -> None:
        """Send the values since the last call."""
        now = time.time()
        self._unsent += [
            {"MetricName": name, "Value": value, "Timestamp": now, "Dimensions": self._dimensions}
            for name, metric in self._logs
            for value in metric.read(ended=final)
        ]
        try:
            while self._unsent:
                self._aws.call(
                    "GraniteServiceVersion20100801.PutMetricData",
                    Namespace=NAMESPACE,
                    MetricData=self._unsent[:MOST_DATA],
                )
                del self._unsent[:MOST_DATA]
        except AwsError as error:
            log.warning("%d metrics were not sent to CloudWatch: %s", len(self._unsent), error)
