"""The retraining's task waits for rules that SageMaker evaluates, against a real local cloud."""

import time
from typing import Any

import pytest

from evergreen import debugger
from evergreen.operators import RetrainOperator, RetrainTrigger
from scripts.local_stack import BUCKET, Cloud
from tests.plugins.test_durable import IMAGE, fired
from tests.plugins.test_requests import plan

# An operator run without Airflow's task runner says so.
pytestmark = pytest.mark.filterwarnings("ignore:.*outside of the Task Runner")

RULES = "503895931360.dkr.ecr.us-east-1.amazonaws.com/sagemaker-debugger-rules:latest"


def job_with_a_rule(cloud: Cloud, name: str) -> dict[str, Any]:
    """A training job that has ended, with a rule that is still at work: importing what it needs takes it seconds."""
    sagemaker = cloud.client("sagemaker")
    sagemaker.create_training_job(
        TrainingJobName=name,
        AlgorithmSpecification={
            "TrainingImage": IMAGE, "TrainingInputMode": "File", "ContainerEntrypoint": ["python3", "-c", "pass"],
        },
        RoleArn="arn:aws:iam::000000000000:role/EvergreenSageMakerRole",
        OutputDataConfig={"S3OutputPath": f"s3://{BUCKET}/out"},
        ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        StoppingCondition={"MaxRuntimeInSeconds": 60},
        DebugHookConfig={"S3OutputPath": f"s3://{BUCKET}/out"},
        DebugRuleConfigurations=[
            {"RuleConfigurationName": "Overfit", "RuleEvaluatorImage": RULES,
             "RuleParameters": {"rule_to_invoke": "Overfit"}}
        ],
    )  # fmt: skip
    while True:
        described: dict[str, Any] = sagemaker.describe_training_job(TrainingJobName=name)
        if described["TrainingJobStatus"] != "InProgress":
            assert described["TrainingJobStatus"] == "Completed", described
            return described
        time.sleep(0.05)


def operator(name: str, **kwargs: Any) -> RetrainOperator:
    made = RetrainOperator(task_id="retrain", **kwargs)
    made.job_name, made.plan, made.tuning_name = name, plan(), "t"
    return made


def statuses(result: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["name"], one["status"]) for one in debugger.statuses(result["Training"])]


def test_the_task_ends_when_the_last_rule_has(cloud: Cloud) -> None:
    described = job_with_a_rule(cloud, "waiting")
    assert debugger.pending(described) == ["Overfit"]
    # It saved no tensors, for which SageMaker's word is Error.
    assert statuses(operator("waiting")._ended(described)) == [("Overfit", "Error")]


def test_the_rules_are_waited_for_without_a_slot(cloud: Cloud) -> None:
    assert debugger.pending(job_with_a_rule(cloud, "deferred"))
    assert fired(RetrainTrigger("deferred", "training")) == {"job_name": "deferred"}
    described = cloud.client("sagemaker").describe_training_job(TrainingJobName="deferred")
    assert not debugger.pending(described)
    assert statuses(operator("deferred", deferrable=True)._ended(described)) == [("Overfit", "Error")]


def test_rules_that_never_end_are_not_waited_for(cloud: Cloud) -> None:
    described = job_with_a_rule(cloud, "endless")
    result = {"Training": operator("endless")._after_rules(described, limit=time.time())}
    assert statuses(result) == [("Overfit", "InProgress")]
