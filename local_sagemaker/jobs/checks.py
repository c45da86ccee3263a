"""What is checked before anything starts, each with AWS's sentence: S3 sources, buckets, instance counts."""

import urllib.parse

from local_sagemaker.api.protocol import ApiError, invalid
from local_sagemaker.aws.s3 import TransferError, split
from local_sagemaker.cloud import Cloud

MOST_INSTANCES = 8
"""Instances of one job; on AWS it is a quota of the account for each instance type."""


def check_s3_source(cloud: Cloud, uri: str, data_type: str, role_arn: str, region: str = "us-east-1") -> None:
    """Raises ApiError when nothing is below the prefix, or no manifest is at the URI.

    AWS checks training, tuning and transform jobs so; a processing job fails when it runs.
    """
    bucket, key = _split(uri)
    there = _below(cloud, bucket, key) if data_type == "S3Prefix" else _exists(cloud, bucket, key)
    if not there:
        raise invalid(
            f'No S3 objects found under S3 URL "{uri}" given in input data source. Please ensure that the bucket '
            f"exists in the selected region ({region}), that objects exist under that S3 prefix, and that the role "
            f'"{role_arn}" has "s3:ListBucket" permissions on bucket "{bucket}".'
        )


def check_model_data(cloud: Cloud, uri: str, data_type: str = "S3Object") -> None:
    """Raises ApiError when there is no object at the URI, or with S3Prefix below it."""
    bucket, key = _split(uri)
    if not (_below(cloud, bucket, key) if data_type == "S3Prefix" else _exists(cloud, bucket, key)):
        raise invalid(f"Could not find model data at {uri}.")


def check_bucket(cloud: Cloud, uri: str) -> None:
    """Raises ApiError when an output's bucket does not exist.

    On AWS this shows at the job's end, as `ClientError: Artifact upload failed`; before it has run is better.
    """
    bucket, _ = _split(uri)
    if cloud.aws.request("HEAD", f"/{bucket}")[0] != 200:
        raise invalid(f'The S3 bucket "{bucket}" of the output path "{uri}" does not exist; create it first.')


def check_instances(instance_type: str, count: int, usage: str) -> None:
    """Raises ApiError when a job asks for more than 8 instances.

    `usage` is what AWS's quotas call it: "training job", "processing job", "transform job", "endpoint".
    """
    if count > MOST_INSTANCES:
        raise ApiError(
            "ResourceLimitExceeded",
            f"The account-level service limit '{instance_type} for {usage} usage' is {MOST_INSTANCES} Instances, with "
            f"current utilization of 0 Instances and a request delta of {count} Instances. Please use AWS Service "
            "Quotas to request an increase for this quota. If AWS Service Quotas is not available, contact AWS "
            "support to request an increase for this quota.",
        )


def _split(uri: str) -> tuple[str, str]:
    try:
        bucket, key = split(uri)
    except TransferError as error:
        raise invalid(f"{uri} is not an S3 URI (s3://BUCKET/KEY)") from error
    return urllib.parse.quote(bucket, safe=""), key


def _below(cloud: Cloud, bucket: str, prefix: str) -> bool:
    query = urllib.parse.urlencode({"list-type": 2, "max-keys": 1, "prefix": prefix})
    return b"<Key>" in cloud.aws.request("GET", f"/{bucket}?{query}")[1]


def _exists(cloud: Cloud, bucket: str, key: str) -> bool:
    return bool(key) and cloud.aws.request("HEAD", f"/{bucket}/{urllib.parse.quote(key)}")[0] == 200
