"""Is the account ready for a pipeline? Asks AWS, makes nothing, costs nothing.

    make doctor PIPELINE=digits           # on this checkout's local cloud, which must run
    make doctor PIPELINE=digits AWS=1     # with boto3's own environment: credentials, region, profile

About 10 s. A line for each check: `ok`; `fix`, with what to do; `not checked`, with the reason, where AWS does not let
you ask. Exit status 0: nothing has to be fixed.
"""

import argparse
import sys
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from scripts import policies
from scripts.local_stack import BUCKET, REGION, REPOSITORY, Stack, StackError

sys.path.insert(0, str(REPOSITORY / "plugins"))

from evergreen import images, settings
from evergreen.compute_settings import Compute
from scripts.doctor import capacity, identity, places
from scripts.doctor.finding import Clients, Finding, guarded, table


def examine(
    clients: Clients,
    region: str | None,
    bucket: str | None,
    pipeline: settings.Pipeline,
    *,
    local: bool = False,
) -> Iterator[Finding]:
    """:param bucket: the connection's, which `compute.bucket` overrides."""
    compute = pipeline.compute
    try:
        caller = clients("sts").get_caller_identity()
    except (BotoCoreError, ClientError) as error:
        yield Finding("credentials", "fix", f"AWS does not know you: {error}")
        return
    yield Finding("credentials", "ok", f"{caller['Arn']}")
    if region is None:
        yield Finding(
            "region", "fix", "no region is set: AWS_DEFAULT_REGION, or region_name in the connection's extra"
        )
        return
    yield Finding("region", "ok", region)
    partition, account = caller["Arn"].split(":")[1], caller["Account"]
    role_arn = compute.role if "/" in compute.role else f"arn:{partition}:iam::{account}:role/{compute.role}"

    yield from guarded("role", lambda: identity.role(clients, compute.role))
    if bucket := compute.bucket or bucket:
        named = bucket
        yield from guarded("bucket", lambda: places.bucket(clients, named, region, compute.output_kms_key_id))
        given = policies.values(
            account, region, bucket, partition=partition, prefix=compute.prefix,
            role=role_arn.partition(":role/")[2],
        )  # fmt: skip
        for policy in _policies("execution", compute):
            wanted = _wanted(policy, given, compute)
            yield from guarded(
                "role's permissions",
                partial(identity.role_permissions, clients, role_arn, policy, wanted, local=local),
            )
        for policy in _policies("airflow", compute):
            wanted = _wanted(policy, given, compute)
            yield from guarded(
                "your permissions",
                partial(identity.own_permissions, clients, caller["Arn"], policy, wanted, local=local),
            )
    else:
        yield Finding(
            "bucket", "fix",
            "none is named: --bucket, compute.bucket, or service_config.s3.bucket_name in the connection's extra",
        )  # fmt: skip
    if local:
        yield Finding("quota, image", "not checked", "the local cloud has none: it starts processes")
        if compute.vpc_config or compute.output_kms_key_id or compute.volume_kms_key_id:
            yield Finding("network, key", "not checked", "the local cloud has none, and notes them down")
    else:
        yield from _of_aws(clients, pipeline, region)
    if pipeline.debugger.enabled and pipeline.debugger.mode == "managed":
        yield from guarded("Debugger", lambda: _debugger(clients, region))


def _of_aws(clients: Clients, pipeline: settings.Pipeline, region: str) -> Iterator[Finding]:
    """What the local cloud has nothing of."""
    compute = pipeline.compute
    if keys := [key for key in (compute.output_kms_key_id, compute.volume_kms_key_id) if key]:
        yield from guarded("key", lambda: places.keys(clients, keys))
    if vpc := compute.vpc_config:
        yield from guarded("network", lambda: places.network(clients, vpc, region))
    yield from guarded("quota", lambda: capacity.quotas(clients, capacity.wanted(pipeline)))
    yield from guarded("image", lambda: _images(clients, pipeline, region))


def _policies(who: str, compute: Compute) -> Iterator[str]:
    """Names of those that the pipeline needs."""
    yield who
    # Of an alias or an id IAM does not know whose they are.
    if ":key/" in (compute.output_kms_key_id or ""):
        yield f"{who}-keys"
    if who == "execution" and compute.vpc_config:
        yield "execution-vpc"


def _wanted(policy: str, given: dict[str, str], compute: Compute) -> list[policies.Permission]:
    key = compute.output_kms_key_id or ""
    return list(policies.permissions(policies.render(policy, {**given, "KeyArn": key})))


def _images(clients: Clients, pipeline: settings.Pipeline, region: str) -> Iterator[Finding]:
    compute, serving = pipeline.compute, pipeline.deployment.instance_type
    training = (compute.for_training, compute.for_features, compute.for_assessment)
    try:
        uris = [
            compute.training_image
            or images.pytorch("training", compute.pytorch_training_version, region, instance_type)
            for instance_type in training
        ]
        uris.append(
            compute.inference_image
            or images.pytorch("inference", compute.pytorch_inference_version, region, serving)
        )
    except images.ImageError as error:
        yield Finding("image", "fix", str(error))
        return
    yield from capacity.images(clients, uris)


def _debugger(clients: Clients, region: str) -> Iterator[Finding]:
    try:
        images.debugger_rules(region)
    except images.ImageError as error:
        yield Finding("Debugger", "fix", str(error))
        return
    yield from capacity.debugger(clients)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pipeline", help="name of a file in dags/pipelines/")
    parser.add_argument(
        "--aws", action="store_true", help="not the local cloud but what boto3's environment says"
    )
    parser.add_argument("--bucket", help="the connection's; compute.bucket of the pipeline overrides it")
    parser.add_argument("--dags", default=REPOSITORY / "dags", type=Path)
    parser.add_argument("--var", default=REPOSITORY / "var", type=Path, help="folder of the local cloud")
    arguments = parser.parse_args()
    file = arguments.dags / "pipelines" / f"{arguments.pipeline}.yaml"
    region: Any
    try:
        pipeline = settings.validate(settings.read(file), file.name)
        if arguments.aws:
            session = boto3.Session()
            region, bucket, clients = session.region_name, arguments.bucket, cache(session.client)
        else:
            cloud = Stack(arguments.var.resolve()).running_cloud()
            if cloud is None:
                raise StackError(
                    "the local cloud does not run: make up, or make demo; or AWS=1 for your account"
                )
            region, bucket, clients = REGION, arguments.bucket or BUCKET, cache(cloud.client)
        findings = list(examine(clients, region, bucket, pipeline, local=not arguments.aws))
    except (settings.SettingsError, StackError, BotoCoreError) as error:
        sys.exit(f"error: {error}")
    print(table(findings))
    to_fix = sum(finding.state == "fix" for finding in findings)
    unknown = sum(finding.state == "not checked" for finding in findings)
    print(f"\n{to_fix} to fix, {unknown} not checked, {len(findings) - to_fix - unknown} ok")
    sys.exit(1 if to_fix else 0)


if __name__ == "__main__":
    main()
