"""AWS's images are those that its SDK names, without the SDK."""

import json

import pytest
from sagemaker.core import image_uris
from sagemaker.core.debugger import ProfilerRule, Rule, get_rule_container_image_uri, rule_configs

from evergreen import debugger, images
from evergreen.compute_settings import Compute
from scripts import image_table
from tests.plugins.test_requests import plan

TABLE = images.table()


def test_the_table_is_the_sdks() -> None:
    assert json.loads(images.TABLE.read_text()) == image_table.build(), (
        "run python -m scripts.image_table and look at the difference"
    )


@pytest.mark.parametrize("scope", ["training", "inference"])
def test_the_uris_are_the_sdks(scope: images.Scope) -> None:
    newest = list(TABLE["pytorch"][scope])[-1]
    asked = [(newest, region, "ml.m5.xlarge") for region in ("eu-central-1", "cn-north-1", "il-central-1")]
    asked += [(newest, "us-east-1", "ml.g5.2xlarge"), ("2.4.0", "us-east-1", "ml.p4d.24xlarge")]
    if scope == "inference":
        asked += [(newest, "us-east-1", "ml.c7g.large"), ("2.4.0", "us-east-1", "ml.m6gd.large")]
    for version, region, instance_type in asked:
        expected = image_uris.retrieve(
            "pytorch", region, version=version, image_scope=scope, instance_type=instance_type
        )
        assert images.pytorch(scope, version, region, instance_type) == expected


def test_the_default_versions_have_images() -> None:
    defaults = Compute()
    assert defaults.pytorch_training_version in TABLE["pytorch"]["training"]
    assert defaults.pytorch_inference_version in TABLE["pytorch"]["inference"]


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (("training", "1.0", "us-east-1", "ml.m5.large"), r"image of version '1.0', only of 2.3.0, "),
        (("training", "2.10.0", "mars-1", "ml.m5.large"), r"of version 2.10.0 in mars-1: set compute.training_image"),
        (("training", "2.6.0", "me-west-1", "ml.m5.large"), r"of version 2.6.0 in me-west-1"),
        (("training", "2.10.0", "us-east-1", "ml.c7g.large"), r"for Graviton processors: ml.c7g.large needs"),
    ],
)  # fmt: skip
def test_what_there_is_no_image_for_is_said(asked: tuple[images.Scope, str, str, str], sentence: str) -> None:
    with pytest.raises(images.ImageError, match=sentence):
        images.pytorch(*asked)


def test_rules_are_asked_for_as_the_sdk_does() -> None:
    assert images.debugger_rules("eu-west-1") == get_rule_container_image_uri(None, "eu-west-1")
    with pytest.raises(
        images.ImageError, match=r"no Debugger rules in il-central-1: set debugger.mode to self"
    ):
        images.debugger_rules("il-central-1")
    wanted = plan(
        debugger={"mode": "managed", "rules": {"PoorWeightInitialization": {}}},
        profiler={"rules": {"StepOutlier": {"parameters": {"stddev": "5"}}, "ProfilerReport": {}}},
    )
    asked = debugger.managed(wanted, "n", "us-east-1")
    image = {"RuleEvaluatorImage": images.debugger_rules("us-east-1")}
    base = Rule.sagemaker(rule_configs.poor_weight_initialization(), name="PoorWeightInitialization")
    assert asked["DebugRuleConfigurations"] == [base.to_debugger_rule_config_dict() | image]
    for request in asked["ProfilerRuleConfigurations"]:
        name, parameters = request["RuleConfigurationName"], request.pop("RuleParameters")
        theirs = ProfilerRule.sagemaker(
            getattr(rule_configs, name)(), name=name
        ).to_profiler_rule_config_dict()
        # It also spells out the defaults.
        assert parameters.keys() <= theirs.pop("RuleParameters").keys()
        assert parameters["rule_to_invoke"] == name
        assert request == theirs | image
