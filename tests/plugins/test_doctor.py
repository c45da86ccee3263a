"""`make doctor` against the real local cloud; what that does not have, against AWS's answers as botocore has them."""

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from evergreen.compute_settings import VpcConfig
from evergreen.settings import Pipeline, validate
from scripts import policies
from scripts.doctor import capacity, identity, places
from scripts.doctor.__main__ import examine
from scripts.doctor.finding import Clients, Finding, guarded, table
from scripts.local_stack import BUCKET, REGION, ROLE, Cloud

ACCOUNT = "000000000000"
GIVEN = policies.values(ACCOUNT, REGION, BUCKET)
KEY = "arn:aws:kms:us-east-1:123456789012:key/k"
VPC = VpcConfig(subnets=["subnet-1"], security_group_ids=["sg-1"])


def pipeline(**settings: Any) -> Pipeline:
    return validate({"dataset": {"source": "x"}, **settings}, "x.yaml")


def states(findings: Iterator[Finding]) -> list[tuple[str, str]]:
    return [(finding.check, finding.state) for finding in findings]


def only(findings: Iterator[Finding]) -> Finding:
    (finding,) = findings
    return finding


# With the local cloud


def test_the_local_account_has_nothing_to_fix(cloud: Cloud) -> None:
    found = list(examine(cloud.client, REGION, BUCKET, pipeline(debugger={"mode": "managed"}), local=True))
    assert not [finding for finding in found if finding.state == "fix"]
    checked = {finding.check for finding in found if finding.state == "ok"}
    assert checked >= {"credentials", "region", "role", "trust", "bucket", "encryption", "public access"}
    # What cannot be asked here says so, each with its reason.
    unknown = {finding.check: finding.sentence for finding in found if finding.state == "not checked"}
    assert unknown.keys() == {"role's permissions", "your permissions", "quota, image", "Debugger"}
    assert all(unknown.values())
    assert len(table(found).splitlines()) == len(found)


def test_keys_and_a_network_need_permissions_of_their_own(cloud: Cloud) -> None:
    compute = {"output_kms_key_id": KEY, "vpc_config": VPC.model_dump()}
    with_both = examine(cloud.client, REGION, BUCKET, pipeline(compute=compute), local=True)
    to_fix = [one.sentence for one in with_both if (one.check, one.state) == ("role's permissions", "fix")]
    assert [re.search(r"attach the policy (\S+)", sentence)[1] for sentence in to_fix] == [  # type: ignore[index]
        "execution-keys",
        "execution-vpc",
    ]


def test_a_role_that_is_missing_or_not_sagemakers_is_to_be_fixed(cloud: Cloud) -> None:
    missing = only(identity.role(cloud.client, "NoSuchRole"))
    assert (missing.state, "make it" in missing.sentence) == ("fix", True)
    trust = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
        ],
    }
    cloud.client("iam").create_role(RoleName="Machines", AssumeRolePolicyDocument=json.dumps(trust))
    assert states(identity.role(cloud.client, "arn:aws:iam::000000000000:role/Machines")) == [
        ("role", "ok"),
        ("trust", "fix"),
    ]


def test_permissions_are_simulated_with_the_policies_that_ship(cloud: Cloud) -> None:
    wanted = list(policies.permissions(policies.render("airflow", GIVEN)))
    iam = cloud.client("iam")
    iam.create_user(UserName="airflow")
    arn = f"arn:aws:iam::{ACCOUNT}:user/airflow"
    denied = only(identity.own_permissions(cloud.client, arn, "airflow", wanted[:3], local=True))
    assert denied.state == "fix"
    assert f"may not s3:ListBucket on {BUCKET}, s3:AbortMultipartUpload on" in denied.sentence
    iam.put_user_policy(
        UserName="airflow", PolicyName="airflow", PolicyDocument=json.dumps(policies.render("airflow", GIVEN))
    )
    allowed, unknown = identity.own_permissions(cloud.client, arn, "airflow", wanted, local=True)
    assert allowed.state == "ok"
    assert unknown.sentence.startswith("cloudwatch:PutMetricData, iam:PassRole: the local cloud's IAM")
    more = [policies.Permission("Other", "s3:GetObject", "arn:aws:s3:::somebody-elses/*", {})]
    assert only(identity.own_permissions(cloud.client, arn, "airflow", more, local=True)).state == "fix"


