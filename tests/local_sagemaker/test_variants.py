"""Shadow variants, metrics and data capture."""

import base64
import contextlib
import datetime
import json
import re
import time

import pytest
from botocore.exceptions import ClientError

from tests.local_sagemaker.cloud_client import BUCKET, Cloud, Json, unique, wait


def variant(model: str, name: str, weight: float = 1.0) -> Json:
    return {
        "VariantName": name,
        "ModelName": model,
        "InitialInstanceCount": 1,
        "InstanceType": "ml.m5.large",
        "InitialVariantWeight": weight,
    }


def metric(cloud: Cloud, name: str, statistic: str, **dimensions: str) -> float:
    """A statistic over the last minutes."""
    now = datetime.datetime.now(datetime.UTC)
    with contextlib.closing(cloud.client("cloudwatch")) as client:
        points = client.get_metric_statistics(
            Namespace="AWS/SageMaker",
            MetricName=name,
            Dimensions=[{"Name": key, "Value": value} for key, value in dimensions.items()],
            StartTime=now - datetime.timedelta(minutes=5),
            EndTime=now + datetime.timedelta(minutes=1),
            Period=3600,
            Statistics=[statistic],
        )["Datapoints"]
    return float(sum(point[statistic] for point in points))


def test_metrics(cloud: Cloud) -> None:
    config = cloud.config(cloud.model("one"))
    endpoint = unique("endpoint")
    cloud.sagemaker.create_endpoint(EndpointName=endpoint, EndpointConfigName=config)
    cloud.endpoint_end(endpoint)
    for _ in range(6):
        cloud.invoke(endpoint)
    cloud.invoke(endpoint, b"slow")
    for body in (b"bad", b"bad", b"die"):
        with pytest.raises(ClientError):
            cloud.invoke(endpoint, body)
    of_variant = {"EndpointName": endpoint, "VariantName": "v1"}

    def described() -> Json:
        count = metric(cloud, "Invocations", "Sum", **of_variant)
        return {"count": count, "busy": "" if count == 10 else "Creating"}

    wait(described, "busy", limit_s=30)
    for dimensions in (of_variant, {**of_variant, "EndpointConfigName": config}):
        sums = {
            name: metric(cloud, name, "Sum", **dimensions)
            for name in ("Invocation4XXErrors", "Invocation5XXErrors", "InvocationModelErrors")
        }
        assert sums == {
            "Invocation4XXErrors": 2,
            "Invocation5XXErrors": 1,
            "InvocationModelErrors": 3,
        }
        assert metric(cloud, "ModelLatency", "SampleCount", **dimensions) == 10
        # Microseconds, to within 2.5 %.
        assert 0.97e6 < metric(cloud, "ModelLatency", "Maximum", **dimensions) < 3e6
        assert 0 < metric(cloud, "OverheadLatency", "Maximum", **dimensions) < 1e6


def test_a_shadow_variant_gets_copies_and_holds_nothing_up(cloud: Cloud) -> None:
    config, endpoint = unique("config"), unique("endpoint")
    cloud.sagemaker.create_endpoint_config(
        EndpointConfigName=config,
        ProductionVariants=[variant(cloud.model("one"), "production", 2.0)],
        ShadowProductionVariants=[variant(cloud.model("faulty"), "shadow", 1.0)],
    )
    shown = cloud.sagemaker.describe_endpoint_config(EndpointConfigName=config)
    assert shown["ShadowProductionVariants"][0]["VariantName"] == "shadow"
    cloud.sagemaker.create_endpoint(EndpointName=endpoint, EndpointConfigName=config)
    description = cloud.endpoint_end(endpoint)
    assert description["ShadowProductionVariants"][0]["CurrentInstanceCount"] == 1
    answers = [cloud.invoke(endpoint).split(":")[0] for _ in range(20)]
    assert answers == ["one"] * 20
    with pytest.raises(ClientError, match="is not a production variant"):
        cloud.invoke(endpoint, TargetVariant="shadow")

    def copied() -> Json:
        count = metric(cloud, "Invocation5XXErrors", "Sum", EndpointName=endpoint, VariantName="shadow")
        return {"count": count, "busy": "" if count else "Creating"}

    assert wait(copied, "busy", limit_s=30)["count"] == 10
    assert metric(cloud, "Invocations", "Sum", EndpointName=endpoint, VariantName="production") == 20


CAPTURE = {
    "InitialSamplingPercentage": 50,
    "DestinationS3Uri": f"s3://{BUCKET}/captured",
    "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
    "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
}


