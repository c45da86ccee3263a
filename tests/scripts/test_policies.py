"""aws/: policies that IAM would take, with nothing in them that does nothing, and a template with exactly them."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from policy_sentry.querying.actions import get_action_data

from evergreen import names
from scripts import policies

GIVEN = policies.values(
    "123456789012", "eu-central-1", "bucket",
    KeyArn="arn:aws:kms:eu-central-1:123456789012:key/k", TopicArn="arn:aws:sns:eu-central-1:123456789012:t",
)  # fmt: skip
# It is asked of a group, and the reference has it for packages only.
GROUPS_ARE_NO_RESOURCE = "sagemaker:ListModelPackages"
POLICIES = [name for name in policies.names() if not name.endswith("-trust")]


def test_the_template_is_made_of_the_policies() -> None:
    assert policies.TEMPLATE.read_text() == policies.template(), "run python -m scripts.policies template"
    text = policies.TEMPLATE.read_text()
    resources = yaml.load(text, _Functions)["Resources"]
    found = {
        resource["Properties"].get("PolicyName"): resource["Properties"]["PolicyDocument"]
        for resource in resources.values()
        if "PolicyName" in resource["Properties"]
    }
    role = resources["JobsRole"]["Properties"]
    found |= {
        "airflow": resources["AirflowPolicy"]["Properties"]["PolicyDocument"],
        "airflow-trust": resources["AirflowRole"]["Properties"]["AssumeRolePolicyDocument"],
        "execution": role["Policies"][0]["PolicyDocument"],
        "execution-trust": role["AssumeRolePolicyDocument"],
    }
    assert {name: _filled(document) for name, document in found.items()} == {
        name: policies.render(name, GIVEN) for name in policies.names()
    }


class _Functions(yaml.SafeLoader):
    """With CloudFormation's short forms, whose meaning does not matter here."""


_Functions.add_multi_constructor("!", lambda loader, tag, node: f"!{tag}")


def _filled(node: Any) -> Any:
    if isinstance(node, dict):
        if "Fn::Sub" in node:
            return policies.VARIABLE.sub(lambda found: GIVEN[found[1]], node["Fn::Sub"])
        return {key: _filled(value) for key, value in node.items()}
    return [_filled(item) for item in node] if isinstance(node, list) else node


def test_cfn_lint_accepts_the_template() -> None:
    command = [Path(sys.executable).with_name("cfn-lint"), policies.TEMPLATE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", POLICIES)
def test_every_action_exists_and_is_for_what_it_is_given_on(name: str) -> None:
    """An action on a kind of resource that it does not know allows nothing; so says AWS's service reference."""
    for permission in policies.permissions(policies.render(name, GIVEN)):
        service, _, operation = permission.action.partition(":")
        known = get_action_data(service, operation)
        assert known, f"{permission.action}: there is no such action"
        kinds = [row["resource_arn_format"] for row in known[service]]
        if permission.action != GROUPS_ARE_NO_RESOURCE:
            assert any(_is_kind(permission.resource, kind) for kind in kinds), f"{permission} is for {kinds}"
        keys = {key for row in known[service] for key in row["condition_keys"]}
        asked = {key for tests in permission.conditions.values() for key in tests}
        assert asked <= keys, f"{permission.action} knows no {asked - keys}"


def _is_kind(resource: str, kind: str) -> bool:
    """Whether a pattern of a policy can stand for ARNs of the form `arn:${Partition}:…/${Name}`."""
    if "*" in (resource, kind):
        return resource == kind
    form = re.sub(r"\\\$\\\{\w+\\\}", "[^:]*", re.escape(kind))
    if re.fullmatch(form, resource):
        return True
    # A log stream's ARN ends in its name, which a pattern may leave to its last *.
    return resource.endswith("*") and re.fullmatch(form, f"{resource}:log-stream:s") is not None


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_fits_into_a_managed_one(name: str) -> None:
    text = re.sub(r"\s", "", (policies.FOLDER / f"{name}.json").read_text())
    assert len(text) <= 6144
    sids = [statement["Sid"] for statement in policies.render(name, GIVEN)["Statement"]]
    assert len(set(sids)) == len(sids)
    assert all(re.fullmatch(r"[A-Za-z0-9]+", sid) for sid in sids)


@pytest.mark.parametrize("pipeline", ["digits", "dog_breeds", "A-pipeline-with-a-name-of-any-length-" * 3])
def test_jobs_are_allowed_by_the_names_that_they_get(pipeline: str) -> None:
    patterns = {one.resource for one in policies.permissions(policies.render("airflow", GIVEN))}
    head = "arn:aws:sagemaker:eu-central-1:123456789012:"
    jobs = {
        "tune": "hyper-parameter-tuning-job", "retrain": "training-job", "extract_features": "processing-job",
        "stage_weights": "processing-job", "assess": "processing-job", "compare": "processing-job",
        "batch_predict": "transform-job",
    }  # fmt: skip
    made = []
    for task, kind in jobs.items():
        length = names.TUNING_JOB_NAME_LENGTH if task == "tune" else names.JOB_NAME_LENGTH
        base = names.job(pipeline, task, length)
        made.append(f"{head}{kind}/{names.resource(base, 'run', length=length)}".lower())
    made += [f"{head}endpoint/{names.endpoint(pipeline)}".lower()]
    made += [
        f"{head}{kind}/{names.resource(names.base(pipeline), 'x')}".lower()
        for kind in ("model", "endpoint-config")
    ]
    for arn in made:
        assert any(re.fullmatch(re.escape(one).replace(r"\*", ".*"), arn) for one in patterns - {"*"}), arn


def test_one_policy_can_be_printed_for_an_account() -> None:
    command = [sys.executable, "-m", "scripts.policies", "airflow-notifications"]
    options = ["--account", "123456789012", "--region", "eu-central-1", "--bucket", "b"]
    refused = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert (refused.returncode, "needs a value for TopicArn" in refused.stderr) == (2, True)
    topic = "arn:aws:sns:eu-central-1:123456789012:t"
    printed = subprocess.run(
        [*command, *options, "--topic", topic], capture_output=True, text=True, check=True
    )
    assert topic in printed.stdout
    assert "${" not in printed.stdout