def test_the_bucket_is_looked_at(cloud: Cloud) -> None:
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket="careless")
    found = {finding.check: finding for finding in places.bucket(cloud.client, "careless", "eu-west-1", KEY)}
    assert (found["bucket"].state, found["public access"].state) == ("fix", "fix")
    assert "would run in eu-west-1" in found["bucket"].sentence
    assert found["encryption"].sentence.endswith(f"the pipeline's objects by {KEY}")
    missing = only(places.bucket(cloud.client, "nowhere-to-be-found", REGION, None))
    assert (missing.state, "does not exist" in missing.sentence) == ("fix", True)


# With AWS's answers


Answer = tuple[str, dict[str, Any], dict[str, Any]]


@pytest.fixture
def answering() -> Callable[..., Clients]:
    """Clients of AWS that answer, in this order, what botocore's model allows; a str is an error's code."""

    def made(service: str, *answers: Any) -> Clients:
        client = boto3.client(service, REGION, aws_access_key_id="test", aws_secret_access_key="test")
        stubber = Stubber(client)
        for operation, expected, answer in answers:
            if isinstance(answer, str):
                stubber.add_client_error(operation, answer, f"{answer}!", expected_params=expected)
            else:
                stubber.add_response(operation, answer, expected)
        stubber.activate()
        return lambda name: {service: client}[name]

    return made


def test_quotas_are_held_against_what_a_run_has_at_once(answering: Callable[..., Clients]) -> None:
    settings = pipeline(
        tuning={"max_jobs": 8, "max_parallel_jobs": 4},
        compute={
            "instance_type": "ml.c5.xlarge",
            "training_instance_type": "ml.g5.xlarge",
            "training_instance_count": 2,
            "feature_instance_count": 3,
            "use_spot_instances": True,
            "max_wait_seconds": 7200,
        },
        deployment={"instance_count": 2, "batch_predict": True},
    )
    asked = capacity.wanted(settings)
    assert asked == {
        "ml.g5.xlarge for spot training job usage": 4,
        "ml.c5.xlarge for processing job usage": 3,
        "ml.c5.xlarge for transform job usage": 1,
        # Both fleets, while an update is under way.
        "ml.m5.large for endpoint usage": 4,
    }
    rolling = {
        "instance_count": 4,
        "policy": "rolling",
        "maximum_batch_size": {"type": "INSTANCE_COUNT", "value": 1},
    }
    assert capacity.wanted(pipeline(deployment=rolling))["ml.m5.large for endpoint usage"] == 5
    warm = pipeline(compute={"keep_alive_period_seconds": 60})
    assert capacity.wanted(warm)["ml.m5.xlarge for training warm pool usage"] == 1
    granted = [(name, 4.0 if "spot" in name else 2.0) for name in list(asked)[:3]]
    answer = {"Quotas": [{"QuotaName": name, "Value": value} for name, value in granted]}
    clients = answering("service-quotas", ("list_service_quotas", {"ServiceCode": "sagemaker"}, answer))
    found = list(capacity.quotas(clients, asked))
    assert [finding.state for finding in found] == ["ok", "fix", "ok", "not checked"]
    assert "2, a run needs 3: ask for more in Service Quotas" in found[1].sentence


