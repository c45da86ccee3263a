"""What is kept when old models go, against a real local cloud without servers; how an endpoint's failure is told."""

import pytest
from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook

from evergreen import endpoints
from scripts.local_stack import BUCKET, ROLE, Cloud

IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-inference:2.6.0-cpu-py312"


def test_old_models_go_and_what_served_stays(cloud: Cloud) -> None:
    client = cloud.client("sagemaker")
    cloud.client("s3").put_object(Bucket=BUCKET, Key="retire/model.tar.gz", Body=b"")
    container = {"Image": IMAGE, "ModelDataUrl": f"s3://{BUCKET}/retire/model.tar.gz"}
    role = cloud.client("iam").get_role(RoleName=ROLE)["Role"]["Arn"]
    for number in range(5):
        name = f"retired-{number}"
        client.create_model(ModelName=name, ExecutionRoleArn=role, PrimaryContainer=container)
        variant = {"VariantName": "a", "ModelName": name, "InstanceType": "ml.m5.large"}
        client.create_endpoint_config(
            EndpointConfigName=name, ProductionVariants=[{**variant, "InitialInstanceCount": 1}]
        )
    hook = SageMakerHook(aws_conn_id="aws_default")
    deleted = endpoints.retire(hook, "retired", keep=2, kept={"retired-0", None})
    assert sorted(deleted) == ["retired-1", "retired-1", "retired-2", "retired-2"]
    left = client.list_models(NameContains="retired-")["Models"]
    assert {model["ModelName"] for model in left} == {"retired-0", "retired-3", "retired-4"}
    assert endpoints.retire(hook, "retired", keep=2, kept={"retired-0", None}) == []


@pytest.mark.parametrize(
    ("live", "sentence"),
    [
        ({"EndpointStatus": "InService", "EndpointConfigName": "new"}, None),
        (None, "endpoint e does not exist"),
        (
            {"EndpointStatus": "InService", "EndpointConfigName": "old", "FailureReason": "An alarm."},
            "endpoint e is InService with old, not InService with new: An alarm.",
        ),
        (
            {"EndpointStatus": "UpdateRollbackFailed", "EndpointConfigName": "new"},
            "endpoint e is UpdateRollbackFailed with new, not InService with new: no reason given",
        ),
    ],
)
def test_an_endpoint_that_did_not_get_its_configuration_says_so(
    live: dict[str, str] | None, sentence: str | None
) -> None:
    assert endpoints.mismatch(live, "e", "new") == sentence


def test_a_traceback_is_told_by_its_ends() -> None:
    reason = "It did not start. Its log ends: Traceback:\n  File 'x'\n    y()\nValueError: no"
    assert endpoints.brief(reason) == "It did not start. Its log ends: Traceback: … ValueError: no"
    assert endpoints.brief(" One line. ") == "One line."
