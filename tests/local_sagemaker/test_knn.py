"""The stand-in for the built-in k-nearest-neighbors algorithm: the jobs of Airflow's own SageMaker example."""

import json
from typing import Any

import pytest

from tests.local_sagemaker.cloud_client import BUCKET, ROLE, Cloud, Json, channel, unique, wait

# As the example has it: the URI of the built-in algorithm in us-east-1, and its job's members, none left out.
IMAGE = "382416733822.dkr.ecr.us-east-1.amazonaws.com/knn:1"
ALGORITHM = {"TrainingImage": IMAGE, "TrainingInputMode": "File"}
RESOURCES = {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 1}
LIMIT = {"MaxRuntimeInSeconds": 600}
# Two clouds of points that lie far from each other.
ROWS = [(number % 2, 100 * (number % 2) + number % 7, number % 5) for number in range(60)]


def table(rows: list[Any]) -> str:
    return "".join(",".join(map(str, row)) + "\n" for row in rows)


def csv_channel(name: str, uri: str) -> Json:
    return {**channel(name, uri), "CompressionType": "None", "ContentType": "text/csv"}


@pytest.fixture(scope="module")
def data(cloud: Cloud) -> Json:
    uris = {"train": cloud.put("knn/train.csv", table(ROWS))}
    return uris | {"test": cloud.put("knn/test.csv", table([row[1:] for row in ROWS]))}


@pytest.fixture(scope="module")
def training(cloud: Cloud, data: Json) -> Json:
    """A training job that has ended."""
    name = unique("knn")
    cloud.sagemaker.create_training_job(
        TrainingJobName=name,
        AlgorithmSpecification=ALGORITHM,
        HyperParameters={"predictor_type": "classifier", "feature_dim": "2", "k": "3", "sample_size": "60"},
        InputDataConfig=[csv_channel("train", data["train"]), csv_channel("test", data["train"])],
        OutputDataConfig={"S3OutputPath": f"s3://{BUCKET}/knn/results/"},
        ResourceConfig=RESOURCES,
        RoleArn=ROLE,
        StoppingCondition=LIMIT,
    )
    return cloud.training_end(name)


@pytest.fixture(scope="module")
def model(cloud: Cloud, training: Json) -> str:
    name = unique("knn")
    uri = training["ModelArtifacts"]["S3ModelArtifacts"]
    container = {"Mode": "SingleModel", "Image": IMAGE, "ModelDataUrl": uri}
    cloud.sagemaker.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=ROLE)
    return name


def test_training(training: Json) -> None:
    assert training["TrainingJobStatus"] == "Completed", training
    # Nobody asked for the metric: a built-in algorithm's are AWS's to define.
    metrics = {item["MetricName"]: item["Value"] for item in training["FinalMetricDataList"]}
    assert metrics == {"test:accuracy": 1.0}


