"""Search, over documents in the shapes in which the store has them, and through boto3."""

from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.model import StructureShape

from local_sagemaker.api.find import Finder
from local_sagemaker.api.protocol import ApiError, Document, Protocol
from tests.local_sagemaker.cloud_client import Cloud, unique


def job(name: str, moment: float, **members: Any) -> Document:
    return {"TrainingJobName": name, "LastModifiedTime": moment, "CreationTime": moment, **members}


JOBS = [
    job(
        "first",
        1000.0,
        TrainingJobStatus="Completed",
        HyperParameters={"lr": "0.1", "depth": "3", "model.name": "resnet"},
        FinalMetricDataList=[{"MetricName": "val:loss", "Value": 0.5}],
        Tags=[{"Key": "team", "Value": "a"}],
        EnableManagedSpotTraining=True,
        ResourceConfig={"InstanceCount": 2},
        InputDataConfig=[
            {"ChannelName": "train", "DataSource": {"S3DataSource": {"S3Uri": "s3://b/one"}}},
            {"ChannelName": "test", "DataSource": {"S3DataSource": {"S3Uri": "s3://b/two"}}},
        ],
    ),
    job(
        "second",
        2000.0,
        TrainingJobStatus="Failed",
        FailureReason="AlgorithmError: x",
        HyperParameters={"lr": "3.7", "depth": "deep"},
        FinalMetricDataList=[{"MetricName": "val:loss", "Value": 0.25}],
        Tags=[{"Key": "team", "Value": "b"}, {"Key": "team.lead", "Value": "c"}],
        EnableManagedSpotTraining=False,
        ResourceConfig={"InstanceCount": 1},
        InputDataConfig=[{"ChannelName": "train", "DataSource": {"S3DataSource": {"S3Uri": "s3://b/two"}}}],
    ),
    job("third", 3000.0, TrainingJobStatus="InProgress", ResourceConfig={"InstanceCount": 1}),
]


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> StructureShape:
    folder: Path = tmp_path_factory.mktemp("model")
    return Protocol("sagemaker", ["Search"], folder).shape("SearchRecord")


def found(record: StructureShape, **request: Any) -> str:
    """The first letters of the jobs that are found."""
    answer = Finder({"TrainingJob": lambda: list(JOBS)}).search(
        {"Resource": "TrainingJob", **request}, record
    )
    assert answer["TotalHits"] == {"Value": len(answer["Results"]), "Relation": "EqualTo"}
    return "".join(result["TrainingJob"]["TrainingJobName"][0] for result in answer["Results"])


def by(name: str, operator: str | None = None, value: str | None = None) -> Document:
    given = {"Name": name, "Operator": operator, "Value": value}
    return {key: item for key, item in given.items() if item is not None}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (by("TrainingJobName", "Equals", "second"), "s"),
        (by("TrainingJobName", None, "second"), "s"),
        (by("TrainingJobName", "NotEquals", "second"), "tf"),
        (by("TrainingJobName", "Contains", "ir"), "tf"),
        (by("TrainingJobName", "In", "first,third,fourth"), "tf"),
        (by("FailureReason", "Exists"), "s"),
        (by("FailureReason", "NotExists"), "tf"),
        (by("HyperParameters", "Exists"), "sf"),
        (by("InputDataConfig", "NotExists"), "t"),
        (by("TrainingJobStatus", "Equals", "InProgress"), "t"),
        (by("ResourceConfig.InstanceCount", "GreaterThan", "1"), "f"),
        (by("ResourceConfig.InstanceCount", "LessThanOrEqualTo", "1"), "ts"),
        (by("ResourceConfig.InstanceCount", "Equals", "2.0"), "f"),
        (by("EnableManagedSpotTraining", "Equals", "true"), "f"),
        (by("EnableManagedSpotTraining", "NotEquals", "true"), "ts"),
        (by("CreationTime", "GreaterThanOrEqualTo", "1970-01-01T00:33:20"), "ts"),
        (by("CreationTime", "LessThan", "1970-01-01T00:33:20Z"), "f"),
        (by("Metrics.val:loss", "LessThan", "0.3"), "s"),
        (by("Metrics.other", "LessThan", "0.3"), ""),
        (by("Tags.team", "Equals", "a"), "f"),
        (by("Tags.team", "Exists"), "sf"),
        (by("Tags.team.lead", "Equals", "c"), "s"),
        (by("Tags.Key", "Equals", "team"), ""),
        (by("HyperParameters.lr", "LessThan", "0.5"), "f"),
        (by("HyperParameters.lr", "Equals", "0.10"), "f"),
        (by("HyperParameters.lr", "Equals", "3"), "s"),
        (by("HyperParameters.depth", "GreaterThan", "2"), "f"),
        (by("HyperParameters.depth", "Contains", "ee"), "s"),
        (by("HyperParameters.model.name", "Equals", "resnet"), "f"),
        (by("InputDataConfig.ChannelName", "Equals", "test"), "f"),
        (by("InputDataConfig.DataSource.S3DataSource.S3Uri", "Contains", "two"), "sf"),
    ],
)
def test_filters(record: StructureShape, condition: Document, expected: str) -> None:
    assert found(record, SearchExpression={"Filters": [condition]}) == expected


