"""What is refused before anything starts: each check against the real IAM and S3 of the local cloud."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from local_sagemaker.api.protocol import ApiError
from local_sagemaker.aws.client import Aws
from local_sagemaker.jobs.checks import check_bucket, check_instances, check_model_data, check_s3_source
from local_sagemaker.jobs.roles import check_role
from local_sagemaker.store import Store
from tests.local_sagemaker.cloud_client import BUCKET, ROLE, TRUST, Cloud, unique


def service(cloud: Cloud) -> Any:
    """The part of the service's Cloud that checks use: where AWS is."""
    return SimpleNamespace(aws=Aws(cloud.address["aws"]), store=Store(Path(":memory:")))


def trust(**changes: Any) -> Any:
    policy: Any = copy.deepcopy(TRUST)
    policy["Statement"][0].update(changes)
    return policy


@pytest.mark.parametrize(
    "policy",
    [
        TRUST,
        trust(Principal={"Service": ["ec2.amazonaws.com", "sagemaker.amazonaws.com"]}),
        trust(Action=["sts:AssumeRole", "sts:TagSession"]),
        {"Version": "2012-10-17", "Statement": TRUST["Statement"][0]},
        {"Version": "2012-10-17", "Statement": [trust(Principal={"AWS": ROLE})["Statement"][0], TRUST["Statement"][0]]},
    ],
)  # fmt: skip
def test_a_role_that_trusts_sagemaker_is_taken(cloud: Cloud, policy: Any) -> None:
    check_role(service(cloud), cloud.role(unique("trusting"), policy))


def test_a_role_below_a_path_is_taken_with_its_path_only(cloud: Cloud) -> None:
    name = unique("path")
    iam = cloud.client("iam")
    arn = iam.create_role(RoleName=name, Path="/service-role/", AssumeRolePolicyDocument=json.dumps(TRUST))[
        "Role"
    ]["Arn"]
    check_role(service(cloud), arn)
    with pytest.raises(ApiError, match="Could not assume role"):
        check_role(service(cloud), f"arn:aws:iam::000000000000:role/{name}")


@pytest.mark.parametrize(
    "policy",
    [
        trust(Principal={"Service": "lambda.amazonaws.com"}),
        trust(Principal={"AWS": "arn:aws:iam::000000000000:root"}),
        trust(Effect="Deny"),
        trust(Action="sts:TagSession"),
        {"Version": "2012-10-17", "Statement": [*TRUST["Statement"], *trust(Effect="Deny")["Statement"]]},
        "some policy",
        {"Version": "2012-10-17", "Statement": "all of it"},
    ],
)
def test_a_role_that_does_not_trust_sagemaker_is_refused(cloud: Cloud, policy: Any) -> None:
    arn = cloud.role(unique("distrusting"), policy)
    with pytest.raises(ApiError) as refused:
        check_role(service(cloud), arn)
    assert refused.value.code == "ValidationException"
    assert refused.value.message == (
        f"Could not assume role {arn}. Please ensure that the role exists and allows principal "
        "'sagemaker.amazonaws.com' to assume the role."
    )


@pytest.mark.parametrize(
    ("arn", "sentence"),
    [
        ("arn:aws:iam::000000000000:role/no-such-role", "Could not assume role"),
        ("arn:aws:iam::000000000000:role/a&Action=ListRoles", "Could not assume role"),
        ("arn:aws:iam::111111111111:role/EvergreenSageMakerRole", "Cross-account pass role is not allowed."),
        ("arn:aws:iam::000000000000:user/someone", "is not the ARN of a role"),
    ],
)
def test_other_roles_are_refused(cloud: Cloud, arn: str, sentence: str) -> None:
    with pytest.raises(ApiError, match=sentence):
        check_role(service(cloud), arn)


def test_a_source_has_objects_below_its_prefix(cloud: Cloud) -> None:
    uri = cloud.put(f"{unique('source')}/deep/a b+c.txt", "x")
    folder = uri.rpartition("/")[0]
    for there in (uri, folder, folder + "/", uri[:-3], f"s3://{BUCKET}", f"s3://{BUCKET}/"):
        check_s3_source(service(cloud), there, "S3Prefix", ROLE)
    check_s3_source(service(cloud), uri, "ManifestFile", ROLE)
    check_model_data(service(cloud), uri)
    for missing, data_type in (
        (f"{uri}x", "S3Prefix"),
        ("s3://no-such-bucket/x", "S3Prefix"),
        (folder, "ManifestFile"),
        (f"s3://{BUCKET}", "ManifestFile"),
        ("s3://no-such-bucket/x", "ManifestFile"),
    ):
        with pytest.raises(ApiError) as refused:
            check_s3_source(service(cloud), missing, data_type, ROLE)
        bucket = missing.split("/")[2]
        assert refused.value.code == "ValidationException"
        assert refused.value.message == (
            f'No S3 objects found under S3 URL "{missing}" given in input data source. Please ensure that the '
            "bucket exists in the selected region (us-east-1), that objects exist under that S3 prefix, and that "
            f'the role "{ROLE}" has "s3:ListBucket" permissions on bucket "{bucket}".'
        )
    with pytest.raises(ApiError, match=rf"Could not find model data at {folder}\."):
        check_model_data(service(cloud), folder)


def test_an_output_bucket_exists(cloud: Cloud) -> None:
    check_bucket(service(cloud), f"s3://{BUCKET}/any/where")
    check_bucket(service(cloud), f"s3://{BUCKET}")
    for uri in ("s3://no-such-bucket/out", "s3://No Such?Bucket/out"):
        with pytest.raises(ApiError, match="does not exist; create it first"):
            check_bucket(service(cloud), uri)
    with pytest.raises(ApiError, match="is not an S3 URI"):
        check_bucket(service(cloud), "https://elsewhere/out")


def test_eight_instances_are_the_limit() -> None:
    check_instances("ml.m5.large", 8, "training job")
    with pytest.raises(ApiError) as refused:
        check_instances("ml.p3.2xlarge", 9, "training job")
    assert refused.value.code == "ResourceLimitExceeded"
    assert refused.value.message.startswith(
        "The account-level service limit 'ml.p3.2xlarge for training job usage' is 8 Instances, with current "
        "utilization of 0 Instances and a request delta of 9 Instances."
    )
