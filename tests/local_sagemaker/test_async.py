"""Asynchronous endpoints."""

import http.client
import signal
import time
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local_sagemaker.cloud_client import BUCKET, Cloud, free_port, unique

OUTPUT = f"s3://{BUCKET}/async"


def make_endpoint(cloud: Cloud, text: str = "async", at_once: int = 1) -> str:
    name = unique("async")
    variant = {
        "VariantName": "v1",
        "ModelName": cloud.model(text),
        "InitialInstanceCount": 1,
        "InstanceType": "ml.m5.large",
    }
    cloud.sagemaker.create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[variant],
        AsyncInferenceConfig={
            "ClientConfig": {"MaxConcurrentInvocationsPerInstance": at_once},
            "OutputConfig": {"S3OutputPath": f"{OUTPUT}/out/", "S3FailurePath": f"{OUTPUT}/failed"},
        },
    )
    cloud.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    assert cloud.endpoint_end(name)["EndpointStatus"] == "InService"
    return name


@pytest.fixture(scope="module")
def endpoint(cloud: Cloud) -> str:
    return make_endpoint(cloud)


def result(cloud: Cloud, uri: str, limit_s: float = 30) -> str:
    deadline = time.monotonic() + limit_s
    while True:
        try:
            return cloud.read(uri).decode()
        except cloud.s3.exceptions.NoSuchKey:
            assert time.monotonic() < deadline, uri
            time.sleep(0.05)


def ask(cloud: Cloud, endpoint: str, body: str, **arguments: Any) -> Any:
    uri = cloud.put(f"async/in/{unique('in')}", body)
    return cloud.runtime.invoke_endpoint_async(EndpointName=endpoint, InputLocation=uri, **arguments)


def test_an_answer_and_a_failure(cloud: Cloud, endpoint: str) -> None:
    answer = ask(cloud, endpoint, "1234", ContentType="image/png", InferenceId="mine")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 202
    assert answer["InferenceId"] == "mine"
    assert answer["OutputLocation"].startswith(f"{OUTPUT}/out/")
    assert result(cloud, answer["OutputLocation"]) == "async:image/png::4"
    failed = ask(cloud, endpoint, "bad")
    assert "Received client error (400) from primary" in result(cloud, failed["FailureLocation"])
    missing = cloud.runtime.invoke_endpoint_async(
        EndpointName=endpoint, InputLocation=f"s3://{BUCKET}/nothing-here"
    )
    assert "nothing-here" in result(cloud, missing["FailureLocation"])


def test_it_is_described(cloud: Cloud, endpoint: str) -> None:
    described = cloud.sagemaker.describe_endpoint(EndpointName=endpoint)
    assert described["AsyncInferenceConfig"]["OutputConfig"]["S3OutputPath"] == f"{OUTPUT}/out/"


def test_requests_beyond_what_an_instance_takes_wait(cloud: Cloud, endpoint: str) -> None:
    started = time.monotonic()
    answers = [ask(cloud, endpoint, "slow") for _ in range(2)]
    assert time.monotonic() - started < 1
    for answer in answers:
        result(cloud, answer["OutputLocation"])
    # One at a time: each takes a second.
    assert time.monotonic() - started >= 2


def test_a_body_instead_of_an_object(cloud: Cloud, endpoint: str) -> None:
    connection = http.client.HTTPConnection(
        urllib.parse.urlsplit(cloud.address["sagemaker"]).netloc, timeout=10
    )
    headers = {"X-Amzn-SageMaker-Filename": "named.txt", "X-Amzn-SageMaker-S3OutputPathExtension": "deep/er"}
    connection.request("POST", f"/endpoints/{endpoint}/async-invocations", b"123", headers)
    response = connection.getresponse()
    response.read()
    connection.close()
    assert response.status == 202
    location = response.headers["x-amzn-sagemaker-outputlocation"]
    assert location == f"{OUTPUT}/out/deep/er/named.txt"
    assert result(cloud, location).endswith(":3")


def test_either_way_of_asking_refuses_the_other_kind_of_endpoint(cloud: Cloud, endpoint: str) -> None:
    with pytest.raises(ClientError, match="use InvokeEndpointAsync") as refused:
        cloud.invoke(endpoint)
    assert refused.value.response["Error"]["Code"] == "ValidationError"
    with pytest.raises(ClientError, match="is not asynchronous"):
        ask(cloud, cloud.endpoint(cloud.model("plain")), "x")
    with pytest.raises(ClientError, match="not found"):
        ask(cloud, "missing", "x")
    with pytest.raises(ClientError, match="at 'requestTTLSeconds'"):
        ask(cloud, endpoint, "x", RequestTTLSeconds=30_000)


def test_configurations_that_are_refused(cloud: Cloud) -> None:
    def configure(output: Any) -> None:
        variant = {"VariantName": "v1", "ModelName": model, "InitialInstanceCount": 1}
        cloud.sagemaker.create_endpoint_config(
            EndpointConfigName=unique("config"),
            ProductionVariants=[variant],
            AsyncInferenceConfig={"OutputConfig": output},
        )

    model = cloud.model("x")
    for output, said in (
        ({}, "S3OutputPath is required"),
        ({"S3OutputPath": "s3://no-such-bucket/x"}, "no-such-bucket"),
        ({"S3OutputPath": OUTPUT, "NotificationConfig": {"SuccessTopic": "arn:aws:sns:us-east-1:000000000000:t"}},
         "notifications"),
    ):  # fmt: skip
        with pytest.raises(ClientError, match=said):
            configure(output)


def test_requests_survive_a_killed_service(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path, port=free_port(), aws_port=free_port())
    endpoint = make_endpoint(cloud)
    answers = [ask(cloud, endpoint, "slow") for _ in range(2)]
    assert cloud.end(signal.SIGKILL) == -signal.SIGKILL
    again = Cloud(tmp_path, port=cloud.port("sagemaker"), aws_port=cloud.port("aws"))
    for answer in answers:
        assert result(again, answer["OutputLocation"]).startswith("async:")
    assert again.end() == 0
