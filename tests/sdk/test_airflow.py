"""Airflow's own SageMaker example, operator by operator: the built-in algorithm's image is a row of images.yaml.

Of https://github.com/apache/airflow/blob/main/providers/amazon/tests/system/amazon/aws/example_sagemaker.py only the
registry of container images, AutoML and experiments are left out.
"""

import json
from typing import Any

import pytest
from airflow.providers.amazon.aws.operators.s3 import S3CreateBucketOperator, S3CreateObjectOperator
from airflow.providers.amazon.aws.operators.sagemaker import (
    SageMakerDeleteModelOperator,
    SageMakerModelOperator,
    SageMakerProcessingOperator,
    SageMakerRegisterModelVersionOperator,
    SageMakerTrainingOperator,
    SageMakerTransformOperator,
    SageMakerTuningOperator,
)
from airflow.providers.amazon.aws.sensors.sagemaker import (
    SageMakerProcessingSensor,
    SageMakerTrainingSensor,
    SageMakerTransformSensor,
    SageMakerTuningSensor,
)

from tests.local_sagemaker.cloud_client import ROLE, Cloud

KNN = "382416733822.dkr.ecr.us-east-1.amazonaws.com/knn:1"
BUCKET = "airflow-sagemaker-example"
SIZE = 600
RESOURCES = {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 1}
LIMIT = {"MaxRuntimeInSeconds": 600}
ALGORITHM = {"TrainingImage": KNN, "TrainingInputMode": "File"}

Json = dict[str, Any]


@pytest.fixture
def connection(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {
        "region_name": "us-east-1",
        "endpoint_url": cloud.address["aws"],
        "service_config": {"sagemaker": {"endpoint_url": cloud.address["sagemaker"]}},
    }
    value = {"conn_type": "aws", "login": "test", "password": "test", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(value))


def run(operator: Any) -> Any:
    return operator.execute({})


def channel(name: str) -> Json:
    source = {
        "S3DataDistributionType": "FullyReplicated",
        "S3DataType": "S3Prefix",
        "S3Uri": f"s3://{BUCKET}/processed/train.csv",
    }
    return {
        "ChannelName": name,
        "CompressionType": "None",
        "ContentType": "text/csv",
        "DataSource": {"S3DataSource": source},
    }


PROCESSING = {
    "ProcessingJobName": "example-processing",
    "ProcessingInputs": [
        {
            "InputName": "input",
            "AppManaged": False,
            "S3Input": {
                "S3Uri": f"s3://{BUCKET}/preprocessing/input.csv",
                "LocalPath": "/opt/ml/processing/input",
                "S3DataType": "S3Prefix",
                "S3InputMode": "File",
                "S3DataDistributionType": "FullyReplicated",
                "S3CompressionType": "None",
            },
        }
    ],
    "ProcessingOutputConfig": {
        "Outputs": [
            {
                "OutputName": "output",
                "S3Output": {
                    "S3Uri": f"s3://{BUCKET}/processed",
                    "LocalPath": "/opt/ml/processing/output",
                    "S3UploadMode": "EndOfJob",
                },
                "AppManaged": False,
            }
        ]
    },
    "ProcessingResources": {"ClusterConfig": RESOURCES},
    "StoppingCondition": LIMIT,
    "AppSpecification": {"ImageUri": "test/preprocess:1"},
    "RoleArn": ROLE,
}
TRAINING = {
    "AlgorithmSpecification": ALGORITHM,
    "HyperParameters": {
        "predictor_type": "classifier",
        "feature_dim": "2",
        "k": "3",
        "sample_size": str(SIZE),
    },
    "InputDataConfig": [channel("train")],
    "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/results/"},
    "ResourceConfig": RESOURCES,
    "RoleArn": ROLE,
    "StoppingCondition": LIMIT,
    "TrainingJobName": "example-train",
}
WEIGHTS = f"s3://{BUCKET}/results/example-train/output/model.tar.gz"
MODEL = {
    "ExecutionRoleArn": ROLE,
    "ModelName": "example-KNN-model",
    "PrimaryContainer": {"Mode": "SingleModel", "Image": KNN, "ModelDataUrl": WEIGHTS},
}
TUNING = {
    "HyperParameterTuningJobName": "example-tune",
    "HyperParameterTuningJobConfig": {
        "Strategy": "Bayesian",
        "HyperParameterTuningJobObjective": {"MetricName": "test:accuracy", "Type": "Maximize"},
        "ResourceLimits": {"MaxNumberOfTrainingJobs": 10, "MaxParallelTrainingJobs": 10},
        "ParameterRanges": {
            "CategoricalParameterRanges": [],
            "IntegerParameterRanges": [
                {"Name": name, "MinValue": "1", "MaxValue": str(SIZE)} for name in ("k", "sample_size")
            ],
        },
    },
    "TrainingJobDefinition": {
        "StaticHyperParameters": {"predictor_type": "classifier", "feature_dim": "2"},
        "AlgorithmSpecification": ALGORITHM,
        "InputDataConfig": [channel("train"), channel("test")],
        "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/results"},
        "ResourceConfig": RESOURCES,
        "RoleArn": ROLE,
        "StoppingCondition": LIMIT,
    },
}
TRANSFORM = {
    "TransformJobName": "example-transform",
    "TransformInput": {
        "DataSource": {
            "S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/processed/test.csv"}
        },
        "SplitType": "Line",
        "ContentType": "text/csv",
    },
    "TransformOutput": {"S3OutputPath": f"s3://{BUCKET}/transform"},
    "TransformResources": {"InstanceCount": 1, "InstanceType": "ml.m5.large"},
    "ModelName": MODEL["ModelName"],
}


