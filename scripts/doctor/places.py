"""The bucket, the keys and the network that a pipeline names."""

from collections.abc import Iterator, Sequence

from botocore.exceptions import ClientError

from evergreen.compute_settings import VpcConfig
from scripts.doctor.finding import Clients, Finding, code

# S3's word for its first region.
DEFAULT_REGION = "us-east-1"
# Fewer free addresses than that, and a job with several instances may not start.
ADDRESSES = 16


def bucket(clients: Clients, name: str, region: str, key: str | None) -> Iterator[Finding]:
    """:param key: compute.output_kms_key_id"""
    s3 = clients("s3")
    try:
        s3.head_bucket(Bucket=name)
    except ClientError as error:
        if code(error) not in {"404", "NoSuchBucket", "403"}:
            raise
        what = "belongs to somebody else, or may not be read" if code(error) == "403" else "does not exist"
        yield Finding(
            "bucket", "fix", f"{name} {what}: make one (docs/aws.md), or name another in compute.bucket"
        )
        return
    there = s3.get_bucket_location(Bucket=name)["LocationConstraint"] or DEFAULT_REGION
    if there == region:
        yield Finding("bucket", "ok", f"{name} in {there}")
    else:
        yield Finding(
            "bucket",
            "fix",
            f"{name} is in {there}, and SageMaker's jobs would run in {region}: use one region",
        )
    yield _encryption(clients, name, key)
    yield _public_access(clients, name)
    status = s3.get_bucket_versioning(Bucket=name).get("Status", "off")
    note = "" if status == "Enabled" else ": what is overwritten or deleted is gone"
    yield Finding("versioning", "ok", f"{status}{note}")


def _encryption(clients: Clients, name: str, key: str | None) -> Finding:
    try:
        rules = clients("s3").get_bucket_encryption(Bucket=name)["ServerSideEncryptionConfiguration"]["Rules"]
    except ClientError as error:
        if code(error) != "ServerSideEncryptionConfigurationNotFoundError":
            raise
        return Finding(
            "encryption", "fix", f"{name} has no default encryption: aws s3api put-bucket-encryption"
        )
    default = rules[0]["ApplyServerSideEncryptionByDefault"]
    used = default.get("KMSMasterKeyID") or default["SSEAlgorithm"]
    asked = f"; the pipeline's objects by {key}" if key else ""
    return Finding("encryption", "ok", f"by {used}{asked}")


def _public_access(clients: Clients, name: str) -> Finding:
    try:
        block = clients("s3").get_public_access_block(Bucket=name)["PublicAccessBlockConfiguration"]
    except ClientError as error:
        if code(error) != "NoSuchPublicAccessBlockConfiguration":
            raise
        block = {}
    if len(block) == 4 and all(block.values()):
        return Finding("public access", "ok", "is blocked")
    return Finding("public access", "fix", f"to {name} is not blocked: aws s3api put-public-access-block")


def keys(clients: Clients, wanted: Sequence[str]) -> Iterator[Finding]:
    for key in dict.fromkeys(wanted):
        try:
            found = clients("kms").describe_key(KeyId=key)["KeyMetadata"]
        except ClientError as error:
            if code(error) != "NotFoundException":
                raise
            yield Finding("key", "fix", f"there is no key {key} in this region")
            continue
        if found["KeyState"] != "Enabled":
            yield Finding("key", "fix", f"{key} is {found['KeyState']}: enable it, or name another")
        elif found.get("KeySpec", "SYMMETRIC_DEFAULT") != "SYMMETRIC_DEFAULT":
            yield Finding("key", "fix", f"{key} is {found['KeySpec']}: SageMaker and S3 take symmetric keys")
        else:
            yield Finding("key", "ok", found["Arn"])


def network(clients: Clients, vpc: VpcConfig, region: str) -> Iterator[Finding]:
    ec2 = clients("ec2")
    try:
        subnets = ec2.describe_subnets(SubnetIds=vpc.subnets)["Subnets"]
        groups = ec2.describe_security_groups(GroupIds=vpc.security_group_ids)["SecurityGroups"]
    except ClientError as error:
        if not code(error).endswith(".NotFound"):
            raise
        yield Finding("network", "fix", f"{error.response['Error']['Message']}: mend compute.vpc_config")
        return
    vpcs = sorted({found["VpcId"] for found in [*subnets, *groups]})
    if len(vpcs) > 1:
        yield Finding(
            "network", "fix", f"subnets and security groups are of different VPCs: {', '.join(vpcs)}"
        )
        return
    free = sum(subnet["AvailableIpAddressCount"] for subnet in subnets)
    if free < ADDRESSES:
        yield Finding(
            "network",
            "fix",
            f"the subnets have {free} free addresses: jobs and endpoint take one an instance",
        )
    else:
        yield Finding("network", "ok", f"{vpcs[0]}, {free} free addresses")
    found = ec2.describe_vpc_endpoints(Filters=[{"Name": "vpc-id", "Values": vpcs}])["VpcEndpoints"]
    if any(endpoint["ServiceName"] == f"com.amazonaws.{region}.s3" for endpoint in found):
        yield Finding("way to S3", "ok", f"an endpoint of {vpcs[0]}")
    else:
        yield Finding(
            "way to S3", "not checked", f"{vpcs[0]} has no endpoint for it: it takes a NAT gateway then"
        )
