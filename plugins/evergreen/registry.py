"""The model registry: a run's model as a package, and a person's decision about it."""

import logging
from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from airflow.providers.common.compat.sdk import AirflowSkipException
from airflow.providers.standard.operators.hitl import ApprovalOperator
from botocore.exceptions import ClientError

from evergreen import deployment_requests, lineage_events
from evergreen.operators import FromPlan
from evergreen.plan import Plan

if TYPE_CHECKING:
    from airflow.sdk import Context


log = logging.getLogger(__name__)


class RegisterOperator(FromPlan):
    """Model archive → model package, unless the group has it already. Returns its ARN."""

    def execute(self, context: "Context") -> str:
        inputs = self.pull(context)
        model_data = deployment_requests.archive(**inputs)
        arn = register(self.hook, self.s3, self.plan, model_data, inputs["assessment"])
        self.reads = (model_data,)
        self.writes = (lineage_events.sagemaker(self.plan, "model-package", arn.partition("/")[2]),)
        return arn


def register(hook: SageMakerHook, s3: S3Hook, plan: Plan, model_data: str, assessment: dict[str, Any]) -> str:
    """The ARN of the archive's package in the pipeline's group, which are made where they are not there."""
    client, group = hook.conn, plan.base_name
    try:
        client.create_model_package_group(**deployment_requests.model_package_group(plan))
    except ClientError as error:
        if "already exists" not in error.response["Error"]["Message"]:
            raise
    arn = _find(client, group, model_data)
    if arn is None:
        analysis = f"{plan.report_uri}/explanations/analysis.json"
        request = deployment_requests.model_package(
            plan, model_data, assessment, analysis if s3.check_for_key(analysis) else None
        )
        arn = str(client.create_model_package(**request)["ModelPackageArn"])
    verdict = assessment["verdict"]
    if verdict["decision"] == "promote":
        reasons = f"By the gate: {' '.join(verdict['reasons'])}"
        client.update_model_package(**deployment_requests.approval(arn, "Approved", reasons))
    return arn


def _find(client: Any, group: str, model_data: str) -> str | None:
    """The ARN of the archive's package."""
    for page in client.get_paginator("list_model_packages").paginate(ModelPackageGroupName=group):
        for summary in page["ModelPackageSummaryList"]:
            arn: str = summary["ModelPackageArn"]
            package = client.describe_model_package(ModelPackageName=arn)
            if package["InferenceSpecification"]["Containers"][0]["ModelDataUrl"] == model_data:
                log.info("%s is registered already", arn)
                return arn
    return None


class ApproveOperator(ApprovalOperator):
    """Ask a person, when the verdict does, and write the answer into the model registry, with who gave it.

    Skipped when nobody has to be asked. What comes after a rejection is skipped; the report stays.
    """

    def __init__(self, *, aws_conn_id: str = "aws_default", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.aws_conn_id = aws_conn_id

    def execute(self, context: "Context") -> Any:
        decision = context["ti"].xcom_pull(task_ids="assess")["verdict"]["decision"]
        if decision != "ask":
            raise AirflowSkipException(f"the verdict is {decision}: nobody has to be asked")
        return super().execute(context)

    def execute_complete(self, context: "Context", event: dict[str, Any]) -> Any:
        if "error" not in event:
            approved = event["chosen_options"] == [self.APPROVE]
            who = (event["responded_by_user"] or {}).get("name") or "somebody unknown"
            status = "Approved" if approved else "Rejected"
            description = f"{status} by {who} in run {context['run_id']} of {context['ti'].dag_id}."
            SageMakerHook(aws_conn_id=self.aws_conn_id).conn.update_model_package(
                **deployment_requests.approval(
                    context["ti"].xcom_pull(task_ids="register"), status, description
                )
            )
            self.log.info("%s by %s", status.lower(), who)
        return super().execute_complete(context, event)