def test_an_image_that_is_not_there_is_to_be_fixed(answering: Callable[..., Clients]) -> None:
    uri = "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-training:2.10.0-cpu-py313"
    asked = {
        "registryId": "763104351884",
        "repositoryName": "pytorch-training",
        "imageIds": [{"imageTag": "2.10.0-cpu-py313"}],
    }
    failure = {"imageId": {"imageTag": "2.10.0-cpu-py313"}, "failureCode": "ImageNotFound"}
    for answer, state in (
        ({"images": [{"registryId": "763104351884"}]}, "ok"),
        ({"images": [], "failures": [failure]}, "fix"),
        ("RepositoryNotFoundException", "fix"),
        ("AccessDeniedException", "not checked"),
    ):
        clients = answering("ecr", ("batch_get_image", asked, answer))
        finding = only(guarded("image", lambda clients=clients: capacity.images(clients, [uri, uri])))  # type: ignore[misc]
        assert finding.state == state, finding
    unknown = only(capacity.images(answering("ecr"), ["registry.example.org/mine:1"]))
    assert unknown.state == "not checked"


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        ({"KeyMetadata": {"KeyId": "k", "Arn": KEY, "KeyState": "Enabled"}}, "ok"),
        ({"KeyMetadata": {"KeyId": "k", "Arn": KEY, "KeyState": "PendingDeletion"}}, "fix"),
        ({"KeyMetadata": {"KeyId": "k", "Arn": KEY, "KeyState": "Enabled", "KeySpec": "RSA_2048"}}, "fix"),
        ("NotFoundException", "fix"),
        ("AccessDeniedException", "not checked"),
    ],
)
def test_keys_must_be_there_and_symmetric(answering: Callable[..., Clients], answer: Any, state: str) -> None:
    clients = answering("kms", ("describe_key", {"KeyId": KEY}, answer))
    assert only(guarded("key", lambda: places.keys(clients, [KEY, KEY]))).state == state


@pytest.mark.parametrize(
    ("free", "vpc", "endpoints", "expected"),
    [
        (200, "vpc-1", ["com.amazonaws.us-east-1.s3"], [("network", "ok"), ("way to S3", "ok")]),
        (200, "vpc-1", [], [("network", "ok"), ("way to S3", "not checked")]),
        (3, "vpc-1", [], [("network", "fix"), ("way to S3", "not checked")]),
        (200, "vpc-2", [], [("network", "fix")]),
    ],
)
def test_subnets_and_groups_are_of_one_network_with_room(
    answering: Callable[..., Clients],
    free: int,
    vpc: str,
    endpoints: list[str],
    expected: list[tuple[str, str]],
) -> None:
    subnets = {"Subnets": [{"SubnetId": "subnet-1", "VpcId": "vpc-1", "AvailableIpAddressCount": free}]}
    groups = {"SecurityGroups": [{"GroupId": "sg-1", "VpcId": vpc}]}
    filters = {"Filters": [{"Name": "vpc-id", "Values": ["vpc-1"]}]}
    clients = answering(
        "ec2",
        ("describe_subnets", {"SubnetIds": ["subnet-1"]}, subnets),
        ("describe_security_groups", {"GroupIds": ["sg-1"]}, groups),
        ("describe_vpc_endpoints", filters, {"VpcEndpoints": [{"ServiceName": name} for name in endpoints]}),
    )
    assert states(places.network(clients, VPC, REGION)) == expected


def test_a_subnet_that_is_not_there_is_to_be_fixed(answering: Callable[..., Clients]) -> None:
    asked = {"SubnetIds": ["subnet-1"]}
    clients = answering("ec2", ("describe_subnets", asked, "InvalidSubnetID.NotFound"))
    assert states(places.network(clients, VPC, REGION)) == [("network", "fix")]


