"""The debugger's part of the retraining: what it saves, and the rules that SageMaker is asked for."""

import json
from typing import Any

import pytest

from evergreen import debugger, requests
from evergreen.settings import SettingsError, validate
from tests.plugins.test_requests import CODE, DATASET, FEATURES, TUNING, plan, valid

REGION = "us-east-1"


def collections(**settings: Any) -> dict[str, dict[str, str]]:
    configured = debugger.hook_config(plan(debugger=settings))["CollectionConfigurations"]
    return {one["CollectionName"]: one["CollectionParameters"] for one in configured}


def test_the_source_documents_hook() -> None:
    config = debugger.hook_config(plan())
    assert config["HookParameters"] == {"train.save_interval": "100", "eval.save_interval": "10"}
    board = debugger.hook_config(plan(debugger={"tensorboard": True}))
    assert board["HookParameters"] == {**config["HookParameters"], "export_tensorboard": "true"}
    saved = collections(train_save_interval=7)
    assert saved["losses"] == {"train.save_interval": "1", "eval.save_interval": "1"}
    for name in ("weights", "gradients", "biases"):
        assert saved[name] == {"train.save_interval": "7", "eval.save_interval": "1"}


def test_what_a_rule_looks_at_is_saved() -> None:
    plain = collections()
    wanted = {"DeadRelu": {}, "SaturatedActivation": {}, "Confusion": {}, "CheckInputImages": {}}
    more = collections(rules=wanted)
    assert more.keys() - plain.keys() == {
        "relu_output", "saturable_input", "labels", "predictions", "input_image"
    }  # fmt: skip
    assert len(more) <= 20  # SageMaker's limit


def test_by_default_the_jobs_own_container_has_all_of_it() -> None:
    given = requests.retrain(plan(), DATASET, FEATURES, CODE, TUNING)
    assert not {"DebugHookConfig", "DebugRuleConfigurations", "ProfilerConfig"} & given.keys()
    hyperparameters = given["HyperParameters"]
    assert hyperparameters["profiler-num-steps"] == "10"
    assert "stop-rules" not in hyperparameters
    stopping = plan(debugger={"rules": {"ExplodingTensor": {"stop_training": True}, "Overfit": {}}})
    assert json.loads(debugger.hyperparameters(stopping)["stop-rules"]) == {"ExplodingTensor": {}}
    off = plan(profiler={"interval_ms": 0})
    assert debugger.hyperparameters(off)["profiler-num-steps"] == "0"
    assert "ProfilerReport" not in debugger.rules(off)


def managed(**settings: Any) -> Any:
    return plan(debugger={"mode": "managed", **settings})


def test_managed_rules_are_part_of_a_valid_request() -> None:
    wanted = managed()
    request = requests.retrain(wanted, DATASET, FEATURES, CODE, TUNING)
    assert not {"debug-hook-config", "profiler-interval-ms"} & request["HyperParameters"].keys()
    request |= {"TrainingJobName": "n", **debugger.managed(wanted, "n", REGION)}
    valid("CreateTrainingJob", request)
    assert request["DebugHookConfig"]["S3OutputPath"] == wanted.run_uri
    names = [rule["RuleConfigurationName"] for rule in request["DebugRuleConfigurations"]]
    assert names == list(wanted.pipeline.debugger.rules)
    (report,) = request["ProfilerRuleConfigurations"]
    assert report["RuleParameters"] == {"rule_to_invoke": "ProfilerReport"}
    assert report["RuleEvaluatorImage"].startswith("503895931360.dkr.ecr.us-east-1.amazonaws.com/")
    assert request["ProfilerConfig"] == {
        "S3OutputPath": wanted.run_uri, "ProfilingIntervalInMilliseconds": 500, "DisableProfiler": False,
    }  # fmt: skip


def test_every_rule_of_the_settings_can_be_asked_for() -> None:
    debug = {name: {} for name in debugger.DEBUG_RULES}
    profiler = {name: {} for name in debugger.PROFILER_RULES}
    wanted = plan(debugger={"mode": "managed", "rules": debug}, profiler={"rules": profiler})
    members = debugger.managed(wanted, "n", REGION)
    asked = {
        rule["RuleParameters"]["rule_to_invoke"]
        for kind in ("DebugRuleConfigurations", "ProfilerRuleConfigurations")
        for rule in members[kind]
    }
    assert asked == set(debug) | set(profiler) - debugger.OWN_RULES
    assert max(len(members[kind]) for kind in members if kind.endswith("RuleConfigurations")) <= 20


def test_parameters_and_actions_reach_the_rule() -> None:
    rule = {
        "parameters": {"patience": "3"},
        "stop_training": True,
        "notify": ["a.b@example.org", "+491234567"],
    }
    (request,) = debugger.managed(managed(rules={"Overfit": rule}), "job-1", REGION)[
        "DebugRuleConfigurations"
    ]
    parameters = request["RuleParameters"]
    assert parameters["patience"] == "3"
    assert json.loads(parameters["action_json"].replace('\\"', '"')) == [
        {"name": "stoptraining", "training_job_prefix": "job-1"},
        {"name": "email", "endpoint": "a.b@example.org"},
        {"name": "sms", "endpoint": "+491234567"},
    ]
    with pytest.raises(SettingsError, match=r"debugger.rules.Overfit.notify.0"):
        validate({"dataset": {"source": "x"}, "debugger": {"rules": {"Overfit": {"notify": ["me"]}}}}, "x")


def test_statuses_of_a_described_job() -> None:
    def status(name: str, status: str) -> dict[str, Any]:
        return {"RuleConfigurationName": name, "RuleEvaluationStatus": status}

    job = {
        "DebugRuleEvaluationStatuses": [status("a", "IssuesFound"), status("b", "InProgress")],
        "ProfilerRuleEvaluationStatuses": [status("c", "Stopping")],
    }
    assert debugger.pending(job) == ["b", "c"]
    assert debugger.statuses(job)[0] == {"name": "a", "status": "IssuesFound", "details": ""}
    assert debugger.pending({"DebugRuleEvaluationStatuses": None}) == []
