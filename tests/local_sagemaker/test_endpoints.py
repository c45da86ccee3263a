"""Endpoints, transform jobs and the registry, with servers that really serve."""

import threading
import time
import urllib.request
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local_sagemaker.cloud_client import BUCKET, PLAIN, ROLE, SERVING, Cloud, archive, unique, wait


def test_create_and_invoke(cloud: Cloud) -> None:
    endpoint = cloud.endpoint(cloud.model("one", EXTRA="/opt/ml/model"))
    answer = cloud.runtime.invoke_endpoint(EndpointName=endpoint, Body=b"12345", ContentType="image/png")
    body = answer["Body"].read().decode()
    assert body.startswith("one:image/png:/")
    assert body.endswith("/ml/model:5")
    assert answer["InvokedProductionVariant"] == "v1"
    assert answer["CustomAttributes"] == "seen"
    description = cloud.sagemaker.describe_endpoint(EndpointName=endpoint)
    variant = description["ProductionVariants"][0]
    assert (variant["CurrentInstanceCount"], variant["CurrentWeight"]) == (1, 1.0)
    assert variant["DeployedImages"][0]["SpecifiedImage"] == SERVING
    # As a program without AWS's libraries would.
    url = f"{cloud.address['sagemaker']}/endpoints/{endpoint}/invocations"
    with urllib.request.urlopen(urllib.request.Request(url, b"123", method="POST")) as response:
        assert response.read().decode().endswith(":3")
    group = f"/aws/sagemaker/Endpoints/{endpoint}"
    deadline = time.monotonic() + 5
    while not (streams := cloud.logs.describe_log_streams(logGroupName=group)["logStreams"]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert streams[0]["logStreamName"].startswith("v1/i-")


def test_an_update_under_load_loses_no_request(cloud: Cloud) -> None:
    endpoint = cloud.endpoint(cloud.model("old"))
    answers: list[str] = []
    stop = threading.Event()

    def ask(body: bytes) -> None:
        while not stop.is_set():
            answers.append(cloud.invoke(endpoint, body).split(":")[0])

    # A slow request is in flight when the traffic is switched.
    threads = [threading.Thread(target=ask, args=(body,)) for body in (b"quick", b"slow")]
    for thread in threads:
        thread.start()
    config = cloud.config(cloud.model("new"))
    cloud.sagemaker.update_endpoint(EndpointName=endpoint, EndpointConfigName=config)
    description = cloud.sagemaker.describe_endpoint(EndpointName=endpoint)
    assert description["EndpointStatus"] == "Updating"
    assert description["PendingDeploymentSummary"]["EndpointConfigName"] == config
    with pytest.raises(ClientError, match="Cannot update in-progress endpoint"):
        cloud.sagemaker.update_endpoint(EndpointName=endpoint, EndpointConfigName=config)
    after = cloud.endpoint_end(endpoint)
    time.sleep(0.2)
    stop.set()
    for thread in threads:
        thread.join()
    assert (after["EndpointStatus"], after["EndpointConfigName"]) == ("InService", config)
    assert "PendingDeploymentSummary" not in after
    assert set(answers) == {"old", "new"}
    assert cloud.invoke(endpoint).startswith("new")
    with pytest.raises(ClientError, match="to the configuration that it has"):
        cloud.sagemaker.update_endpoint(EndpointName=endpoint, EndpointConfigName=config)


def test_a_failed_update_leaves_the_old_model_serving(cloud: Cloud) -> None:
    config = cloud.config(cloud.model("good"))
    endpoint = unique("endpoint")
    cloud.sagemaker.create_endpoint(EndpointName=endpoint, EndpointConfigName=config)
    cloud.endpoint_end(endpoint)
    cloud.sagemaker.update_endpoint(
        EndpointName=endpoint, EndpointConfigName=cloud.config(cloud.model("broken"))
    )
    description = cloud.endpoint_end(endpoint)
    assert (description["EndpointStatus"], description["EndpointConfigName"]) == ("InService", config)
    assert "this model cannot be loaded" in description["FailureReason"]
    assert cloud.invoke(endpoint).startswith("good")


def test_a_failed_create_says_why_and_can_only_be_deleted(cloud: Cloud) -> None:
    endpoint = cloud.endpoint(cloud.model("broken"))
    description = cloud.sagemaker.describe_endpoint(EndpointName=endpoint)
    assert description["EndpointStatus"] == "Failed"
    assert "this model cannot be loaded" in description["FailureReason"]
    with pytest.raises(ClientError, match="in status Failed"):
        cloud.sagemaker.update_endpoint(
            EndpointName=endpoint, EndpointConfigName=cloud.config(cloud.model("x"))
        )
    cloud.sagemaker.delete_endpoint(EndpointName=endpoint)


def test_errors_of_the_model_and_of_the_caller(cloud: Cloud) -> None:
    endpoint = cloud.endpoint(cloud.model("one"))
    with pytest.raises(ClientError) as raised:
        cloud.invoke(endpoint, b"bad")
    response: Any = raised.value.response
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 424
    assert response["Error"]["Code"] == "ModelError"
    assert response["OriginalStatusCode"] == 400
    assert response["OriginalMessage"] == '{"error": "not an image"}'
    assert f"log-group:/aws/sagemaker/Endpoints/{endpoint}:" in response["LogStreamArn"]
    with pytest.raises(ClientError, match="Endpoint missing of account 000000000000 not found"):
        cloud.invoke("missing")
    with pytest.raises(ClientError, match="is not a production variant"):
        cloud.invoke(endpoint, TargetVariant="absent")
    with pytest.raises(ClientError, match="over the limit"):
        cloud.invoke(endpoint, b"x" * (6 * 1024 * 1024 + 1))
    with pytest.raises(ClientError, match="does not do TargetModel"):
        cloud.invoke(endpoint, TargetModel="m.tar.gz")


def test_a_server_that_dies_is_started_again(cloud: Cloud) -> None:
    endpoint = cloud.endpoint(cloud.model("one"))
    with pytest.raises(ClientError, match="ModelError"):
        cloud.invoke(endpoint, b"die")
    deadline = time.monotonic() + 15
    while not (answer := answer_or_unavailable(cloud, endpoint)):
        assert time.monotonic() < deadline
    assert answer.startswith("one")


def answer_or_unavailable(cloud: Cloud, endpoint: str) -> str:
    """The endpoint's answer, "" while no server of it is up (boto3 has then tried five times)."""
    try:
        return cloud.invoke(endpoint)
    except ClientError as error:
        if error.response["Error"]["Code"] != "ServiceUnavailable":
            raise
        return ""


def test_variants_have_weights_and_can_be_named(cloud: Cloud) -> None:
    endpoint = cloud.endpoint(cloud.model("one"), cloud.model("two"), instances=2)
    assert {cloud.invoke(endpoint).split(":")[0] for _ in range(10)} == {"one"}
    assert cloud.invoke(endpoint, TargetVariant="v2").startswith("two")


def test_delete(cloud: Cloud) -> None:
    endpoint = cloud.endpoint(cloud.model("one"))
    cloud.sagemaker.delete_endpoint(EndpointName=endpoint)
    deadline = time.monotonic() + 10
    while any(item["EndpointName"] == endpoint for item in cloud.sagemaker.list_endpoints()["Endpoints"]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with pytest.raises(ClientError, match="not found"):
        cloud.invoke(endpoint)


def test_names_that_are_taken(cloud: Cloud) -> None:
    model = cloud.model("one")
    config = cloud.config(model)
    endpoint = cloud.endpoint(model)
    container = {"Image": SERVING, "ModelDataUrl": cloud.put("m", "")}
    with pytest.raises(ClientError, match="Cannot create already existing model"):
        cloud.sagemaker.create_model(ModelName=model, PrimaryContainer=container, ExecutionRoleArn=ROLE)
    variant = {"VariantName": "v", "ModelName": model, "InitialInstanceCount": 1}
    with pytest.raises(ClientError, match="Cannot create already existing endpoint configuration"):
        cloud.sagemaker.create_endpoint_config(EndpointConfigName=config, ProductionVariants=[variant])
    with pytest.raises(ClientError) as raised:
        cloud.sagemaker.create_endpoint(EndpointName=endpoint, EndpointConfigName=config)
    # The Airflow provider tells by the beginning that it has to update instead.
    assert raised.value.response["Error"]["Message"].startswith("Cannot create already existing endpoint")


def test_what_is_not_done_is_refused(cloud: Cloud) -> None:
    serverless = {
        "VariantName": "v",
        "ModelName": "m",
        "ServerlessConfig": {"MemorySizeInMB": 1024, "MaxConcurrency": 1},
    }
    with pytest.raises(ClientError, match="does not do serverless"):
        cloud.sagemaker.create_endpoint_config(EndpointConfigName="x", ProductionVariants=[serverless])


@pytest.mark.parametrize(
    ("image", "sentence"), [(PLAIN, "no `serve` command"), ("built/in:1", "built/in:1 is not known here")]
)
def test_a_model_is_a_document_until_it_is_to_serve(cloud: Cloud, image: str, sentence: str) -> None:
    name = unique("model")
    cloud.sagemaker.create_model(ModelName=name, PrimaryContainer={"Image": image}, ExecutionRoleArn=ROLE)
    config = cloud.config(name)
    with pytest.raises(ClientError, match=f"ValidationException.*{sentence}"):
        cloud.sagemaker.create_endpoint(EndpointName=unique("endpoint"), EndpointConfigName=config)
    with pytest.raises(ClientError, match=f"ValidationException.*{sentence}"):
        transform(cloud, name, "anything/")


def test_uncompressed_model_data(cloud: Cloud) -> None:
    cloud.put("models/plain/answer.txt", "plain")
    source = {
        "S3Uri": f"s3://{BUCKET}/models/plain/",
        "S3DataType": "S3Prefix",
        "CompressionType": "None",
    }
    name = unique("model")
    container = {"Image": SERVING, "ModelDataSource": {"S3DataSource": source}}
    cloud.sagemaker.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=ROLE)
    assert cloud.invoke(cloud.endpoint(name)).startswith("plain:")


def transform(cloud: Cloud, model: str, prefix: str, **changes: Any) -> dict[str, Any]:
    name = unique("transform")
    source = {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/{prefix}"}
    cloud.sagemaker.create_transform_job(
        TransformJobName=name,
        ModelName=model,
        TransformInput={"DataSource": {"S3DataSource": source}, "ContentType": "image/png"},
        TransformOutput={"S3OutputPath": f"s3://{BUCKET}/transformed/{name}"},
        TransformResources={"InstanceType": "ml.m5.large", "InstanceCount": 1},
        **changes,
    )
    return wait(lambda: cloud.sagemaker.describe_transform_job(TransformJobName=name), "TransformJobStatus")


def test_transform(cloud: Cloud) -> None:
    for number in range(5):
        cloud.put(f"to-transform/deep/{number}.png", b"x" * number)
    job = transform(
        cloud, cloud.model("one"), "to-transform", MaxConcurrentTransforms=3, Environment={"EXTRA": "e"}
    )
    assert job["TransformJobStatus"] == "Completed"
    prefix = f"transformed/{job['TransformJobName']}/"
    assert cloud.keys(prefix) == [f"deep/{number}.png.out" for number in range(5)]
    assert cloud.read(f"s3://{BUCKET}/{prefix}deep/3.png.out") == b"one:image/png:e:3"


def test_a_transform_that_the_model_refuses_fails(cloud: Cloud) -> None:
    cloud.put("bad-transform/x.png", b"bad")
    job = transform(cloud, cloud.model("one"), "bad-transform")
    assert job["TransformJobStatus"] == "Failed"
    assert "not an image" in job["FailureReason"]
    job = transform(cloud, cloud.model("broken"), "bad-transform")
    assert "this model cannot be loaded" in job["FailureReason"]


def test_registry(cloud: Cloud) -> None:
    group = unique("group")
    cloud.sagemaker.create_model_package_group(ModelPackageGroupName=group)
    with pytest.raises(ClientError) as raised:
        cloud.sagemaker.create_model_package_group(ModelPackageGroupName=group)
    assert raised.value.response["Error"]["Message"].startswith("Model Package Group already exists")
    data = cloud.sagemaker.describe_model(ModelName=cloud.model("packed"))["PrimaryContainer"]["ModelDataUrl"]
    specification = {
        "Containers": [{"Image": SERVING, "ModelDataUrl": data}],
        "SupportedContentTypes": ["image/png"],
        "SupportedResponseMIMETypes": ["text/plain"],
    }
    packages = [
        cloud.sagemaker.create_model_package(
            ModelPackageGroupName=group, InferenceSpecification=specification
        )["ModelPackageArn"]
        for _ in range(2)
    ]
    assert packages[1].endswith(f":model-package/{group}/2")
    cloud.sagemaker.update_model_package(ModelPackageArn=packages[1], ModelApprovalStatus="Approved")
    description = cloud.sagemaker.describe_model_package(ModelPackageName=packages[1])
    assert (description["ModelPackageVersion"], description["ModelApprovalStatus"]) == (2, "Approved")
    listed = cloud.sagemaker.list_model_packages(ModelPackageGroupName=group, ModelApprovalStatus="Approved")
    assert [item["ModelPackageArn"] for item in listed["ModelPackageSummaryList"]] == packages[1:]
    # A model may name a package instead of an image.
    model = unique("model")
    container = {"ModelPackageName": packages[1]}
    cloud.sagemaker.create_model(ModelName=model, PrimaryContainer=container, ExecutionRoleArn=ROLE)
    assert cloud.invoke(cloud.endpoint(model)).startswith("packed")
    with pytest.raises(ClientError, match="ConflictException"):
        cloud.sagemaker.delete_model_package_group(ModelPackageGroupName=group)
    for package in packages:
        cloud.sagemaker.delete_model_package(ModelPackageName=package)
    cloud.sagemaker.delete_model_package_group(ModelPackageGroupName=group)


def test_weights_and_capacities(cloud: Cloud) -> None:
    endpoint = cloud.endpoint(cloud.model("one"), cloud.model("two"))
    assert cloud.invoke(endpoint).startswith("one")

    def update(**changes: Any) -> None:
        cloud.sagemaker.update_endpoint_weights_and_capacities(
            EndpointName=endpoint,
            DesiredWeightsAndCapacities=[
                {"VariantName": "v1", "DesiredWeight": 0.0},
                {"VariantName": "v2", **changes},
            ],
        )

    update(DesiredWeight=3.0, DesiredInstanceCount=2)
    # The weights count at once, the instances when they are there.
    assert cloud.invoke(endpoint).startswith("two")
    during = cloud.sagemaker.describe_endpoint(EndpointName=endpoint)
    assert during["EndpointStatus"] == "Updating"
    assert [variant["CurrentWeight"] for variant in during["ProductionVariants"]] == [0.0, 3.0]
    assert [variant["DesiredInstanceCount"] for variant in during["ProductionVariants"]] == [1, 2]
    assert during["ProductionVariants"][1]["CurrentInstanceCount"] == 1
    after = cloud.endpoint_end(endpoint)
    assert after["EndpointStatus"] == "InService"
    assert [variant["CurrentInstanceCount"] for variant in after["ProductionVariants"]] == [1, 2]
    update(DesiredInstanceCount=1)
    after = cloud.endpoint_end(endpoint)
    assert [variant["CurrentInstanceCount"] for variant in after["ProductionVariants"]] == [1, 1]
    assert [variant["CurrentWeight"] for variant in after["ProductionVariants"]] == [0.0, 3.0]
    assert cloud.invoke(endpoint).startswith("two")
    # An update may keep both.
    config = cloud.config(cloud.model("three"), cloud.model("four"))
    cloud.sagemaker.update_endpoint(
        EndpointName=endpoint,
        EndpointConfigName=config,
        RetainAllVariantProperties=True,
        ExcludeRetainedVariantProperties=[{"VariantPropertyType": "DesiredInstanceCount"}],
    )
    assert [v["CurrentWeight"] for v in cloud.endpoint_end(endpoint)["ProductionVariants"]] == [0.0, 3.0]
    assert cloud.invoke(endpoint).startswith("four")


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ([{"VariantName": "v9"}], "ValidationException", 'variant name.s. "v9" is/are not present'),
        ([{"VariantName": "v1", "DesiredInstanceCount": 0}], "ValidationException", "needs an instance"),
        ([{"VariantName": "v1", "DesiredInstanceCount": 9}], "ResourceLimitExceeded", "endpoint usage' is 8"),
        ([{"VariantName": "v1"}] * 2, "ValidationException", "twice"),
    ],
)
def test_weights_and_capacities_that_are_refused(cloud: Cloud, changes: Any, code: str, said: str) -> None:
    endpoint = kept_endpoint(cloud)
    before = cloud.sagemaker.describe_endpoint(EndpointName=endpoint)
    with pytest.raises(ClientError, match=said) as refused:
        cloud.sagemaker.update_endpoint_weights_and_capacities(
            EndpointName=endpoint, DesiredWeightsAndCapacities=changes
        )
    assert refused.value.response["Error"]["Code"] == code
    after = cloud.sagemaker.describe_endpoint(EndpointName=endpoint)
    assert after["ProductionVariants"] == before["ProductionVariants"]