def captured(cloud: Cloud, endpoint: str) -> list[Json]:
    keys = cloud.keys(f"captured/{endpoint}/")
    name = r"\d\d-\d\d-\d\d\d-[0-9a-f-]{36}\.jsonl"
    assert all(re.fullmatch(rf"v1/\d{{4}}/\d\d/\d\d/\d\d/{name}", key) for key in keys), keys
    objects = [cloud.read(f"s3://{BUCKET}/captured/{endpoint}/{key}") for key in sorted(keys)]
    return [json.loads(line) for content in objects for line in content.splitlines()]


def test_data_capture(cloud: Cloud) -> None:
    endpoint = cloud.endpoint(cloud.model("one"), DataCaptureConfig=CAPTURE)
    summary = cloud.sagemaker.describe_endpoint(EndpointName=endpoint)["DataCaptureConfig"]
    assert (summary["CaptureStatus"], summary["CurrentSamplingPercentage"]) == ("Started", 50)
    for number in range(4):
        identifier = f"request-{number}"
        cloud.invoke(endpoint, b'{"a": 1}', ContentType="application/json", InferenceId=identifier)
    # An update keeps the capture where it is asked to, and what was captured before is uploaded at its end.
    cloud.sagemaker.update_endpoint(
        EndpointName=endpoint,
        EndpointConfigName=cloud.config(cloud.model("two")),
        RetainAllVariantProperties=True,
    )
    assert cloud.endpoint_end(endpoint)["DataCaptureConfig"] == summary
    records = captured(cloud, endpoint)
    assert [record["eventMetadata"]["inferenceId"] for record in records] == ["request-1", "request-3"]
    record = records[0]
    assert record["captureData"]["endpointInput"] == {
        "observedContentType": "application/json",
        "mode": "INPUT",
        "data": '{"a": 1}',
        "encoding": "JSON",
    }
    output = record["captureData"]["endpointOutput"]
    assert (output["observedContentType"], output["mode"], output["encoding"]) == (
        "text/plain",
        "OUTPUT",
        "BASE64",
    )
    assert base64.b64decode(output["data"]).startswith(b"one:application/json:")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", record["eventMetadata"]["inferenceTime"])
    assert (len(record["eventMetadata"]["eventId"]), record["eventVersion"]) == (36, "0")
    for _ in range(2):
        cloud.invoke(endpoint, b"\xff\xfe", ContentType="application/json")
    config = cloud.config(cloud.model("three"))
    cloud.sagemaker.update_endpoint(
        EndpointName=endpoint,
        EndpointConfigName=config,
        RetainAllVariantProperties=True,
        ExcludeRetainedVariantProperties=[{"VariantPropertyType": "DataCaptureConfig"}],
    )
    assert "DataCaptureConfig" not in cloud.endpoint_end(endpoint)
    after = captured(cloud, endpoint)
    assert len(after) == 3
    # What is no text is kept as what it is.
    (given,) = [
        record["captureData"]["endpointInput"]
        for record in after
        if "inferenceId" not in record["eventMetadata"]
    ]
    assert (given["encoding"], base64.b64decode(given["data"])) == ("BASE64", b"\xff\xfe")


def test_capture_fails_no_caller(cloud: Cloud) -> None:
    bucket = unique("gone")
    cloud.s3.create_bucket(Bucket=bucket)
    config = {**CAPTURE, "InitialSamplingPercentage": 100, "DestinationS3Uri": f"s3://{bucket}/x"}
    endpoint = cloud.endpoint(cloud.model("one"), DataCaptureConfig=config)
    cloud.s3.delete_bucket(Bucket=bucket)
    assert cloud.invoke(endpoint).startswith("one")
    cloud.sagemaker.delete_endpoint(EndpointName=endpoint)
    log = cloud.state / "log" / "service.log"
    deadline = time.monotonic() + 10
    while "1 captured invocations were not uploaded" not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ({"DataCaptureConfig": {**CAPTURE, "DestinationS3Uri": "https://x/y"}}, "has to be an s3:// address"),
        ({"DataCaptureConfig": {**CAPTURE, "DestinationS3Uri": "s3://no-such-bucket/y"}}, "no-such-bucket"),
        ({"shadows": 2}, "one variant in it and one in"),
        ({"shadows": 1, "name": "v1"}, "Two variants have one name"),
    ],
)
def test_configurations_that_are_refused(cloud: Cloud, members: Json, sentence: str) -> None:
    model = cloud.model("one")
    shadows = [
        variant(model, members.get("name", f"s{number}")) for number in range(members.pop("shadows", 0))
    ]
    members.pop("name", None)
    with pytest.raises(ClientError, match=sentence):
        cloud.sagemaker.create_endpoint_config(
            EndpointConfigName=unique("config"),
            ProductionVariants=[variant(model, "v1")],
            **({"ShadowProductionVariants": shadows} if shadows else {}),
            **members,
        )