def test_debugger_is_known_by_an_earlier_job_with_rules(answering: Callable[..., Clients]) -> None:
    made = datetime(2026, 7, 1, tzinfo=UTC)
    summary = {
        "TrainingJobName": "old", "TrainingJobArn": "arn:aws:sagemaker:us-east-1:123456789012:training-job/old",
        "CreationTime": made, "TrainingJobStatus": "Completed",
    }  # fmt: skip
    described = {
        "TrainingJobName": "old", "TrainingJobArn": summary["TrainingJobArn"], "TrainingJobStatus": "Completed",
        "ModelArtifacts": {"S3ModelArtifacts": "s3://b/m"}, "SecondaryStatus": "Completed", "CreationTime": made,
        "AlgorithmSpecification": {"TrainingInputMode": "File"}, "ResourceConfig": {"VolumeSizeInGB": 1},
        "StoppingCondition": {},
        "DebugRuleConfigurations": [{"RuleConfigurationName": "Overfit", "RuleEvaluatorImage": "i"}],
    }  # fmt: skip
    asked = {
        "CreationTimeBefore": capacity.DEBUGGER_CLOSED, "SortBy": "CreationTime", "SortOrder": "Descending",
        "MaxResults": capacity.JOBS_LOOKED_AT,
    }  # fmt: skip
    clients = answering(
        "sagemaker",
        ("list_training_jobs", asked, {"TrainingJobSummaries": [summary]}),
        ("describe_training_job", {"TrainingJobName": "old"}, described),
    )
    assert only(capacity.debugger(clients)).state == "ok"
    nothing = answering("sagemaker", ("list_training_jobs", asked, {"TrainingJobSummaries": []}))
    assert only(capacity.debugger(nothing)).state == "not checked"


def test_a_condition_is_simulated_with_a_value_that_meets_it(answering: Callable[..., Clients]) -> None:
    wanted = [
        one for one in policies.permissions(policies.render("airflow", GIVEN)) if one.action == "iam:PassRole"
    ]
    role = f"arn:aws:iam::{ACCOUNT}:role/Airflow"
    asked = {
        "PolicySourceArn": role,
        "ActionNames": ["iam:PassRole"],
        "ResourceArns": [f"arn:aws:iam::{ACCOUNT}:role/{ROLE}"],
        "ContextEntries": [
            {
                "ContextKeyName": "iam:PassedToService",
                "ContextKeyType": "string",
                "ContextKeyValues": ["sagemaker.amazonaws.com"],
            }
        ],
    }
    answer = {"EvaluationResults": [{"EvalActionName": "iam:PassRole", "EvalDecision": "allowed"}]}
    clients = answering("iam", ("simulate_principal_policy", asked, answer))
    caller = f"arn:aws:sts::{ACCOUNT}:assumed-role/Airflow/session"
    assert only(identity.own_permissions(clients, caller, "airflow", wanted, local=False)).state == "ok"


def test_what_may_not_be_asked_is_not_checked(answering: Callable[..., Clients]) -> None:
    denied, me = "AccessDenied", f"arn:aws:iam::{ACCOUNT}:user/me"
    answers: dict[str, list[tuple[str, Any, Any]]] = {
        "sts": [("get_caller_identity", {}, {"Arn": me, "Account": ACCOUNT, "UserId": "u"})],
        "s3": [("head_bucket", {"Bucket": BUCKET}, "403")],
        "iam": [("get_role", None, denied), *[("simulate_principal_policy", None, denied)] * 2],
        "service-quotas": [("list_service_quotas", None, denied)],
        "ecr": [("batch_get_image", None, denied)],
    }
    made = {service: answering(service, *some)(service) for service, some in answers.items()}
    found = list(examine(made.__getitem__, REGION, BUCKET, pipeline()))
    assert [(one.check, one.state) for one in found] == [
        ("credentials", "ok"),
        ("region", "ok"),
        ("role", "not checked"),
        ("bucket", "fix"),
        ("role's permissions", "not checked"),
        ("your permissions", "not checked"),
        ("quota", "not checked"),
        ("image", "not checked"),
    ]
    assert all("AccessDenied" in one.sentence for one in found if one.state == "not checked")


def test_nobody_and_nowhere_are_said_at_once(answering: Callable[..., Clients]) -> None:
    unknown = answering("sts", ("get_caller_identity", {}, "InvalidClientTokenId"))
    assert states(examine(unknown, REGION, BUCKET, pipeline())) == [("credentials", "fix")]
    known = {"Arn": f"arn:aws:iam::{ACCOUNT}:user/me", "Account": ACCOUNT, "UserId": "u"}
    nowhere = answering("sts", ("get_caller_identity", {}, known))
    assert states(examine(nowhere, None, BUCKET, pipeline())) == [("credentials", "ok"), ("region", "fix")]
