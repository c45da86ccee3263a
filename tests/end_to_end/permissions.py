"""Recorded calls → what IAM is asked for each of them, and whether a policy allows it.

Sources: https://docs.aws.amazon.com/service-authorization/latest/reference/ (actions and their resources),
https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html (S3's operations).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from scripts.policies import Permission

# Where the service's name in IAM is not boto3's.
PREFIXES = {"sagemaker-runtime": "sagemaker"}
S3_ACTIONS = {
    "HeadBucket": "ListBucket", "ListObjectsV2": "ListBucket", "ListObjects": "ListBucket", "HeadObject": "GetObject",
    "GetObject": "GetObject", "PutObject": "PutObject", "CopyObject": "PutObject", "CreateMultipartUpload": "PutObject",
    "UploadPart": "PutObject", "CompleteMultipartUpload": "PutObject", "AbortMultipartUpload": "AbortMultipartUpload",
    "DeleteObject": "DeleteObject", "DeleteObjects": "DeleteObject",
}  # fmt: skip
# Member of a SageMaker request → kind of resource in its ARN.
NAMED = {
    "TrainingJobName": "training-job", "ProcessingJobName": "processing-job", "TransformJobName": "transform-job",
    "HyperParameterTuningJobName": "hyper-parameter-tuning-job", "ModelPackageGroupName": "model-package-group",
    "EndpointName": "endpoint", "EndpointConfigName": "endpoint-config", "ModelName": "model",
}  # fmt: skip
# Operations whose request names something that IAM does not ask for.
ASKED_FOR = {
    "CreateTransformJob": {"TransformJobName"},
    "CreateEndpointConfig": {"EndpointConfigName"},
    "DescribeEndpointConfig": {"EndpointConfigName"},
    # The reference names no kind of resource that has the group in it.
    "ListModelPackages": set(),
    "ListTrainingJobsForHyperParameterTuningJob": {"HyperParameterTuningJobName"},
}
# IAM always allows it.
FREE = {("sts", "GetCallerIdentity")}


@dataclass(frozen=True)
class Ask:
    action: str
    resource: str
    context: Mapping[str, str] = field(default_factory=dict, hash=False, compare=False)


class UnknownCallError(ValueError):
    """There is no rule here for what IAM is asked for a call."""


def of_airflow(call: dict[str, Any], region: str, account: str) -> Iterator[Ask]:
    """:raises UnknownCallError: for an operation that is not known here."""
    service, operation, given = call["service"], call["operation"], call["parameters"]
    if (service, operation) in FREE:
        return
    if service == "s3":
        yield from _s3(operation, given)
        return
    action = f"{PREFIXES.get(service, service)}:{operation}"
    arn = f"arn:aws:{service.removesuffix('-runtime')}:{region}:{account}:"
    match service:
        case "sagemaker" | "sagemaker-runtime":
            resources = list(_sagemaker(operation, given, arn))
        case "logs":
            group, stream = given["logGroupName"], given.get("logStreamName")
            resources = [f"{arn}log-group:{group}:log-stream:{stream or ''}"]
        case "cloudwatch" if operation == "PutMetricData":
            yield Ask(action, "*", {"cloudwatch:namespace": given["Namespace"]})
            return
        case "cloudwatch":
            resources = [f"{arn}alarm:{given.get('AlarmName', '*')}"]
        case "iam":
            resources = [f"arn:aws:iam::{account}:role/{given['RoleName']}"]
        case "sns":
            resources = [given.get("TopicArn") or given["TargetArn"]]
        case _:
            raise UnknownCallError(f"{service}:{operation} {given}")
    for resource in resources:
        yield Ask(action, resource)
    if given.get("Tags") and operation != "AddTags":
        tag = "cloudwatch:TagResource" if service == "cloudwatch" else "sagemaker:AddTags"
        yield Ask(tag, resources[0])
    for role in _roles(given):
        yield Ask("iam:PassRole", role, {"iam:PassedToService": "sagemaker.amazonaws.com"})


def _s3(operation: str, given: dict[str, Any]) -> Iterator[Ask]:
    if operation not in S3_ACTIONS:
        raise UnknownCallError(f"s3:{operation} {given}")
    bucket, action = f"arn:aws:s3:::{given['Bucket']}", f"s3:{S3_ACTIONS[operation]}"
    if action == "s3:ListBucket":
        yield Ask(action, bucket)
        return
    keys = [item["Key"] for item in given["Delete"]["Objects"]] if "Delete" in given else [given["Key"]]
    yield from (Ask(action, f"{bucket}/{key}") for key in keys)
    if source := given.get("CopySource"):
        path = source if isinstance(source, str) else f"{source['Bucket']}/{source['Key']}"
        yield Ask("s3:GetObject", f"arn:aws:s3:::{unquote(path)}")


def _sagemaker(operation: str, given: dict[str, Any], arn: str) -> Iterator[str]:
    found = [f"{arn}{kind}/{given[member]}".lower()
             for member, kind in NAMED.items()
             if member in given and member in ASKED_FOR.get(operation, {member})]  # fmt: skip
    found += [
        given[member] for member in ("ResourceArn", "ModelPackageArn", "ModelPackageName") if member in given
    ]
    if operation == "CreateModelPackage":
        # Its version is not known yet.
        found += [f"{arn}model-package/{given['ModelPackageGroupName']}/1".lower()]
    if not found and not operation.startswith("List"):
        raise UnknownCallError(f"sagemaker:{operation} {given}")
    yield from found or ["*"]


def _roles(given: dict[str, Any]) -> Iterator[str]:
    for member in ("RoleArn", "ExecutionRoleArn"):
        if member in given:
            yield given[member]
    if "TrainingJobDefinition" in given:
        yield from _roles(given["TrainingJobDefinition"])


# What CloudWatch itself does, which the local cloud does in its place.
SERVICES_OWN = {
    "DescribeAlarmHistory",
    "GetMetricData",
    "GetMetricStatistics",
    "SetAlarmState",
    "ListMetrics",
}


def of_role(call: dict[str, Any], region: str, account: str) -> Iterator[Ask]:
    """What the local cloud does as SageMaker does it: with the job's role.

    :raises UnknownCallError: for a request that is not known here.
    """
    members = call["members"]
    if target := call["target"]:
        operation = target.partition(".")[2]
        if operation in SERVICES_OWN:
            return
        if target.startswith("Logs_"):
            group = f"arn:aws:logs:{region}:{account}:log-group:{members['logGroupName']}"
            stream = members.get("logStreamName")
            yield Ask(f"logs:{operation}", f"{group}:log-stream:{stream}" if stream else group)
        elif operation == "PutMetricData":
            yield Ask("cloudwatch:PutMetricData", "*", {"cloudwatch:namespace": members["Namespace"]})
        elif operation == "DescribeAlarms":
            yield Ask("cloudwatch:DescribeAlarms", f"arn:aws:cloudwatch:{region}:{account}:alarm:*")
        else:
            raise UnknownCallError(target)
        return
    place = urlsplit(call["path"])
    bucket, _, key = unquote(place.path).lstrip("/").partition("/")
    if call["method"] == "POST" and not bucket:
        # Looking up the role that it is given.
        return
    action = {"GET": "GetObject", "HEAD": "GetObject", "PUT": "PutObject"}[call["method"]]
    yield Ask(f"s3:{action if key else 'ListBucket'}", f"arn:aws:s3:::{bucket}" + (f"/{key}" if key else ""))


def allows(permission: Permission, ask: Ask) -> bool:
    """Whether IAM would, by this permission."""
    return (
        permission.action == ask.action
        and _like(permission.resource, ask.resource)
        and all(
            any(_like(pattern, ask.context.get(key, "")) for pattern in _listed(wanted))
            for tests in permission.conditions.values()
            for key, wanted in tests.items()
        )
    )


def _listed(value: str | list[str]) -> list[str]:
    return value if isinstance(value, list) else [value]


def _like(pattern: str, text: str) -> bool:
    parts = (re.escape(part) for part in pattern.split("*"))
    return re.fullmatch(".*".join(parts), text) is not None
