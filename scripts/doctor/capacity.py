"""What SageMaker has for the account: instances, images, Debugger."""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError

from evergreen.settings import Pipeline
from scripts.doctor.finding import Clients, Finding, code

# AWS offers Debugger to accounts that had used it before then:
# https://docs.aws.amazon.com/sagemaker/latest/dg/debugger-availability-change.html
DEBUGGER_CLOSED = datetime(2026, 7, 30, tzinfo=UTC)
JOBS_LOOKED_AT = 10
ALL_ENDPOINTS = re.compile(
    r"(total )?number of instances (allowed )?across (all )?active endpoints", re.IGNORECASE
)
ECR = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[\w-]+)\.[\w.]+/(?P<repository>[^:@]+):(?P<tag>[^:@]+)$"
)


def wanted(pipeline: Pipeline) -> dict[str, int]:
    """Service Quotas' name → how many instances a run has at once."""
    compute, deployment = pipeline.compute, pipeline.deployment
    training = max(pipeline.tuning.max_parallel_jobs, compute.training_instance_count)
    kind = "spot training job" if compute.use_spot_instances else "training job"
    asked: dict[str, int] = {}

    def ask(instance_type: str, use: str, count: int) -> None:
        name = f"{instance_type} for {use} usage"
        asked[name] = max(asked.get(name, 0), count)

    ask(compute.for_training, kind, training)
    if compute.keep_alive_period_seconds:
        ask(compute.for_training, "training warm pool", compute.training_instance_count)
    ask(compute.for_features, "processing job", compute.feature_instance_count)
    ask(compute.for_assessment, "processing job", 1)
    if deployment.batch_predict:
        transform = deployment.transform
        ask(transform.instance_type or compute.instance_type, "transform job", transform.instance_count)
    # While an update is under way both fleets run; a rolling one adds a batch.
    second = deployment.instance_count
    if deployment.policy == "rolling":
        percent = deployment.maximum_batch_size.percent(deployment.instance_count)
        second = max(1, round(deployment.instance_count * percent / 100))
    ask(deployment.instance_type, "endpoint", deployment.instance_count + second)
    return asked


def quotas(clients: Clients, asked: Mapping[str, int]) -> Iterator[Finding]:
    pages = clients("service-quotas").get_paginator("list_service_quotas").paginate(ServiceCode="sagemaker")
    granted = {quota["QuotaName"]: quota["Value"] for page in pages for quota in page["Quotas"]}
    for name, count in asked.items():
        yield _compare(name, count, granted.get(name))
    total = next((name for name in granted if ALL_ENDPOINTS.fullmatch(name)), None)
    if total:
        running = sum(_instances(clients))
        new = next(count for name, count in asked.items() if name.endswith(" for endpoint usage"))
        yield _compare(total, running + new, granted[total], f"{running} run, {new} come at an update")


def _compare(name: str, count: int, granted: float | None, note: str = "") -> Finding:
    if granted is None:
        return Finding(
            "quota", "not checked", f"Service Quotas lists no {name}: is there such a type in this region?"
        )
    has = f"{name}: {granted:.0f}, a run needs {count}" + (f" ({note})" if note else "")
    if granted >= count:
        return Finding("quota", "ok", has)
    return Finding(
        "quota", "fix", f"{has}: ask for more in Service Quotas, or lower the counts of the pipeline"
    )


def _instances(clients: Clients) -> Iterator[int]:
    """Of each endpoint that is there."""
    sagemaker = clients("sagemaker")
    for page in sagemaker.get_paginator("list_endpoints").paginate():
        for endpoint in page["Endpoints"]:
            described = sagemaker.describe_endpoint(EndpointName=endpoint["EndpointName"])
            for variant in described.get("ProductionVariants", []):
                yield variant.get("CurrentInstanceCount", 0)


def images(clients: Clients, uris: Iterable[str]) -> Iterator[Finding]:
    for uri in dict.fromkeys(uris):
        place = ECR.match(uri)
        if place is None:
            yield Finding("image", "not checked", f"{uri} is no image of Amazon ECR by its tag")
            continue
        try:
            answer = clients("ecr").batch_get_image(
                registryId=place["account"],
                repositoryName=place["repository"],
                imageIds=[{"imageTag": place["tag"]}],
            )
        except ClientError as error:
            if code(error) != "RepositoryNotFoundException":
                raise
            yield Finding("image", "fix", f"there is no repository {place['repository']} at {uri}")
            continue
        if answer["images"]:
            yield Finding("image", "ok", uri)
        else:
            reasons = ", ".join(failure["failureCode"] for failure in answer.get("failures", []))
            yield Finding(
                "image", "fix", f"{uri} is not there ({reasons}): set another version, or compute.…_image"
            )


def debugger(clients: Clients) -> Iterator[Finding]:
    """Whether the account has had rules evaluated before AWS closed Debugger; no call of the API says it outright."""
    sagemaker = clients("sagemaker")
    jobs = sagemaker.list_training_jobs(
        CreationTimeBefore=DEBUGGER_CLOSED,
        SortBy="CreationTime",
        SortOrder="Descending",
        MaxResults=JOBS_LOOKED_AT,
    )["TrainingJobSummaries"]
    for job in jobs:
        described: dict[str, Any] = sagemaker.describe_training_job(TrainingJobName=job["TrainingJobName"])
        if described.get("DebugRuleConfigurations"):
            yield Finding("Debugger", "ok", f"{job['TrainingJobName']} had its rules evaluated")
            return
    yield Finding(
        "Debugger",
        "not checked",
        f"none of the last {len(jobs)} training jobs before {DEBUGGER_CLOSED:%d %B %Y} had rules, and AWS evaluates "
        "them for accounts that had used them by then: if a run is refused, set debugger.mode to self",
    )