def test_tuning(cloud: Cloud, data: Json) -> None:
    name = unique("knn")
    ranges = [{"Name": key, "MinValue": "1", "MaxValue": "60"} for key in ("k", "sample_size")]
    cloud.sagemaker.create_hyper_parameter_tuning_job(
        HyperParameterTuningJobName=name,
        HyperParameterTuningJobConfig={
            "Strategy": "Bayesian",
            "HyperParameterTuningJobObjective": {"MetricName": "test:accuracy", "Type": "Maximize"},
            "ResourceLimits": {"MaxNumberOfTrainingJobs": 4, "MaxParallelTrainingJobs": 4},
            "ParameterRanges": {"CategoricalParameterRanges": [], "IntegerParameterRanges": ranges},
        },
        TrainingJobDefinition={
            "StaticHyperParameters": {"predictor_type": "classifier", "feature_dim": "2"},
            "AlgorithmSpecification": ALGORITHM,
            "InputDataConfig": [csv_channel("train", data["train"]), csv_channel("test", data["train"])],
            "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/knn/results"},
            "ResourceConfig": RESOURCES,
            "RoleArn": ROLE,
            "StoppingCondition": LIMIT,
        },
    )
    job = wait(
        lambda: cloud.sagemaker.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name),
        "HyperParameterTuningJobStatus",
    )
    assert job["HyperParameterTuningJobStatus"] == "Completed"
    assert job["TrainingJobStatusCounters"]["Completed"] == 4
    assert 0.3 < job["BestTrainingJob"]["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] <= 1


def test_transform(cloud: Cloud, data: Json, model: str) -> None:
    name = unique("knn")
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": data["test"]}}
    cloud.sagemaker.create_transform_job(
        TransformJobName=name,
        TransformInput={"DataSource": source, "SplitType": "Line", "ContentType": "text/csv"},
        TransformOutput={"S3OutputPath": f"s3://{BUCKET}/knn/transform"},
        TransformResources={"InstanceCount": 1, "InstanceType": "ml.m5.large"},
        ModelName=model,
    )
    job = wait(lambda: cloud.sagemaker.describe_transform_job(TransformJobName=name), "TransformJobStatus")
    assert job["TransformJobStatus"] == "Completed", job
    answer = json.loads(cloud.read(f"s3://{BUCKET}/knn/transform/test.csv.out"))
    assert answer == {"predictions": [{"predicted_label": float(row[0])} for row in ROWS]}


def test_an_endpoint_speaks_the_algorithms_formats(cloud: Cloud, model: str) -> None:
    endpoint = cloud.endpoint(model)

    def ask(body: str, content_type: str, accept: str) -> str:
        return cloud.invoke(endpoint, body.encode(), ContentType=content_type, Accept=accept)

    instances = [{"data": {"features": {"values": [101, 2]}}}, {"features": [1.0, 2.0]}]
    labels = {"predictions": [{"predicted_label": 1.0}, {"predicted_label": 0.0}]}
    assert (
        json.loads(ask(json.dumps({"instances": instances}), "application/json", "application/json"))
        == labels
    )
    lines = "\n".join(map(json.dumps, instances))
    answer = ask(lines, "application/jsonlines", "application/jsonlines")
    assert [json.loads(line) for line in answer.splitlines()] == labels["predictions"]
    assert ask("101,2\n1,2", "text/csv; charset=utf-8", "text/csv") == "1.0\n0.0\n"
    for body, kind, sentence in (
        ("1,2,3", "text/csv", "the request is not rows of 2 numbers"),
        ("{}", "application/json", "not a list of instances"),
        ("", "application/x-recordio-protobuf", "is none of text/csv"),
    ):
        with pytest.raises(cloud.runtime.exceptions.ModelError, match=sentence):
            ask(body, kind, "application/json")
    cloud.sagemaker.delete_endpoint(EndpointName=endpoint)


@pytest.mark.parametrize(
    ("hyperparameters", "sentence"),
    [
        ({"k": "3"}, "the hyperparameters feature_dim, predictor_type, sample_size are required"),
        ({"feature_dim": "3"}, "train.csv is not rows of 4 numbers"),
        ({"k": "0"}, "k is a number above 0, not 0"),
        ({"predictor_type": "oracle"}, "predictor_type is one of classifier, regressor here, not oracle"),
        ({"dimension_reduction_target": "1"}, "dimension_reduction_target are not known here"),
    ],
)
def test_what_the_customer_got_wrong(cloud: Cloud, data: Json, hyperparameters: Json, sentence: str) -> None:
    name = unique("knn")
    good = {"predictor_type": "classifier", "feature_dim": "2", "k": "3", "sample_size": "60"}
    cloud.sagemaker.create_training_job(
        TrainingJobName=name,
        AlgorithmSpecification=ALGORITHM,
        HyperParameters=hyperparameters if hyperparameters == {"k": "3"} else good | hyperparameters,
        InputDataConfig=[csv_channel("train", data["train"])],
        OutputDataConfig={"S3OutputPath": f"s3://{BUCKET}/knn/results/"},
        ResourceConfig=RESOURCES,
        RoleArn=ROLE,
        StoppingCondition=LIMIT,
    )
    job = cloud.training_end(name)
    assert job["TrainingJobStatus"] == "Failed"
    assert sentence in job["FailureReason"]
