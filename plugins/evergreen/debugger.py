"""SageMaker Debugger's part of the retraining: the hook's configuration, and rule jobs where AWS runs them.

`debugger.mode: self` saves tensors and metrics with the job's output and lets `assess` judge them; `managed` asks
SageMaker for rule jobs beside the training. AWS keeps those for accounts that had used Debugger before 30 July 2026:
https://docs.aws.amazon.com/sagemaker/latest/dg/debugger-availability-change.html
"""

import json
from typing import Any, get_args

from evergreen import images
from evergreen.plan import Plan
from evergreen.settings import DebugRuleName, ProfilerRuleName, Rule

Request = dict[str, Any]

# What is ours beside AWS's rules, or AWS's that its SDK does not know: assess judges it in both modes.
OWN_RULES = frozenset({"MemoryLeak", "Dataloader", "OverallFrameworkMetrics"})
PENDING = frozenset({"InProgress", "Stopping"})
STATUSES = ("DebugRuleEvaluationStatuses", "ProfilerRuleEvaluationStatuses")
DEBUG_RULES, PROFILER_RULES = get_args(DebugRuleName), get_args(ProfilerRuleName)


def hook_config(plan: Plan) -> Request:
    """DebugHookConfig: the source documents' hook, and what the pipeline's rules look at besides.

    Losses are saved at every step; weights, gradients, biases and what goes into ReLUs at the pipeline's intervals.
    """
    debugger = plan.pipeline.debugger
    interval = {
        "train.save_interval": str(debugger.train_save_interval),
        "eval.save_interval": str(debugger.eval_save_interval),
    }
    every = {"train.save_interval": "1", "eval.save_interval": "1"}
    collections: dict[str, dict[str, str]] = {
        "losses": every,
        "gradients": interval,
        "weights": interval,
        "biases": interval,
        "relu_input": {"include_regex": ".*relu_input", **interval},
    }
    wanted = debugger.rules.keys()
    if "DeadRelu" in wanted:
        collections["relu_output"] = {"include_regex": ".*relu_output", **interval}
    if "SaturatedActivation" in wanted:
        collections["saturable_input"] = {"include_regex": ".*tanh_input|.*sigmoid_input", **interval}
    if wanted & {"ClassImbalance", "Confusion"}:
        collections |= {"labels": interval, "predictions": interval}
    if "CheckInputImages" in wanted:
        collections["input_image"] = interval
    parameters = {"train.save_interval": "100", "eval.save_interval": "10"}
    if debugger.tensorboard:
        parameters["export_tensorboard"] = "true"
    return {
        "S3OutputPath": plan.run_uri,
        "HookParameters": parameters,
        "CollectionConfigurations": [
            {"CollectionName": name, "CollectionParameters": saved} for name, saved in collections.items()
        ],
    }


def hyperparameters(plan: Plan) -> dict[str, str]:
    """Of the retraining: hook, sampler and rules that run in its own container."""
    debugger, profiler = plan.pipeline.debugger, plan.pipeline.profiler
    given = {"profiler-num-steps": str(profiler.num_steps if profiler.interval_ms else 0)}
    if is_managed(plan):
        return given
    given["profiler-interval-ms"] = str(profiler.interval_ms)
    if debugger.enabled:
        given["debug-hook-config"] = json.dumps(hook_config(plan), separators=(",", ":"))
        stops = {name: rule.parameters for name, rule in debugger.rules.items() if rule.stop_training}
        if stops:
            given["stop-rules"] = json.dumps(stops, separators=(",", ":"))
    return given


def is_managed(plan: Plan) -> bool:
    debugger = plan.pipeline.debugger
    return debugger.enabled and debugger.mode == "managed"


def managed(plan: Plan, job_name: str, region: str) -> Request:
    """CreateTrainingJob's members for rules that SageMaker evaluates, as its SDK asks for them.

    :raises evergreen.images.ImageError: when AWS evaluates none in the region.
    """
    image = images.debugger_rules(region)
    debug: list[Request] = []
    profiler: list[Request] = []
    for name, rule in _rules(plan).items():
        (profiler if name in plan.pipeline.profiler.rules else debug).append(
            {
                "RuleConfigurationName": name,
                "RuleEvaluatorImage": image,
                # What is not given is AWS's default.
                "RuleParameters": {"rule_to_invoke": name, **_parameters(rule, job_name)},
            }
        )
    members: Request = {"DebugHookConfig": hook_config(plan)}
    if debug:
        members["DebugRuleConfigurations"] = debug
    if interval := plan.pipeline.profiler.interval_ms:
        members["ProfilerConfig"] = {
            "S3OutputPath": plan.run_uri,
            "ProfilingIntervalInMilliseconds": interval,
            "DisableProfiler": False,
        }
        if profiler:
            members["ProfilerRuleConfigurations"] = profiler
    return members


def pending(training_job: dict[str, Any]) -> list[str]:
    """Names of the rules of a described training job that are still being evaluated; they outlive the job."""
    return [
        status["RuleConfigurationName"]
        for kind in STATUSES
        for status in training_job.get(kind) or []
        if status["RuleEvaluationStatus"] in PENDING
    ]


def statuses(training_job: dict[str, Any]) -> list[dict[str, Any]]:
    """What SageMaker said of each rule; context.json's `managed_rules`."""
    return [
        {
            "name": status["RuleConfigurationName"],
            "status": status["RuleEvaluationStatus"],
            "details": status.get("StatusDetails") or "",
        }
        for kind in STATUSES
        for status in training_job.get(kind) or []
    ]


def rules(plan: Plan) -> dict[str, Rule]:
    """All rules that `assess` is to give a verdict on."""
    debugger, profiler = plan.pipeline.debugger, plan.pipeline.profiler
    debug = debugger.rules.items() if debugger.enabled else ()
    return dict([*debug, *(profiler.rules.items() if profiler.interval_ms else ())])


def _rules(plan: Plan) -> dict[str, Rule]:
    return {name: rule for name, rule in rules(plan).items() if name not in OWN_RULES}


def _parameters(rule: Rule, job_name: str) -> dict[str, str]:
    actions: list[dict[str, str]] = []
    if rule.stop_training:
        actions.append({"name": "stoptraining", "training_job_prefix": job_name})
    for receiver in rule.notify:
        actions.append({"name": "sms" if receiver.startswith("+") else "email", "endpoint": receiver})
    if not actions:
        return dict(rule.parameters)
    # As the SDK's ActionList writes it, which refuses e-mail addresses with a dot before the @.
    return {**rule.parameters, "action_json": json.dumps(actions).replace('"', '\\"')}
