"""The DAG's own small tasks: those that are a few lines of Python around a pure function."""

import json
from pathlib import Path
from typing import Any

from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import get_current_context, task
from botocore.exceptions import ClientError

from evergreen import (
    addresses,
    cost,
    endpoints,
    images,
    notifications,
    params,
    pipeline,
    settings,
    source_code,
    sync,
    verdicts,
)
from evergreen.plan import Plan

AWS_CONN_ID = "aws_default"

# What the gate's task decides → the task that follows.
BRANCHES = {"promote": "register", "ask": "register", "hold": "hold"}
QUESTION = "question"
APPROVAL_BODY = "{{ ti.xcom_pull(task_ids='gate', key='" + QUESTION + "') }}"


@task(multiple_outputs=False)
def plan(file: str) -> dict[str, Any]:
    """Pipeline file + run parameters → names and places. Reads from AWS, creates nothing."""
    context = get_current_context()
    path = Path(file)
    try:
        pipeline.check_name(path)
        document = params.apply(settings.read(path), dict(context["params"]))
        validated = settings.validate(document, path.name)
        prices = cost.load(path.parent.parent)
        notifications.callbacks(validated.notify, path.stem)
    except settings.SettingsError as error:
        raise AirflowFailException(str(error)) from error
    run = context["dag_run"]
    compute = validated.compute
    hook = SageMakerHook(aws_conn_id=AWS_CONN_ID)
    region = hook.conn_region_name

    def training_image(instance_type: str) -> str:
        version = compute.pytorch_training_version
        return compute.training_image or _image("training", version, region, instance_type)

    built = Plan(
        dag_id=run.dag_id,
        run_id=run.run_id,
        run_type=run.run_type.value,
        started_at=str(run.start_date),
        pipeline_name=path.stem,
        pipeline=validated,
        force=bool(context["params"].get("force", False)),
        dry_run=bool(context["params"].get("dry_run", False)),
        drift=(run.conf or {}).get("drift"),
        bucket=_bucket(compute.bucket),
        role=_role(compute.role),
        training_image=training_image(compute.for_training),
        inference_image=compute.inference_image
        or _image("inference", compute.pytorch_inference_version, region, validated.deployment.instance_type),
        feature_image=training_image(compute.for_features),
        assess_image=training_image(compute.for_assessment),
        git_revision=source_code.git_revision(),
        region=region,
        partition=hook.conn_partition,
        local=addresses.is_local(hook.conn_config.get_service_endpoint_url("sagemaker")),
        prices=prices,
    )
    return built.to_xcom()


@task(multiple_outputs=False)
def upload_code() -> dict[str, str]:
    """`ml_code/` → S3 under its hash."""
    try:
        return sync.upload_source(_plan(), AWS_CONN_ID)
    except FileNotFoundError as error:
        raise AirflowFailException(str(error)) from error


@task.branch
def gate() -> str:
    """Branch on the report's verdict: the decision is made once, where the report is made."""
    built, assessment = _plan(), _returned("assess")
    latest = {"run_folder": built.run_folder, "verdict": assessment["verdict"]}
    S3Hook(aws_conn_id=AWS_CONN_ID, extra_args=built.s3_arguments).load_string(
        json.dumps(latest, indent=1), built.uri("reports", "latest.json"), replace=True
    )
    verdict = assessment["verdict"]
    for check in verdict["checks"]:
        print(f"{check['status']:<14}  {check['name']}: {check['detail']}")
    context = get_current_context()
    consequences = verdicts.consequences(
        built.endpoint_name, built.pipeline.deployment.policy, assessment["champion"]
    )
    question = verdicts.markdown(verdict, built.dag_id, built.run_id, consequences)
    context["ti"].xcom_push(key=QUESTION, value=question)
    return BRANCHES[verdict["decision"]]


@task
def hold() -> list[str]:
    """The model is not deployed; what serves goes on serving. Returns the reasons."""
    reasons: list[str] = _returned("assess")["verdict"]["reasons"]
    for reason in reasons:
        print(f"held: {reason}")
    return reasons


@task
def retire() -> list[str]:
    """Delete models and endpoint configurations beyond the newest N. Returns the deleted names.

    What serves, and what served before it, is never deleted.
    """
    built, verified = _plan(), _returned("verify")
    before = verified["before"] or {}
    kept = {verified["endpoint_config"], before.get("endpoint_config"), before.get("model")}
    hook = SageMakerHook(aws_conn_id=AWS_CONN_ID)
    return endpoints.retire(hook, built.base_name, built.pipeline.deployment.keep, kept)


@task.short_circuit
def drifted() -> bool:
    """Go on when the monitor has found drift."""
    found: dict[str, Any] = _returned(notifications.COMPARE)
    print(found["sentence"])
    return bool(found["drifted"])


def _returned(task_id: str) -> Any:
    return get_current_context()["ti"].xcom_pull(task_ids=task_id)


def _plan() -> Plan:
    return Plan.model_validate(_returned("plan"))


def _bucket(name: str | None) -> str:
    hook = S3Hook(aws_conn_id=AWS_CONN_ID)
    bucket = name or hook.service_config.get("bucket_name")
    if not bucket:
        raise AirflowFailException(
            "compute.bucket: no bucket is set, and the connection aws_default has no "
            'service_config.s3.bucket_name in its extra: {"service_config": {"s3": {"bucket_name": "…"}}}'
        )
    if not hook.check_for_bucket(bucket):
        raise AirflowFailException(f"compute.bucket: bucket {bucket} does not exist or is not ours to read")
    return str(bucket)


def _role(name: str) -> str:
    if "/" in name:
        return name
    try:
        return str(AwsBaseHook(AWS_CONN_ID, client_type="iam").expand_role(name))
    except ClientError as error:
        raise AirflowFailException(f"compute.role: {error.response['Error']['Message']}") from error


def _image(scope: images.Scope, version: str, region: str, instance_type: str) -> str:
    try:
        return images.pytorch(scope, version, region, instance_type)
    except images.ImageError as error:
        raise AirflowFailException(f"compute.pytorch_{scope}_version: {error}") from error
