"""The CloudWatch alarms that roll an endpoint's update back.

SageMaker publishes what a fleet does with its endpoint configuration as a dimension, so the alarms watch the new fleet
alone. Whether an answer is right it cannot know: that is a metric of our own, from the smoke test (`smoke.py`).
"""

from typing import Any

from evergreen.deployment_requests import VARIANT
from evergreen.plan import Plan
from evergreen.requests import lasting_tags

NAMESPACE, INVALID_ANSWERS = "Evergreen", "InvalidAnswers"
SERVICE_METRICS = ERRORS, LATENCY = "Invocation5XXErrors", "ModelLatency"
# SageMaker publishes once a minute on AWS, the local cloud more often; our own metric has a resolution of a second.
MINUTE_S, HIGH_RESOLUTION_S = 60, 10


def build(plan: Plan, endpoint_config_name: str) -> list[dict[str, Any]]:
    """PutMetricAlarm's requests, named after the endpoint: an update's replace those of the one before."""
    thresholds = plan.pipeline.deployment.alarms
    period = HIGH_RESOLUTION_S if plan.local else MINUTE_S
    service = {"Namespace": "AWS/SageMaker", "Statistic": "Average", "Period": period}
    share, latency, answers = (
        thresholds.invocation_5xx_errors,
        thresholds.model_latency_ms,
        thresholds.invalid_answers,
    )
    alarms: list[dict[str, Any]] = []
    if share is not None:
        alarms.append({"MetricName": ERRORS, "Threshold": share, **service})
    if latency is not None:
        # The metric is in microseconds.
        alarms.append({"MetricName": LATENCY, "Threshold": 1000 * latency, **service})
    if answers is not None:
        ours = {"Namespace": NAMESPACE, "Statistic": "Sum", "Period": HIGH_RESOLUTION_S}
        # Above one less is as many.
        alarms.append({"MetricName": INVALID_ANSWERS, "Threshold": answers - 1, **ours})
    return [
        {
            **alarm,
            "AlarmName": f"{plan.endpoint_name}-{alarm['MetricName']}",
            "AlarmDescription": f"Rolls back an update of {plan.endpoint_name} by {plan.dag_id}.",
            "Dimensions": dimensions(plan, endpoint_config_name),
            "EvaluationPeriods": 1,
            "ComparisonOperator": "GreaterThanThreshold",
            "TreatMissingData": "notBreaching",
            "Tags": lasting_tags(plan),
        }
        for alarm in alarms
    ]


def dimensions(plan: Plan, endpoint_config_name: str) -> list[dict[str, str]]:
    return [
        {"Name": "EndpointName", "Value": plan.endpoint_name},
        {"Name": "VariantName", "Value": VARIANT},
        {"Name": "EndpointConfigName", "Value": endpoint_config_name},
    ]


def names(plan: Plan) -> list[str]:
    """Of the alarms that the pipeline may have put."""
    return [f"{plan.endpoint_name}-{metric}" for metric in (*SERVICE_METRICS, INVALID_ANSWERS)]


def arm(cloudwatch: Any, plan: Plan, endpoint_config_name: str) -> list[str]:
    """Put the alarms for an update that is to begin; the names of all that are to roll it back.

    PutMetricAlarm leaves an alarm that exists in its state, and one that went off at the last update would stop this.
    """
    put = []
    for alarm in build(plan, endpoint_config_name):
        cloudwatch.put_metric_alarm(**alarm)
        cloudwatch.set_alarm_state(
            AlarmName=alarm["AlarmName"],
            StateValue="INSUFFICIENT_DATA",
            StateReason=f"The update to {endpoint_config_name} begins.",
        )
        put.append(alarm["AlarmName"])
    return [*put, *plan.pipeline.deployment.alarms.names]


def report(cloudwatch: Any, plan: Plan, endpoint_config_name: str, invalid: int) -> None:
    """PutMetricData: how many answers of the new fleet were wrong since the last report."""
    cloudwatch.put_metric_data(
        Namespace=NAMESPACE,
        MetricData=[
            {
                "MetricName": INVALID_ANSWERS,
                "Dimensions": dimensions(plan, endpoint_config_name),
                "Value": invalid,
                "Unit": "Count",
                "StorageResolution": 1,
            }
        ],
    )
