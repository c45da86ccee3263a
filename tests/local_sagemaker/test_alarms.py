"""Alarms on the local CloudWatch, evaluated by AWS's rules."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest

from local_sagemaker.api.protocol import ApiError
from local_sagemaker.aws.client import Aws
from local_sagemaker.serving.alarms import Alarms, verdict
from tests.local_sagemaker.cloud_client import Cloud, unique

PERIOD = 10
REGION = "us-east-1"

# The tables of AWS's page on missing data, for 3 datapoints of 3 and for 2 of 3: the evaluation range, oldest first
# (0 within the threshold, X over it, - missing), and the state with missing, ignore, breaching and notBreaching.
TABLES = [
    (3, "0-X-X", "OK OK OK OK"),
    (3, "----0", "OK OK OK OK"),
    (3, "-----", "INSUFFICIENT_DATA Retain ALARM OK"),
    (3, "0XX-X", "ALARM ALARM ALARM ALARM"),
    (3, "--X--", "ALARM Retain ALARM OK"),
    (2, "0-X-X", "ALARM ALARM ALARM ALARM"),
    (2, "00X0X", "ALARM ALARM ALARM ALARM"),
    (2, "0-X--", "OK OK ALARM OK"),
    (2, "----0", "OK OK ALARM OK"),
    (2, "----X", "ALARM Retain ALARM OK"),
]


@pytest.mark.parametrize(("wanted", "points", "states"), TABLES)
def test_missing_data(wanted: int, points: str, states: str) -> None:
    breaching = [point == "X" for point in points if point != "-"]
    ways = ("missing", "ignore", "breaching", "notBreaching")
    found = [verdict(breaching, wanted, 3, missing) or "Retain" for missing in ways]
    assert found == states.split()


@pytest.fixture
def cloudwatch(cloud: Cloud) -> Iterator[Any]:
    with contextlib.closing(cloud.client("cloudwatch")) as client:
        yield client


@pytest.fixture
def alarms(cloud: Cloud) -> Alarms:
    return Alarms(Aws(cloud.address["aws"]), REGION)


def put(cloudwatch: Any, metric: str, ago: int, *values: float, of: str = "one") -> None:
    """Put values into the period that began so many periods before the running one."""
    begun = time.time() // PERIOD * PERIOD - ago * PERIOD
    dimensions = [{"Name": "Of", "Value": of}]
    datum = {"MetricName": metric, "Timestamp": begun, "Values": list(values), "Dimensions": dimensions}
    cloudwatch.put_metric_data(Namespace="Alarms", MetricData=[datum])


def create(cloudwatch: Any, metric: str, **changes: Any) -> str:
    name = unique("alarm")
    request = {
        "AlarmName": name,
        "Namespace": "Alarms",
        "MetricName": metric,
        "Dimensions": [{"Name": "Of", "Value": "one"}],
        "Statistic": "Average",
        "Period": PERIOD,
        "EvaluationPeriods": 1,
        "Threshold": 5,
        "ComparisonOperator": "GreaterThanThreshold",
        **changes,
    }
    if "ExtendedStatistic" in changes:
        del request["Statistic"]
    cloudwatch.put_metric_alarm(**request)
    return name


def early_in_a_period() -> None:
    """No period ends while a test looks."""
    if time.time() % PERIOD > PERIOD - 3:
        time.sleep(PERIOD - time.time() % PERIOD)


@pytest.mark.parametrize(
    ("changes", "data", "tripped"),
    [
        ({}, {1: [4, 8]}, True),
        ({}, {1: [4, 6]}, False),
        ({"ComparisonOperator": "GreaterThanOrEqualToThreshold"}, {1: [4, 6]}, True),
        ({"ComparisonOperator": "LessThanThreshold"}, {1: [4, 5]}, True),
        ({"ComparisonOperator": "LessThanOrEqualToThreshold"}, {1: [6]}, False),
        ({"Statistic": "Minimum"}, {1: [4, 8]}, False),
        ({"Statistic": "SampleCount"}, {1: [0] * 6}, True),
        ({"ExtendedStatistic": "p99"}, {1: [1] * 10 + [90]}, True),
        ({"ExtendedStatistic": "p50"}, {1: [1] * 10 + [90]}, False),
        ({"EvaluationPeriods": 3, "DatapointsToAlarm": 2}, {3: [9], 2: [1], 1: [9]}, True),
        ({"EvaluationPeriods": 3, "DatapointsToAlarm": 2}, {3: [9], 2: [1], 1: [1]}, False),
        # Before the newest three.
        ({"EvaluationPeriods": 3, "DatapointsToAlarm": 2}, {4: [9], 3: [9], 2: [1], 1: [1]}, False),
        # The running period may still come down, unless what is measured can only rise.
        ({}, {0: [9]}, False),
        ({"Statistic": "Sum"}, {0: [3, 3]}, True),
        ({"Statistic": "Sum", "ComparisonOperator": "LessThanThreshold"}, {0: [3]}, False),
    ],
)
def test_an_alarm_on_data(
    cloudwatch: Any, alarms: Alarms, changes: dict[str, Any], data: dict[int, list[float]], tripped: bool
) -> None:
    metric = unique("metric")
    name = create(cloudwatch, metric, **changes)
    early_in_a_period()
    for ago, values in data.items():
        put(cloudwatch, metric, ago, *values)
        # Of the same name, with other dimensions.
        put(cloudwatch, metric, ago, 100, 0, of="another")
    found = alarms.tripped([name], time.time() + 60)
    assert bool(found) == tripped, found
    state = cloudwatch.describe_alarms(AlarmNames=[name])["MetricAlarms"][0]["StateValue"]
    assert (state == "ALARM") == tripped


def test_a_state_that_somebody_has_set(cloudwatch: Any, alarms: Alarms) -> None:
    metric = unique("metric")
    name = create(cloudwatch, metric)
    before = time.time()
    cloudwatch.set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason="a drill")
    assert "a drill" in (alarms.tripped([name], before) or "")
    # The next data evaluates it anew, but it was set since.
    early_in_a_period()
    put(cloudwatch, metric, 1, 1)
    put(cloudwatch, metric, 0, 1)
    assert "a drill" in (alarms.tripped([name], before) or "")
    assert alarms.tripped([name], time.time() + 60) is None


def test_alarms_that_cannot_be_watched(cloud: Cloud, cloudwatch: Any, alarms: Alarms) -> None:
    name = create(cloudwatch, unique("metric"))
    alarms.check([name])
    with pytest.raises(ApiError, match=r"nothing .* does not exist"):
        alarms.check([name, "nothing"])
    # As AWS, each region has its own.
    with pytest.raises(ApiError, match="does not exist"):
        Alarms(Aws(cloud.address["aws"]), "eu-west-1").check([name])
    anomaly = unique("alarm")
    cloudwatch.put_metric_alarm(
        AlarmName=anomaly, EvaluationPeriods=1, ThresholdMetricId="band",
        ComparisonOperator="GreaterThanUpperThreshold",
        Metrics=[{"Id": "band", "Expression": "ANOMALY_DETECTION_BAND(m)"}],
    )  # fmt: skip
    with pytest.raises(ApiError, match="with a static threshold"):
        alarms.check([anomaly])
    cloudwatch.delete_alarms(AlarmNames=[name])
    assert alarms.tripped([name], time.time()) == f"The alarm {name} has been deleted"
