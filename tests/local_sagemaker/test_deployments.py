"""Updates that shift traffic, watch alarms and take it back, with servers that really serve."""

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from local_sagemaker.serving.policies import policy
from local_sagemaker.serving.sampling import Sampler
from tests.local_sagemaker.cloud_client import Cloud, Json, unique, wait


def canary(percent: int = 20, wait_s: int = 3, **members: Any) -> Json:
    size = {"Type": "CAPACITY_PERCENT", "Value": percent}
    routing = {"Type": "CANARY", "CanarySize": size, "WaitIntervalInSeconds": wait_s}
    return {"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing, **members}}


def linear(percent: int = 50, wait_s: int = 1) -> Json:
    size = {"Type": "CAPACITY_PERCENT", "Value": percent}
    routing = {"Type": "LINEAR", "LinearStepSize": size, "WaitIntervalInSeconds": wait_s}
    return {"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing}}


def rolling(percent: int = 50, wait_s: int = 1) -> Json:
    size = {"Type": "CAPACITY_PERCENT", "Value": percent}
    return {"RollingUpdatePolicy": {"MaximumBatchSize": size, "WaitIntervalInSeconds": wait_s}}


def all_at_once(wait_s: int = 3) -> Json:
    routing = {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": wait_s}
    return {"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing}}


def update(cloud: Cloud, endpoint: str, model: str, deployment: Json, *alarms: str) -> str:
    """Begin an update to a configuration with a model; the configuration's name."""
    config = cloud.config(model)
    if alarms:
        names = [{"AlarmName": alarm} for alarm in alarms]
        deployment = {**deployment, "AutoRollbackConfiguration": {"Alarms": names}}
    cloud.sagemaker.update_endpoint(
        EndpointName=endpoint, EndpointConfigName=config, DeploymentConfig=deployment
    )
    return config


def baking(cloud: Cloud, endpoint: str) -> Json:
    """Wait until traffic has been shifted; the pending variant's status."""

    def describe() -> Json:
        description = cloud.sagemaker.describe_endpoint(EndpointName=endpoint)
        assert description["EndpointStatus"] == "Updating", description
        status = description["PendingDeploymentSummary"]["ProductionVariants"][0]["VariantStatus"][0]
        return {**status, "busy": "" if status["Status"] == "Baking" else "Creating"}

    return wait(describe, "busy")


class Load:
    """Asks an endpoint again and again, and keeps every answer and error."""

    def __init__(self, cloud: Cloud, endpoint: str) -> None:
        self.answers: list[str] = []
        self.errors: list[str] = []
        self._ask = lambda: cloud.invoke(endpoint).split(":")[0]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            try:
                self.answers.append(self._ask())
            except ClientError as error:
                self.errors.append(str(error))

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def cloudwatch(cloud: Cloud) -> Iterator[Any]:
    with contextlib.closing(cloud.client("cloudwatch")) as client:
        yield client


def alarm(cloudwatch: Any, endpoint: str, metric: str = "Invocation5XXErrors", **changes: Any) -> str:
    """Create an alarm that more than none of a metric in 10 seconds sets off; its name."""
    name = unique("alarm")
    request = {
        "AlarmName": name,
        "Namespace": "AWS/SageMaker",
        "MetricName": metric,
        "Dimensions": dimensions(endpoint),
        "Statistic": "Sum",
        "Period": 10,
        "EvaluationPeriods": 1,
        "Threshold": 0,
        "ComparisonOperator": "GreaterThanThreshold",
        "TreatMissingData": "notBreaching",
        **changes,
    }
    cloudwatch.put_metric_alarm(**request)
    return name


def dimensions(endpoint: str, variant: str = "v1", config: str = "") -> list[Json]:
    known = {"EndpointName": endpoint, "VariantName": variant, "EndpointConfigName": config}
    return [{"Name": name, "Value": value} for name, value in known.items() if value]


def test_a_canary_gets_exactly_its_share(cloud: Cloud) -> None:
    endpoint = cloud.endpoint(cloud.model("old"))
    # It is not waited for: the shares of the first step are what counts here.
    config = update(cloud, endpoint, cloud.model("new"), canary(20, wait_s=60))
    assert baking(cloud, endpoint)["StatusMessage"].startswith("20% of the requests")
    # Also where the variant is named.
    for target in ({}, {"TargetVariant": "v1"}):
        answers = Counter(cloud.invoke(endpoint, **target).split(":")[0] for _ in range(50))
        assert answers == {"old": 40, "new": 10}
    before = cloud.sagemaker.describe_endpoint(EndpointName=endpoint)
    assert before["EndpointConfigName"] != config == before["PendingDeploymentSummary"]["EndpointConfigName"]


def test_steps_under_load_lose_no_request(cloud: Cloud) -> None:
    endpoint = cloud.endpoint(cloud.model("old"))
    with Load(cloud, endpoint) as load:
        config = update(cloud, endpoint, cloud.model("new"), rolling(50))
        after = cloud.endpoint_end(endpoint)
        served = len(load.answers)
        time.sleep(0.2)
    assert after["EndpointConfigName"] == config
    assert not load.errors
    assert set(load.answers) == {"old", "new"}
    assert set(load.answers[served + 1 :]) == {"new"}


def test_errors_of_the_new_model_take_the_traffic_back(cloud: Cloud, cloudwatch: Any) -> None:
    endpoint = cloud.endpoint(cloud.model("old"))
    before = cloud.sagemaker.describe_endpoint(EndpointName=endpoint)
    name = alarm(cloudwatch, endpoint)
    with Load(cloud, endpoint) as load:
        update(cloud, endpoint, cloud.model("faulty"), canary(20, wait_s=60), name)
        after = cloud.endpoint_end(endpoint)
        failed = len(load.errors)
        time.sleep(0.3)
    assert (after["EndpointStatus"], after["EndpointConfigName"]) == (
        "InService",
        before["EndpointConfigName"],
    )
    assert after["FailureReason"].startswith(
        f"Auto-rollback: The alarm {name} is in ALARM: Threshold Crossed:"
    )
    assert "PendingDeploymentSummary" not in after
    # At most the canary's share was touched, and none after the rollback.
    assert 0 < len(load.errors) == failed <= 0.2 * (len(load.answers) + failed)
    described = cloudwatch.describe_alarms(AlarmNames=[name])["MetricAlarms"][0]
    assert described["StateValue"] == "ALARM"
    # The reason stays until the next update, which is as free as any.
    update(cloud, endpoint, cloud.model("new"), all_at_once(0))
    assert "FailureReason" not in cloud.endpoint_end(endpoint)
    assert cloud.invoke(endpoint).startswith("new")


def test_an_alarm_on_the_new_fleet_alone(cloud: Cloud, cloudwatch: Any) -> None:
    endpoint, other = cloud.endpoint(cloud.model("old")), cloud.endpoint(cloud.model("faulty"))
    config = cloud.config(cloud.model("new"))
    names = [
        alarm(cloudwatch, endpoint, "Invocation4XXErrors", Dimensions=dimensions(endpoint, config=config)),
        alarm(cloudwatch, endpoint),
    ]
    alarms = {"Alarms": [{"AlarmName": name} for name in names]}
    # Errors of the old fleet, and of another endpoint.
    with pytest.raises(ClientError, match="not an image"):
        cloud.invoke(endpoint, b"bad")
    with pytest.raises(ClientError, match="a fault"):
        cloud.invoke(other)
    deployment = {**canary(10, wait_s=1), "AutoRollbackConfiguration": alarms}
    cloud.sagemaker.update_endpoint(
        EndpointName=endpoint,
        EndpointConfigName=config,
        DeploymentConfig=deployment,
    )
    after = cloud.endpoint_end(endpoint)
    assert (after.get("FailureReason"), after["EndpointConfigName"]) == (None, config)
    assert after["LastDeploymentConfig"] == deployment
    assert {cloud.invoke(endpoint).split(":")[0] for _ in range(10)} == {"new"}


@pytest.mark.parametrize("way", ["metric", "state"])
def test_any_alarm_takes_the_traffic_back(cloud: Cloud, cloudwatch: Any, way: str) -> None:
    endpoint = cloud.endpoint(cloud.model("old"))
    changes = {"Namespace": "Evergreen", "Dimensions": [{"Name": "Endpoint", "Value": endpoint}]}
    name = alarm(cloudwatch, endpoint, "InvalidAnswers", **changes)
    update(cloud, endpoint, cloud.model("new"), all_at_once(60), name)
    baking(cloud, endpoint)
    assert cloud.invoke(endpoint).startswith("new")
    started = time.monotonic()
    if way == "metric":
        datum = {"MetricName": "InvalidAnswers", "Value": 1, "Dimensions": changes["Dimensions"]}
        cloudwatch.put_metric_data(Namespace="Evergreen", MetricData=[datum])
    else:
        cloudwatch.set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason="no good")
    after = cloud.endpoint_end(endpoint)
    assert time.monotonic() - started < 30
    assert f"The alarm {name} is in ALARM: " in after["FailureReason"]
    assert cloud.invoke(endpoint).startswith("old")


@pytest.mark.parametrize(
    ("model", "sentence"), [("mortal", "a model server of the new fleet ended"), ("mute", "3 pings in a row")]
)
def test_a_new_server_that_fails_while_baking(cloud: Cloud, model: str, sentence: str) -> None:
    endpoint = cloud.endpoint(cloud.model("old"))
    update(cloud, endpoint, cloud.model(model), canary(50, wait_s=60))
    baking(cloud, endpoint)
    for _ in range(2):
        with contextlib.suppress(ClientError):
            cloud.invoke(endpoint)
    after = cloud.endpoint_end(endpoint)
    assert after["EndpointStatus"] == "InService"
    assert sentence in after["FailureReason"]
    assert {cloud.invoke(endpoint).split(":")[0] for _ in range(4)} == {"old"}


def test_a_rollback_to_servers_that_do_not_start_again(cloud: Cloud, cloudwatch: Any) -> None:
    endpoint = cloud.endpoint(cloud.model("old"))
    (answer,) = (cloud.state / "endpoints" / endpoint).rglob("answer.txt")
    name = alarm(cloudwatch, endpoint)
    update(cloud, endpoint, cloud.model("new"), canary(20, wait_s=60), name)
    baking(cloud, endpoint)
    answer.unlink()
    kill_server_of(answer)
    cloudwatch.set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason="no good")
    after = cloud.endpoint_end(endpoint)
    assert after["EndpointStatus"] == "UpdateRollbackFailed"
    assert "The rollback to config-" in after["FailureReason"]
    # What is left answers.
    assert cloud.invoke(endpoint).startswith("new")
    config = update(cloud, endpoint, cloud.model("newer"), all_at_once(0))
    after = cloud.endpoint_end(endpoint)
    assert (after["EndpointStatus"], after["EndpointConfigName"]) == ("InService", config)
    assert cloud.invoke(endpoint).startswith("newer")
    assert len(processes_below(cloud.state / "endpoints" / endpoint)) == 1


def kill_server_of(file: Path) -> None:
    """Kill the process whose model folder a file is in."""
    found = processes_below(file.parents[2])
    assert found
    for pid in found:
        os.kill(pid, signal.SIGKILL)


def processes_below(folder: Path) -> list[int]:
    """Servers whose files are in a folder."""
    home = str(folder)
    return [
        process.pid
        for process in psutil.process_iter()
        if home in (read(process, "environ") or {}).get("HOME", "")
    ]


def read(process: psutil.Process, what: str) -> Any:
    try:
        return getattr(process, what)()
    except psutil.Error:
        return None


def test_a_killed_service_comes_back_with_what_served_before(tmp_path: Path) -> None:
    first = Cloud(tmp_path / "state")
    endpoint = first.endpoint(first.model("old"))
    before = first.sagemaker.describe_endpoint(EndpointName=endpoint)["EndpointConfigName"]
    update(first, endpoint, first.model("new"), canary(50, wait_s=60))
    baking(first, endpoint)
    first.end(signal.SIGKILL)
    second = Cloud(tmp_path / "state")
    after = second.endpoint_end(endpoint)
    assert (after["EndpointStatus"], after["EndpointConfigName"]) == ("InService", before)
    assert "ended while this was in progress" in after["FailureReason"]
    assert {second.invoke(endpoint).split(":")[0] for _ in range(4)} == {"old"}
    second.end()


ONE, TEN = {"Type": "INSTANCE_COUNT", "Value": 1}, {"Type": "CAPACITY_PERCENT", "Value": 10}
LIMIT = "MaximumExecutionTimeoutInSeconds"


def routed(kind: str, **members: Any) -> Json:
    return {"TrafficRoutingConfiguration": {"Type": kind, "WaitIntervalInSeconds": 0, **members}}


@pytest.mark.parametrize(
    ("deployment", "instances", "shares"),
    [
        ({}, 1, [1]),
        (all_at_once(), 1, [1]),
        (canary(10), 1, [0.1, 1]),
        ({"BlueGreenUpdatePolicy": routed("CANARY", CanarySize=ONE)}, 4, [0.25, 1]),
        (linear(50), 1, [0.5, 1]),
        (linear(30), 1, [0.3, 0.6, 0.9, 1]),
        (rolling(40), 1, [0.4, 0.8, 1]),
        ({"RollingUpdatePolicy": {"MaximumBatchSize": ONE, "WaitIntervalInSeconds": 0}}, 3, [1 / 3, 2 / 3, 1]),
    ],
)  # fmt: skip
def test_the_steps_of_policies(deployment: Json, instances: int, shares: list[float]) -> None:
    assert [float(share) for share in policy(deployment, instances).shares] == pytest.approx(shares)


@given(st.fractions(0, 1), st.integers(1, 300))
def test_a_share_is_taken_evenly_and_never_exceeded(share: Fraction, count: int) -> None:
    sampler = Sampler(share)
    taken = 0
    for number in range(1, count + 1):
        taken += sampler.take()
        assert taken == int(number * share)


@pytest.mark.parametrize(
    ("deployment", "sentence"),
    [
        ({"BlueGreenUpdatePolicy": routed("CANARY")}, "needs a CanarySize"),
        ({"BlueGreenUpdatePolicy": routed("CANARY", CanarySize=TEN, LinearStepSize=TEN)}, "takes no LinearStepSize"),
        ({"BlueGreenUpdatePolicy": routed("CANARY", CanarySize=ONE)}, "CanarySize INSTANCE_COUNT 1 of 1 .*at most 50%"),
        ({"BlueGreenUpdatePolicy": routed("LINEAR", LinearStepSize={**TEN, "Value": 5})}, "from 10% to 50%"),
        ({"RollingUpdatePolicy": {"MaximumBatchSize": {**TEN, "Value": 60}, "WaitIntervalInSeconds": 0}}, "5% to 50%"),
        ({**canary(), **rolling()}, "give one"),
        (canary(wait_s=300, **{LIMIT: 600}), "not above the 600 seconds that the deployment waits"),
        ({**canary(), "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": "none"}]}}, "alarm none .*does not exist"),
    ],
)  # fmt: skip
def test_policies_that_are_refused(cloud: Cloud, deployment: Json, sentence: str) -> None:
    if not _KEPT:
        _KEPT.extend([cloud.endpoint(cloud.model("kept")), cloud.config(cloud.model("other"))])
    endpoint, config = _KEPT
    with pytest.raises(ClientError, match=sentence):
        cloud.sagemaker.update_endpoint(
            EndpointName=endpoint, EndpointConfigName=config, DeploymentConfig=deployment
        )
    assert cloud.sagemaker.describe_endpoint(EndpointName=endpoint)["EndpointStatus"] == "InService"


_KEPT: list[str] = []
