"""Where jobs run, with whose keys and in which network: every request has it, and the local cloud takes it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evergreen import alarms, deployment_requests, requests, source_code
from evergreen.plan import Plan
from evergreen.settings import SettingsError, validate
from evergreen.transfer import Sync
from scripts.local_stack import BUCKET, ROLE, Cloud
from tests.plugins.test_durable import IMAGE
from tests.plugins.test_requests import CODE, DATASET, FEATURES, TRAINING, TUNING, plan, valid

KEY, VOLUME_KEY = "arn:aws:kms:us-east-1:123456789012:key/output", "1234abcd-12ab-34cd-56ef-1234567890ab"
SERVING_IMAGE = IMAGE.replace("training:2.10.0-cpu-py313", "inference:2.6.0-cpu-py312")
VPC = {"subnets": ["subnet-1", "subnet-2"], "security_group_ids": ["sg-1"]}
ON_AWS = {"Subnets": VPC["subnets"], "SecurityGroupIds": VPC["security_group_ids"]}
SPOT = {"use_spot_instances": True, "max_wait_seconds": 7200}
EVERYTHING: dict[str, Any] = {
    "training_instance_type": "ml.g5.xlarge",
    "feature_instance_type": "ml.g4dn.xlarge",
    "assess_instance_type": "ml.c5.xlarge",
    "volume_kms_key_id": VOLUME_KEY,
    "output_kms_key_id": KEY,
    "vpc_config": VPC,
    "encrypt_inter_container_traffic": True,
    "enable_network_isolation": True,
    "training_image": IMAGE,
    "inference_image": SERVING_IMAGE,
    "tags": {"team": "vision", "cost-centre": "42"},
}
ASSESSMENT = {"accuracy": 0.9, "model_version": "v"}
CAPTURE = {"data_capture": {"initial_sampling_percentage": 10}}


def planned(**compute: Any) -> Plan:
    made = plan(compute=EVERYTHING | compute, deployment=CAPTURE)
    return made.model_copy(update={"training_image": IMAGE, "inference_image": SERVING_IMAGE})


def everything(wanted: Plan, model_name: str = "m") -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Operation, the member that names what it makes, and the request, of all that a run makes."""
    model = deployment_requests.model(wanted, "s3://b/m.tar.gz")
    features = requests.extract_features(
        wanted, DATASET, CODE, None, DATASET["manifests"], wanted.uri("features")
    )
    assess = requests.assess(wanted, DATASET, CODE, TRAINING, None, "s3://b/context.json", "s3://b/sample")
    source = {"S3DataType": "S3Prefix", "S3Uri": "s3://b/p/"}
    yield (
        "CreateProcessingJob",
        "ProcessingJobName",
        requests.fetch_weights(wanted, CODE, wanted.uri("weights")),
    )
    yield "CreateProcessingJob", "ProcessingJobName", features
    yield "CreateProcessingJob", "ProcessingJobName", assess
    yield (
        "CreateHyperParameterTuningJob",
        "HyperParameterTuningJobName",
        requests.tune(wanted, DATASET, FEATURES, CODE),
    )
    yield "CreateTrainingJob", "TrainingJobName", requests.retrain(wanted, DATASET, FEATURES, CODE, TUNING)
    yield "CreateModel", "ModelName", model
    yield (
        "CreateEndpointConfig",
        "EndpointConfigName",
        deployment_requests.endpoint_config(wanted, model_name, None),
    )
    yield (
        "CreateTransformJob",
        "TransformJobName",
        deployment_requests.batch_predict(wanted, model_name, source),
    )


@pytest.mark.parametrize("compute", [{}, SPOT, {"keep_alive_period_seconds": 1800}])
def test_every_request_with_every_setting_is_a_valid_one(compute: dict[str, Any]) -> None:
    wanted = planned(**compute)
    for operation, name, request in everything(wanted):
        valid(operation, {name: "n", **request})
    valid("CreateModelPackageGroup", deployment_requests.model_package_group(wanted))
    valid("CreateEndpoint", deployment_requests.create_endpoint(wanted, "c"))
    for alarm in alarms.build(wanted, "c"):
        valid("PutMetricAlarm", alarm, "cloudwatch")