@pytest.mark.usefixtures("connection")
def test_the_example(cloud: Cloud) -> None:
    rows = "".join(f"{number % 100},{number},{SIZE - number}\n" for number in range(SIZE))
    run(S3CreateBucketOperator(task_id="bucket", bucket_name=BUCKET))
    run(
        S3CreateObjectOperator(
            task_id="data", s3_bucket=BUCKET, s3_key="preprocessing/input.csv", data="class,x,y\n" + rows
        )
    )
    run(SageMakerProcessingOperator(task_id="process", config=PROCESSING, wait_for_completion=False))
    run(
        SageMakerProcessingSensor(
            task_id="await_processing", job_name="example-processing", poke_interval=0.5
        )
    )
    # With print_log both describe the job every 30 s only.
    run(
        SageMakerTrainingOperator(
            task_id="train", config=TRAINING, wait_for_completion=False, print_log=False
        )
    )
    run(
        SageMakerTrainingSensor(
            task_id="await_training", job_name="example-train", poke_interval=0.5, print_log=False
        )
    )
    run(SageMakerModelOperator(task_id="model", config=MODEL))
    arn = run(
        SageMakerRegisterModelVersionOperator(
            task_id="register", image_uri=KNN, model_url=WEIGHTS, package_group_name="example-group"
        )
    )
    assert cloud.sagemaker.describe_model_package(ModelPackageName=arn)["ModelPackageStatus"] == "Completed"
    run(SageMakerTuningOperator(task_id="tune", config=TUNING, wait_for_completion=False))
    run(SageMakerTuningSensor(task_id="await_tuning", job_name="example-tune", poke_interval=0.5))
    job = cloud.sagemaker.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName="example-tune")
    assert job["TrainingJobStatusCounters"]["Completed"] == 10
    assert "FinalHyperParameterTuningJobObjectiveMetric" in job["BestTrainingJob"]
    run(SageMakerTransformOperator(task_id="transform", config=TRANSFORM, wait_for_completion=False))
    run(SageMakerTransformSensor(task_id="await_transform", job_name="example-transform", poke_interval=0.5))
    answer = json.loads(cloud.read(f"s3://{BUCKET}/transform/test.csv.out"))
    assert len(answer["predictions"]) == SIZE - int(0.7 * SIZE)
    run(SageMakerDeleteModelOperator(task_id="delete", config={"ModelName": MODEL["ModelName"]}))