def kept_endpoint(cloud: Cloud) -> str:
    """An endpoint that several tests ask."""
    if not _KEPT:
        _KEPT.append(cloud.endpoint(cloud.model("kept")))
    return _KEPT[0]


_KEPT: list[str] = []


def test_more_instances_that_do_not_start_leave_those_that_serve(cloud: Cloud) -> None:
    model = cloud.model("once")
    endpoint = cloud.endpoint(model)
    # The model's data is replaced by what a server cannot load; those that run have it in memory.
    cloud.put(f"models/{model}/model.tar.gz", archive({"answer.txt": "broken"}))
    cloud.sagemaker.update_endpoint_weights_and_capacities(
        EndpointName=endpoint, DesiredWeightsAndCapacities=[{"VariantName": "v1", "DesiredInstanceCount": 2}]
    )
    after = cloud.endpoint_end(endpoint)
    assert after["EndpointStatus"] == "InService"
    assert "ping health check" in after["FailureReason"]
    assert after["ProductionVariants"][0]["DesiredInstanceCount"] == 1
    assert cloud.invoke(endpoint).startswith("once")


def test_the_policy_of_a_group(cloud: Cloud) -> None:
    group = unique("group")
    identifier = cloud.sagemaker.create_model_package_group(ModelPackageGroupName=group)[
        "ModelPackageGroupArn"
    ]
    with pytest.raises(ClientError, match="Cannot find resource policy for"):
        cloud.sagemaker.get_model_package_group_policy(ModelPackageGroupName=group)
    policy = '{"Version": "2012-10-17", "Statement": []}'
    answer = cloud.sagemaker.put_model_package_group_policy(
        ModelPackageGroupName=group, ResourcePolicy=policy
    )
    assert answer["ModelPackageGroupArn"] == identifier
    assert (
        cloud.sagemaker.get_model_package_group_policy(ModelPackageGroupName=group)["ResourcePolicy"]
        == policy
    )
    with pytest.raises(ClientError, match="is not JSON"):
        cloud.sagemaker.put_model_package_group_policy(ModelPackageGroupName=group, ResourcePolicy="nothing")
    cloud.sagemaker.delete_model_package_group_policy(ModelPackageGroupName=group)
    with pytest.raises(ClientError, match="Cannot find resource policy for"):
        cloud.sagemaker.delete_model_package_group_policy(ModelPackageGroupName=group)


def test_packages_in_one_call(cloud: Cloud) -> None:
    group = unique("group")
    cloud.sagemaker.create_model_package_group(ModelPackageGroupName=group)
    there = cloud.sagemaker.create_model_package(ModelPackageGroupName=group)["ModelPackageArn"]
    missing = there.removesuffix("/1") + "/7"
    answer = cloud.sagemaker.batch_describe_model_package(ModelPackageArnList=[there, missing])
    assert answer["ModelPackageSummaries"][there]["ModelPackageVersion"] == 1
    assert answer["BatchDescribeModelPackageErrorMap"][missing]["ErrorCode"] == "ValidationException"
