"""context.json: what the report says of the run besides what `assess` measures."""

from typing import Any

from evergreen import addresses, cost, debugger, lineage
from evergreen.plan import Plan


def build(
    plan: Plan,
    dataset: dict[str, Any],
    features: dict[str, Any] | None,
    code: dict[str, Any],
    tuning: dict[str, Any],
    training: dict[str, Any],
    weights: dict[str, Any] | None,
    champion: dict[str, Any] | None,
    previous: tuple[dict[str, Any] | None, str | None],
) -> dict[str, Any]:
    """The document; docs/contracts.md has its shape.

    :param previous: what `lineage.previous` returned.
    """
    job, training = tuning["Tuning"], training["Training"]
    objective = job["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]
    return {
        "run": {
            "dag_id": plan.dag_id,
            "run_id": plan.run_id,
            "pipeline": plan.pipeline_name,
            "started_at": plan.started_at,
            "report_uri": plan.report_uri,
            "endpoint": plan.endpoint_name,
            "settings": plan.pipeline.model_dump(mode="json"),
        },
        "dataset": {
            "version": dataset["version"],
            "source": plan.pipeline.dataset.source,
            "uri": dataset["uri"],
            "splits": dataset["counts"],
            **{name: dataset[name] for name in ("ignored", "doubtful", "duplicates")},
        },
        "features": features,
        "weights": weights,
        "tuning": {
            "name": job["HyperParameterTuningJobName"],
            "strategy": plan.pipeline.tuning.strategy,
            "objective": {"MetricName": objective["MetricName"], "Type": objective["Type"]},
            "best": job["BestTrainingJob"]["TrainingJobName"],
            "jobs": tuning["TrainingJobs"],
        },
        "training": {
            "name": training["TrainingJobName"],
            "hyperparameters": training["HyperParameters"],
            "seconds": training.get("TrainingTimeInSeconds"),
            "billable_seconds": training.get("BillableTimeInSeconds"),
            "instance_type": training["ResourceConfig"]["InstanceType"],
            "instances": training["ResourceConfig"]["InstanceCount"],
        },
        "champion": champion,
        "code": {"hash": code["hash"], "git_revision": plan.git_revision},
        "cost": cost.build(
            plan.prices,
            plan.region,
            plan.pipeline.compute,
            features,
            tuning,
            training,
            (plan.pipeline.deployment.instance_type, plan.pipeline.deployment.instance_count),
            local=plan.local,
        ),
        "lineage": lineage.build(plan, dataset, code, previous, _links(plan, job, training)),
        "rules": {name: rule.model_dump() for name, rule in debugger.rules(plan).items()},
        "managed_rules": debugger.statuses(training) if debugger.is_managed(plan) else None,
        "assess": plan.pipeline.assess.model_dump(),
        "gate": plan.pipeline.gate.model_dump(),
    }


def _links(plan: Plan, tuning: dict[str, Any], training: dict[str, Any]) -> dict[str, str]:
    """What → where: pages of SageMaker's console on AWS, ours elsewhere."""
    named = {
        "tuning job": ("tune", "tuning", tuning["HyperParameterTuningJobName"]),
        "training job": ("retrain", "training", training["TrainingJobName"]),
        "endpoint": ("deploy.endpoint", "endpoint", plan.endpoint_name),
    }
    return {
        "run": addresses.run_page(plan.dag_id, plan.run_id),
        **{
            what: addresses.ui(addresses.job_page(plan.dag_id, plan.run_id, task_id))
            if plan.local
            else addresses.console(kind, name, plan.region, plan.partition)
            for what, (task_id, kind, name) in named.items()
        },
        "report": f"{plan.report_uri}/report.html",
    }
