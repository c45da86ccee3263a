"""Validation, errors and lists, as AWS words them."""

import contextlib
import http.client
import json
import urllib.parse
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local_sagemaker.cloud_client import ROLE, Cloud, unique

MINUTE = timedelta(minutes=1)


def ask(
    cloud: Cloud, method: str, path: str, body: bytes, headers: dict[str, str]
) -> tuple[int, bytes, str | None]:
    """A request as botocore would not send it: status, answer, error header."""
    connection = http.client.HTTPConnection(
        urllib.parse.urlsplit(cloud.address["sagemaker"]).netloc, timeout=10
    )
    with contextlib.closing(connection):
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read(), response.headers.get("x-amzn-errortype")


def call(cloud: Cloud, operation: str, body: Any) -> tuple[int, dict[str, Any], str | None]:
    """A request to the control plane."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, answer, code = ask(cloud, "POST", "/", content, {"X-Amz-Target": f"SageMaker.{operation}"})
    return status, json.loads(answer), code


def test_all_violations_come_in_one_message(cloud: Cloud) -> None:
    body = {
        "TrainingJobName": "under_score",
        "AlgorithmSpecification": {"TrainingInputMode": "Files"},
        "RoleArn": ROLE,
        "InputDataConfig": [{"DataSource": {}}],
        "OutputDataConfig": {"S3OutputPath": "s3://b/p"},
        "ResourceConfig": {"InstanceType": "ml.nonsense", "VolumeSizeInGB": -1},
    }
    status, answer, code = call(cloud, "CreateTrainingJob", body)
    assert (status, answer["__type"], code) == (400, "ValidationException", "ValidationException")
    message = answer["message"]
    assert message.startswith("5 validation errors detected: ")
    assert (
        "Value 'under_score' at 'trainingJobName' failed to satisfy constraint: Member must satisfy regular "
        "expression pattern: [a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}"
    ) in message
    assert "Value 'Files' at 'algorithmSpecification.trainingInputMode' failed" in message
    assert "Member must satisfy enum value set: [Pipe, File, FastFile]" in message
    assert (
        "Value null at 'inputDataConfig.1.member.channelName' failed to satisfy constraint: Member must not be null"
        in message
    )
    assert "Value 'ml.nonsense' at 'resourceConfig.instanceType' failed" in message


@pytest.mark.parametrize(
    ("operation", "body", "code"),
    [
        ("CreateTrainingJob", {"TrainingJobName": 7}, "SerializationException"),
        ("CreateTrainingJob", b"not JSON", "SerializationException"),
        ("CreateTrainingJob", b"\xff\xfe", "SerializationException"),
        ("CreateTrainingJob", b"[" * 50_000, "SerializationException"),
        ("ListTrainingJobs", b'{"CreationTimeAfter": NaN}', "SerializationException"),
        ("ListTrainingJobs", b'{"CreationTimeAfter": 1e999}', "SerializationException"),
        ("ListTrainingJobs", b'{"NameContains": "\\ud800"}', "SerializationException"),
        ("CreateTrainingJob", [], "SerializationException"),
        ("", {}, "UnknownOperationException"),
        ("CreateNotebookInstance", {}, "UnknownOperationException"),
        ("DoNonsense", {}, "UnknownOperationException"),
        ("ListTrainingJobs", {"NextToken": "nonsense"}, "ValidationException"),
        ("ListTrainingJobs", {"MaxResults": 1000}, "ValidationException"),
    ],
)
def test_nonsense_is_refused_in_aws_shape(cloud: Cloud, operation: str, body: Any, code: str) -> None:
    status, answer, header = call(cloud, operation, body)
    assert (status, answer["__type"], header) == (400, code, code)
    assert answer["message"]


def test_a_request_without_end_is_refused_early(cloud: Cloud) -> None:
    status, answer, code = call(cloud, "CreateTrainingJob", b" " * 4_500_000)
    assert (status, code) == (413, "RequestEntityTooLargeException")
    assert "over the limit of 4194304 bytes" in answer["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nothing"),
        ("PUT", "/"),
        ("OPTIONS", "/"),
        ("PATCH", "/endpoints/e/invocations"),
        ("POST", "/endpoints/e/invocations-response-stream"),
        ("PUT", "/BatchPutMetrics"),
    ],
)
def test_an_unknown_path_is_named(cloud: Cloud, method: str, path: str) -> None:
    status, answer, code = ask(cloud, method, path, b"", {})
    assert (status, code) == (404, "UnknownOperationException")
    assert method in json.loads(answer)["message"]


def test_a_target_of_another_service_is_refused(cloud: Cloud) -> None:
    status, _, code = ask(cloud, "POST", "/", b"{}", {"X-Amz-Target": "Logs_20140328.DescribeLogGroups"})
    assert (status, code) == (400, "UnknownOperationException")


def test_another_name_for_this_machine_is_refused(cloud: Cloud) -> None:
    for host, status in (("rebound.example.com", 400), ("localhost:7700", 200), ("127.0.0.1", 200)):
        assert ask(cloud, "GET", "/", b"", {"Host": host})[0] == status


def test_the_runtime_without_boto3(cloud: Cloud) -> None:
    for path, said in (
        ("missing", "not found"),
        ("..", "regular expression"),
        ("under_score", "regular expression"),
        ("a" * 64, "length"),
    ):
        status, answer, code = ask(cloud, "POST", f"/endpoints/{path}/invocations", b"x", {})
        assert (status, code) == (400, "ValidationError")
        assert said in json.loads(answer)["message"]
    with pytest.raises(ClientError) as refused:
        cloud.runtime.invoke_endpoint_with_response_stream(EndpointName="missing", Body=b"x")
    assert refused.value.response["Error"]["Code"] == "UnknownOperationException"


def test_an_operation_that_is_not_there_is_named(cloud: Cloud) -> None:
    with pytest.raises(ClientError, match="does not do the operation ListNotebookInstances"):
        cloud.sagemaker.list_notebook_instances()


@pytest.mark.parametrize(
    ("operation", "member"),
    [
        ("describe_training_job", "TrainingJobName"),
        ("stop_training_job", "TrainingJobName"),
        ("describe_processing_job", "ProcessingJobName"),
        ("describe_transform_job", "TransformJobName"),
        ("describe_hyper_parameter_tuning_job", "HyperParameterTuningJobName"),
        ("describe_model", "ModelName"),
        ("delete_model", "ModelName"),
        ("describe_endpoint_config", "EndpointConfigName"),
        ("describe_endpoint", "EndpointName"),
        ("delete_endpoint", "EndpointName"),
        ("describe_model_package_group", "ModelPackageGroupName"),
        ("describe_model_package", "ModelPackageName"),
    ],
)
def test_a_missing_resource_is_a_validation_exception(cloud: Cloud, operation: str, member: str) -> None:
    with pytest.raises(ClientError) as raised:
        getattr(cloud.sagemaker, operation)(**{member: "missing"})
    assert raised.value.response["Error"]["Code"] == "ValidationException"


def test_unknown_members_are_dropped(cloud: Cloud) -> None:
    name = unique("group")
    status, _, _ = call(cloud, "CreateModelPackageGroup", {"ModelPackageGroupName": name, "Newer": 1})
    assert status == 200
    assert "Newer" not in call(cloud, "DescribeModelPackageGroup", {"ModelPackageGroupName": name})[1]


def test_lists_filter_sort_and_page(cloud: Cloud) -> None:
    prefix = unique("paged")
    names = [f"{prefix}-{letter}" for letter in "bac"]
    for name in names:
        cloud.sagemaker.create_model_package_group(ModelPackageGroupName=name)

    def listed(**arguments: Any) -> list[str]:
        paginator = cloud.sagemaker.get_paginator("list_model_package_groups")
        pages = paginator.paginate(NameContains=prefix, PaginationConfig={"PageSize": 2}, **arguments)
        return [
            group["ModelPackageGroupName"] for page in pages for group in page["ModelPackageGroupSummaryList"]
        ]

    assert listed() == names
    assert listed(SortOrder="Descending") == names[::-1]
    assert listed(SortBy="Name") == sorted(names)
    # boto3 sends whole seconds.
    earlier = (
        cloud.sagemaker.describe_model_package_group(ModelPackageGroupName=names[0])["CreationTime"] - MINUTE
    )
    assert listed(CreationTimeAfter=earlier, CreationTimeBefore=earlier + 2 * MINUTE) == names
    assert listed(CreationTimeBefore=earlier) == []


def test_tags(cloud: Cloud) -> None:
    name = unique("tagged")
    identifier = cloud.sagemaker.create_model_package_group(
        ModelPackageGroupName=name, Tags=[{"Key": "a", "Value": "1"}]
    )["ModelPackageGroupArn"]
    cloud.sagemaker.add_tags(
        ResourceArn=identifier, Tags=[{"Key": "a", "Value": "2"}, {"Key": "b", "Value": "3"}]
    )
    cloud.sagemaker.delete_tags(ResourceArn=identifier, TagKeys=["b"])
    assert cloud.sagemaker.list_tags(ResourceArn=identifier)["Tags"] == [{"Key": "a", "Value": "2"}]


@pytest.mark.parametrize(
    ("operation", "member"),
    [
        ("CreateTrainingJob", "TrainingJobName"),
        ("CreateProcessingJob", "ProcessingJobName"),
        ("CreateTransformJob", "TransformJobName"),
        ("CreateHyperParameterTuningJob", "HyperParameterTuningJobName"),
        ("CreateModel", "ModelName"),
        ("CreateEndpointConfig", "EndpointConfigName"),
        ("CreateEndpoint", "EndpointName"),
        ("CreateModelPackageGroup", "ModelPackageGroupName"),
        ("CreateModelPackage", "ModelPackageName"),
    ],
)
def test_no_name_leads_out_of_a_folder(cloud: Cloud, operation: str, member: str) -> None:
    for name in ("..", "../x", "a/b", "/etc", "a\n"):
        status, answer, code = call(cloud, operation, {member: name})
        assert (status, code) == (400, "ValidationException")
        assert f"at '{member[0].lower()}{member[1:]}' failed to satisfy constraint" in answer["message"]


def test_others_reach_it_only_by_the_name_it_was_given(cloud: Cloud, tmp_path: Path) -> None:
    named = Cloud(tmp_path / "state", "--host", "local-cloud")

    def status(service: Cloud, which: str, host: str) -> int:
        # 127.0.0.2 is another interface's address to a socket of 127.0.0.1.
        connection = http.client.HTTPConnection("127.0.0.2", service.port(which), timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", "/", headers={"Host": host})
            return connection.getresponse().status

    assert status(named, "sagemaker", "local-cloud:7700") == 200
    assert status(named, "sagemaker", "rebound.example.com") == 400
    assert status(named, "aws", "local-cloud:7701") == 200
    for which in ("sagemaker", "aws"):
        with pytest.raises(ConnectionRefusedError):
            status(cloud, which, "local-cloud")
    assert named.end() == 0