def test_expressions(record: StructureShape) -> None:
    low, failed = by("Metrics.val:loss", "LessThan", "9"), by("TrainingJobStatus", "Equals", "Failed")
    running = by("TrainingJobStatus", "Equals", "InProgress")
    assert found(record) == "tsf"
    assert found(record, SearchExpression={"Filters": [low, failed]}) == "s"
    assert found(record, SearchExpression={"Filters": [failed, running], "Operator": "Or"}) == "ts"
    either = {"Filters": [failed, running], "Operator": "Or"}
    assert found(record, SearchExpression={"Filters": [low], "SubExpressions": [either]}) == "s"
    # A nested filter is about one item: train is not two in the first job.
    train_two = {
        "NestedPropertyName": "InputDataConfig",
        "Filters": [
            by("InputDataConfig.ChannelName", "Equals", "train"),
            by("InputDataConfig.DataSource.S3DataSource.S3Uri", "Contains", "two"),
        ],
    }
    assert found(record, SearchExpression={"NestedFilters": [train_two]}) == "s"


@pytest.mark.parametrize(
    ("request_members", "expected"),
    [
        ({}, "tsf"),
        ({"SortOrder": "Ascending"}, "fst"),
        ({"SortBy": "TrainingJobName"}, "tsf"),
        ({"SortBy": "Metrics.val:loss", "SortOrder": "Ascending"}, "sft"),
        ({"SortBy": "Metrics.val:loss"}, "fst"),
        ({"SortBy": "HyperParameters.lr", "SortOrder": "Ascending"}, "fst"),
        ({"SortBy": "EnableManagedSpotTraining"}, "fst"),
        ({"CrossAccountFilterOption": "CrossAccount"}, ""),
    ],
)
def test_order(record: StructureShape, request_members: Document, expected: str) -> None:
    assert found(record, **request_members) == expected


@pytest.mark.parametrize(
    ("request_members", "said"),
    [
        ({"SortBy": "Nonsense"}, "Unknown property name: Nonsense"),
        ({"SearchExpression": {}}, "at least one of"),
        ({"SearchExpression": {"Filters": [by("Nonsense", "Exists")]}}, "Unknown property name"),
        ({"SearchExpression": {"Filters": [by("ResourceConfig.Nonsense", "Exists")]}}, "Unknown property"),
        ({"SearchExpression": {"Filters": [by("TrainingJobName.X", "Exists")]}}, "Unknown property name"),
        ({"SearchExpression": {"Filters": [by("TrainingJobName")]}}, "has no Value"),
        ({"SearchExpression": {"Filters": [by("TrainingJobName", "LessThan", "x")]}}, "not for text"),
        ({"SearchExpression": {"Filters": [by("CreationTime", "Contains", "1")]}}, "for text properties"),
        ({"SearchExpression": {"Filters": [by("CreationTime", "Equals", "noon")]}}, "not a timestamp"),
        ({"SearchExpression": {"Filters": [by("ResourceConfig.InstanceCount", "Equals", "x")]}}, "not a integer"),
        ({"SearchExpression": {"Filters": [by("ResourceConfig", "Equals", "x")]}}, "only Exists"),
        (
            {"SearchExpression": {"NestedFilters": [{"NestedPropertyName": "ResourceConfig", "Filters": []}]}},
            "is not a list",
        ),
        (
            {"SearchExpression": {"NestedFilters": [{"NestedPropertyName": "HyperParameters.x", "Filters": []}]}},
            "is not a list",
        ),
        ({"Resource": "Pipeline"}, "does not search Pipeline"),
        ({"VisibilityConditions": [{"Key": "a", "Value": "b"}]}, "VisibilityConditions"),
    ],
)  # fmt: skip
def test_what_is_refused(record: StructureShape, request_members: Document, said: str) -> None:
    with pytest.raises(ApiError, match=said) as refused:
        found(record, **request_members)
    assert refused.value.code == "ValidationException"


def test_pages_through_boto3(cloud: Cloud) -> None:
    prefix = unique("searched")
    for number in range(3):
        tags = [{"Key": "n", "Value": str(number)}]
        cloud.sagemaker.create_model_package_group(ModelPackageGroupName=f"{prefix}-{number}", Tags=tags)
        cloud.sagemaker.create_model_package(ModelPackageGroupName=f"{prefix}-{number}")
    by_name = {"Filters": [by("ModelPackageGroupName", "Contains", prefix)]}

    def names(resource: str, **arguments: Any) -> list[str]:
        pages = cloud.sagemaker.get_paginator("search").paginate(
            Resource=resource, SearchExpression=by_name, PaginationConfig={"PageSize": 2}, **arguments
        )
        records = [record[resource] for page in pages for record in page["Results"]]
        return [record["ModelPackageGroupName"] for record in records]

    expected = [f"{prefix}-{number}" for number in range(3)]
    assert names("ModelPackageGroup", SortBy="Tags.n", SortOrder="Ascending") == expected
    assert names("ModelPackage", SortBy="CreationTime") == expected[::-1]
    model = cloud.model("searched")
    answer = cloud.sagemaker.search(
        Resource="Model", SearchExpression={"Filters": [by("Model.ModelName", "Equals", model)]}
    )
    assert answer["Results"][0]["Model"]["Model"]["ModelName"] == model
    with pytest.raises(ClientError, match="Unknown property name"):
        cloud.sagemaker.search(Resource="Endpoint", SortBy="TrainingJobName")
