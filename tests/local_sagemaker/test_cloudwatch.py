"""Metrics of training jobs in CloudWatch."""

import contextlib
import datetime
from typing import Any

from tests.local_sagemaker.cloud_client import Cloud

SCRIPT = "print('loss=4'); print('loss=nan'); print('nothing'); print('loss=2', end='')"


def test_every_value_reaches_cloudwatch(cloud: Cloud) -> None:
    job = cloud.train(
        SCRIPT, ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 2, "VolumeSizeInGB": 1}
    )
    minute = datetime.timedelta(minutes=1)
    query: dict[str, Any] = {
        "Namespace": "/aws/sagemaker/TrainingJobs",
        "MetricName": "loss",
        "Dimensions": [{"Name": "TrainingJobName", "Value": job["TrainingJobName"]}],
        "StartTime": job["TrainingStartTime"] - minute,
        "EndTime": job["TrainingEndTime"] + minute,
        "Period": 3600,
        "Statistics": ["SampleCount", "Sum"],
    }
    with contextlib.closing(cloud.client("cloudwatch")) as client:
        points = client.get_metric_statistics(**query)["Datapoints"]
    # Of two hosts.
    totals = {key: sum(point[key] for point in points) for key in ("SampleCount", "Sum")}
    assert totals == {"SampleCount": 4, "Sum": 12}
