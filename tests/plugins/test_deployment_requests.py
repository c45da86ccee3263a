"""What is sent to deploy a model: botocore accepts it, and it says what the pipeline file says."""

from typing import Any

import pytest

from evergreen import alarms
from evergreen import deployment_requests as requests
from evergreen.settings import SettingsError, validate
from tests.plugins.test_requests import CHAMPION, plan, valid

ASSESSMENT = {
    "accuracy": 0.97,
    "model_version": "digits-retrain-1-abc",
    "verdict": {"decision": "promote", "reasons": ["Good.", "Better."]},
}
POLICIES: list[dict[str, Any]] = [
    {},
    {"policy": "all_at_once", "wait_interval_in_seconds": 0, "termination_wait_in_seconds": 60},
    {"policy": "canary", "canary_size": {"type": "INSTANCE_COUNT", "value": 1}, "instance_count": 3},
    {"policy": "linear", "maximum_execution_timeout_in_seconds": 1200},
    {"policy": "rolling", "rollback_maximum_batch_size": {"value": 100}},
]


@pytest.mark.parametrize("deployment", POLICIES)
def test_botocore_accepts_every_update(deployment: dict[str, Any]) -> None:
    built = plan(deployment=deployment)
    valid("UpdateEndpoint", requests.update_endpoint(built, "c", ["one", "two"]))
    valid("CreateEndpoint", requests.create_endpoint(built, "c"))
    assert "DeploymentConfig" not in requests.create_endpoint(built, "c")
    for alarm in alarms.build(built, "c"):
        valid("PutMetricAlarm", alarm, "cloudwatch")


def test_the_serving_containers_variables_are_the_pipelines() -> None:
    built = plan(deployment={"environment": {"SERVING_LOG_FORMAT": "json"}})
    request = requests.model(built, "s3://b/m.tar.gz")
    valid("CreateModel", {"ModelName": "n"} | request)
    environment = request["PrimaryContainer"]["Environment"]
    assert environment.keys() - requests.container(plan(), "x")["Environment"].keys() == {
        "SERVING_LOG_FORMAT"
    }
    assert environment["SERVING_LOG_FORMAT"] == "json"


def test_botocore_accepts_the_rest() -> None:
    capture = {"data_capture": {"initial_sampling_percentage": 20}}
    valid("CreateModel", {"ModelName": "n"} | requests.model(plan(), "s3://b/m.tar.gz"))
    for deployment in ({}, capture):
        built = plan(deployment=deployment)
        valid(
            "CreateEndpointConfig",
            {"EndpointConfigName": "n"} | requests.endpoint_config(built, "m", CHAMPION),
        )
    valid(
        "CreateModelPackage", requests.model_package(plan(), "s3://b/m.tar.gz", ASSESSMENT, "s3://b/a.json")
    )
    for transform in ({}, {"split_type": "Line", "batch_strategy": "SingleRecord"}):
        source = {"S3DataType": "S3Prefix", "S3Uri": "s3://b/x"}
        built = plan(deployment={"transform": transform})
        valid("CreateTransformJob", {"TransformJobName": "n"} | requests.batch_predict(built, "m", source))


def policy(**deployment: Any) -> dict[str, Any]:
    config = requests.update_endpoint(plan(deployment=deployment), "c", [])["DeploymentConfig"]
    assert len(config) == 1
    return dict(next(iter(config.values())))


def test_each_policy_is_passed_on_as_it_is_written() -> None:
    size = {"Type": "CAPACITY_PERCENT", "Value": 20}
    assert policy(canary_size={"value": 20}, wait_interval_in_seconds=7, termination_wait_in_seconds=8) == {
        "TrafficRoutingConfiguration": {"Type": "CANARY", "WaitIntervalInSeconds": 7, "CanarySize": size},
        "TerminationWaitInSeconds": 8,
    }
    assert policy(policy="linear", linear_step_size={"value": 20}, wait_interval_in_seconds=7) == {
        "TrafficRoutingConfiguration": {"Type": "LINEAR", "WaitIntervalInSeconds": 7, "LinearStepSize": size},
        "TerminationWaitInSeconds": 0,
    }
    assert policy(policy="all_at_once") == {
        "TrafficRoutingConfiguration": {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 120},
        "TerminationWaitInSeconds": 0,
    }
    assert policy(policy="rolling", maximum_batch_size={"value": 20}, wait_interval_in_seconds=7) == {
        "MaximumBatchSize": size,
        "WaitIntervalInSeconds": 7,
    }