def test_every_request_has_the_keys_the_network_and_the_tags() -> None:
    for operation, _, request in everything(planned()):
        text = json.dumps(request)
        assert {"Key": "team", "Value": "vision"} in request["Tags"]
        if operation != "CreateModel":
            assert VOLUME_KEY in text
        if operation not in {"CreateModel", "CreateEndpointConfig"}:
            assert KEY in text
        # An endpoint and a transform job are where their model is.
        if operation not in {"CreateEndpointConfig", "CreateTransformJob"}:
            assert json.dumps(ON_AWS["Subnets"]) in text
    capture = deployment_requests.endpoint_config(planned(), "m", None)["DataCaptureConfig"]
    assert capture["KmsKeyId"] == KEY
    lasting = deployment_requests.create_endpoint(planned(), "c")["Tags"]
    assert "evergreen:run" not in {tag["Key"] for tag in lasting}


def test_each_kind_of_job_has_its_own_instances() -> None:
    made = {operation + str(n): request for n, (operation, _, request) in enumerate(everything(planned()))}
    types = {
        key: re.findall(r'"InstanceType": "([\w.]+)"', json.dumps(request)) for key, request in made.items()
    }
    assert types == {
        "CreateProcessingJob0": ["ml.m5.xlarge"],
        "CreateProcessingJob1": ["ml.g4dn.xlarge"],
        "CreateProcessingJob2": ["ml.c5.xlarge"],
        "CreateHyperParameterTuningJob3": ["ml.g5.xlarge"],
        "CreateTrainingJob4": ["ml.g5.xlarge"],
        "CreateModel5": [],
        "CreateEndpointConfig6": ["ml.m5.large"],
        "CreateTransformJob7": ["ml.m5.xlarge"],
    }


def test_spot_is_for_trials_and_retraining_and_a_warm_pool_for_the_retraining_alone() -> None:
    spot = {operation: request for operation, _, request in everything(planned(**SPOT))}
    trial, retraining = (
        spot["CreateHyperParameterTuningJob"]["TrainingJobDefinition"],
        spot["CreateTrainingJob"],
    )
    for request in (trial, retraining):
        assert request["EnableManagedSpotTraining"] is True
        assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 7200}
    assert "CheckpointConfig" in retraining
    assert planned(**SPOT).pipeline.compute.time_limit_seconds == 7200
    warm = {
        operation: request for operation, _, request in everything(planned(keep_alive_period_seconds=600))
    }
    assert warm["CreateTrainingJob"]["ResourceConfig"]["KeepAlivePeriodInSeconds"] == 600
    assert "KeepAlivePeriodInSeconds" not in json.dumps(warm["CreateHyperParameterTuningJob"])


def test_a_container_without_a_network_gets_its_code_by_a_channel() -> None:
    request = requests.retrain(planned(), DATASET, FEATURES, CODE, TUNING)
    channels = {one["ChannelName"]: one["DataSource"]["S3DataSource"] for one in request["InputDataConfig"]}
    assert channels["code"]["S3Uri"] == CODE["archive"]
    assert (
        request["HyperParameters"]["sagemaker_submit_directory"] == "/opt/ml/input/data/code/sourcedir.tar.gz"
    )
    fetching = requests.fetch_weights(planned(), CODE, "s3://b/w")
    assert "EnableNetworkIsolation" not in fetching["NetworkConfig"]


@pytest.mark.parametrize(
    ("compute", "sentence"),
    [
        ({"use_spot_instances": True}, r"needs max_wait_seconds, of at least max_runtime_seconds \(3600\)"),
        ({**SPOT, "max_wait_seconds": 600}, r"needs max_wait_seconds, of at least"),
        ({"max_wait_seconds": 7200}, r"is for spot instances"),
        ({**SPOT, "keep_alive_period_seconds": 60}, r"exclude each other"),
        ({"enable_network_isolation": True}, r"needs training_image and inference_image"),
        ({"tags": {"aws:team": "x"}}, r"aws:team begins with aws: or evergreen:"),
        ({"vpc_config": {"subnets": [], "security_group_ids": ["sg-1"]}}, r"vpc_config\.subnets"),
        ({"vpc_config": {"subnets": ["here"], "security_group_ids": ["sg-1"]}}, r"vpc_config\.subnets\.0"),
    ],
)
def test_what_sagemaker_would_refuse_is_said_before(compute: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        validate({"dataset": {"source": "x"}, "compute": compute}, "x.yaml")


RECORDED = {
    "VpcConfig", "NetworkConfig", "ResourceConfig", "ProcessingResources", "ProcessingOutputConfig", "OutputDataConfig",
    "TransformOutput", "TransformResources", "KmsKeyId", "EnableNetworkIsolation", "EnableManagedSpotTraining",
    "EnableInterContainerTrafficEncryption",
}  # fmt: skip


@pytest.mark.parametrize("compute", [SPOT, {"keep_alive_period_seconds": 600}], ids=["spot", "warm"])
def test_the_local_cloud_takes_every_request(cloud: Cloud, compute: dict[str, Any]) -> None:
    """It says of each member what it was given; of those that it does not carry out, network isolation is refused."""
    sagemaker = cloud.client("sagemaker")
    wanted = planned(**compute, enable_network_isolation=False).model_copy(
        update={"role": f"arn:aws:iam::000000000000:role/{ROLE}", "bucket": BUCKET}
    )
    for key in ("train/x", "validation/x", "trunk/x"):
        cloud.client("s3").put_object(Bucket=BUCKET, Key=f"features/k/{key}", Body=b"x")
    for key in ("code/sourcedir.tar.gz", "m.tar.gz", "p/x"):
        cloud.client("s3").put_object(Bucket=BUCKET, Key=key, Body=b"x")
    model = f"computed-{len(compute)}"
    for number, (operation, member, request) in enumerate(everything(wanted, model)):
        request = json.loads(json.dumps(request).replace("s3://b/", f"s3://{BUCKET}/"))
        name = model if operation == "CreateModel" else f"{model}-{number}"
        verb, noun = operation[:6].lower(), re.sub(r"(?<!^)(?=[A-Z])", "_", operation[6:]).lower()
        getattr(sagemaker, f"{verb}_{noun}")(**{member: name, **request})
        described = getattr(sagemaker, f"describe_{noun}")(**{member: name})
        assert {key: value for key, value in request.items() if key in RECORDED} == {
            key: value for key, value in described.items() if key in RECORDED and key in request
        }


def test_a_job_without_a_network_finds_its_code_in_the_channel(cloud: Cloud) -> None:
    script = b"print('here')"
    archive = source_code.SourceCode((("train.py", script),)).archive()
    cloud.client("s3").put_object(Bucket=BUCKET, Key="isolated/sourcedir.tar.gz", Body=archive)
    for name in ("train", "validation", "trunk"):
        cloud.client("s3").put_object(Bucket=BUCKET, Key=f"isolated/{name}/x", Body=b"x")
    wanted = planned(vpc_config=None).model_copy(
        update={"role": f"arn:aws:iam::000000000000:role/{ROLE}", "bucket": BUCKET}
    )
    code = {**CODE, "archive": f"s3://{BUCKET}/isolated/sourcedir.tar.gz"}
    request = requests.retrain(wanted, DATASET, {"uri": f"s3://{BUCKET}/isolated"}, code, TUNING)
    sagemaker = cloud.client("sagemaker")
    sagemaker.create_training_job(TrainingJobName="isolated", **request)
    waiter = sagemaker.get_waiter("training_job_completed_or_stopped")
    waiter.wait(TrainingJobName="isolated", WaiterConfig={"Delay": 1, "MaxAttempts": 60})
    described = sagemaker.describe_training_job(TrainingJobName="isolated")
    assert described["TrainingJobStatus"] == "Completed", described.get("FailureReason")


def test_what_airflow_writes_is_encrypted_with_the_key(cloud: Cloud, tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        for kind in ("a", "b"):
            (tmp_path / split / kind).mkdir(parents=True)
            (tmp_path / split / kind / "1.jpg").write_bytes(b"\xff\xd8\xff\xe0" + f"{split}{kind}".encode())
    s3, arguments = cloud.client("s3"), planned().s3_arguments
    splits = {name: name for name in ("train", "validation", "test")}
    with Sync(s3, tmp_path, splits, BUCKET, "encrypted", None, arguments) as sync:
        sync.look()
        assert sync.send() == 6
        sync.publish(anew=True)
    for item in s3.list_objects_v2(Bucket=BUCKET, Prefix="encrypted/")["Contents"]:
        head = s3.head_object(Bucket=BUCKET, Key=item["Key"])
        assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", KEY), item["Key"]