@pytest.mark.parametrize(
    ("deployment", "words"),
    [
        ({"canary_size": {"value": 51}}, "canary_size is 51 % of 1 instances, not the 0 to 50 %"),
        ({"canary_size": {"type": "INSTANCE_COUNT", "value": 1}}, "canary_size is 100 %"),
        ({"policy": "linear", "linear_step_size": {"value": 9}}, "not the 10 to 50 %"),
        ({"policy": "rolling", "maximum_batch_size": {"value": 4}}, "not the 5 to 50 %"),
        ({"policy": "all_at_the_same_time"}, "'canary'"),
        ({"wait_interval_in_seconds": 3601}, "less than or equal to 3600"),
        ({"maximum_execution_timeout_in_seconds": 599}, "greater than or equal to 600"),
        (
            {"wait_interval_in_seconds": 300, "maximum_execution_timeout_in_seconds": 600},
            "not above the 600 s that the update waits",
        ),
        (
            {"alarms": {"invocation_5xx_errors": None, "model_latency_ms": None, "invalid_answers": None}},
            "policy canary has nothing to wait for without an alarm",
        ),
        ({"alarms": {"names": [f"a{n}" for n in range(8)]}}, "11 alarms are more than the 10"),
        ({"alarms": {"invocation_5xx_errors": 1}}, "less than 1"),
        ({"data_capture": {"initial_sampling_percentage": 101}}, "less than or equal to 100"),
        ({"transform": {"max_payload_in_mb": 50}}, "is 200, and SageMaker takes 100 at most"),
        ({"transform": {"split_type": "Line", "join_source": "None"}}, "without their files"),
        ({"transform": {"split_type": "RecordIO"}}, "'Line'"),
    ],
)
def test_what_sagemaker_would_refuse_is_refused_when_the_file_is_read(
    deployment: dict[str, Any], words: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        validate({"dataset": {"source": "x"}, "deployment": deployment}, "x.yaml")
    assert str(refused.value).startswith("x.yaml: deployment")
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_alarms_watch_the_new_fleet_alone() -> None:
    built = plan(deployment={"alarms": {"model_latency_ms": 80, "invalid_answers": 3}})
    by_metric = {alarm["MetricName"]: alarm for alarm in alarms.build(built, "new")}
    assert set(by_metric) == {"Invocation5XXErrors", "ModelLatency", "InvalidAnswers"}
    for alarm in by_metric.values():
        assert {"Name": "EndpointConfigName", "Value": "new"} in alarm["Dimensions"]
        assert alarm["AlarmName"].startswith(built.endpoint_name)
        assert alarm["TreatMissingData"] == "notBreaching"
    assert by_metric["ModelLatency"]["Threshold"] == 80_000
    assert by_metric["InvalidAnswers"]["Threshold"] == 2
    # SageMaker's own metrics have no data oftener on AWS.
    assert [alarm["Period"] for alarm in by_metric.values()] == [60, 60, 10]
    local = alarms.build(built.model_copy(update={"local": True}), "new")
    assert {alarm["Period"] for alarm in local} == {10}


def test_a_package_waits_for_its_approval_and_says_which_model_it_is() -> None:
    package = requests.model_package(plan(), "s3://b/m.tar.gz", ASSESSMENT, None)
    assert package["ModelApprovalStatus"] == "PendingManualApproval"
    assert package["CustomerMetadataProperties"]["version"] == "digits-retrain-1-abc"
    assert "Explainability" not in package["ModelMetrics"]
    arn = "arn:aws:sagemaker:us-east-1:123456789012:model-package/g/1"
    approval = requests.approval(arn, "Approved", "Good. " * 400)
    valid("UpdateModelPackage", approval)
    assert len(approval["ApprovalDescription"]) == 1024


def test_an_update_bakes_where_it_waits_for_alarms() -> None:
    def deployment(**given: Any) -> Any:
        return plan(deployment=given).pipeline.deployment

    assert deployment().bakes
    # The canary, and all of the new fleet.
    assert deployment().waiting_seconds == 240
    assert deployment(policy="all_at_once").bakes
    assert not deployment(policy="all_at_once", wait_interval_in_seconds=0).bakes
    linear = deployment(policy="linear", wait_interval_in_seconds=10, termination_wait_in_seconds=5)
    assert linear.waiting_seconds == 45
    assert deployment(policy="rolling", wait_interval_in_seconds=10).waiting_seconds == 40
