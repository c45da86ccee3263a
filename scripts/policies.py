"""The IAM policies of aws/policies/ for one account, to be pasted or attached; and their CloudFormation template.

    python -m scripts.policies airflow --account 123456789012 --region eu-central-1 --bucket my-bucket
    python -m scripts.policies template       # writes aws/cloudformation.yaml

The first prints one policy with its `${…}` replaced; docs/aws.md says who needs which. The second puts them as they are
into aws/cloudformation.in.yaml, whose lines `PolicyDocument: !Policy FILE` name them.
"""

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
# compute.role, unless the pipeline names another.
ROLE = "EvergreenSageMakerRole"
FOLDER = REPOSITORY / "aws/policies"
SOURCE, TEMPLATE = REPOSITORY / "aws/cloudformation.in.yaml", REPOSITORY / "aws/cloudformation.yaml"
HEAD = "# Written by `python -m scripts.policies template` from cloudformation.in.yaml and policies/: edit those.\n"
VARIABLE = re.compile(r"\$\{([\w:]+)\}")
# A statement's conditions on these are on what the request says, not on who asks.
Conditions = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Permission:
    """One action on one pattern of resources."""

    statement: str
    action: str
    resource: str
    conditions: Conditions


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def values(
    account: str, region: str, bucket: str, *, partition: str = "aws", prefix: str = "evergreen",
    role: str = ROLE, **more: str,
) -> dict[str, str]:  # fmt: skip
    """What stands for the policies' variables; `KeyArn` and `TopicArn` besides, where they are needed."""
    return {
        "AWS::AccountId": account,
        "AWS::Region": region,
        "AWS::Partition": partition,
        "Bucket": bucket,
        "Prefix": prefix,
        "ExecutionRole": role,
        **more,
    }


def render(name: str, given: Mapping[str, str]) -> dict[str, Any]:
    """A policy for one account.

    :raises KeyError: naming a variable that has no value.
    """
    text = VARIABLE.sub(lambda found: given[found[1]], (FOLDER / f"{name}.json").read_text())
    document: dict[str, Any] = json.loads(text)
    return document


def permissions(policy: Mapping[str, Any]) -> Iterator[Permission]:
    for statement in policy["Statement"]:
        for action in statement["Action"]:
            for resource in statement["Resource"]:
                yield Permission(statement["Sid"], action, resource, statement.get("Condition", {}))


def template() -> str:
    """aws/cloudformation.yaml."""
    # The local cloud's environment, which makes its account by these policies, does without.
    import yaml

    def document(line: re.Match[str]) -> str:
        indent, key, name = line.groups()
        policy = json.loads((FOLDER / f"{name}.json").read_text(), object_hook=_substituted)
        dumped = yaml.safe_dump(policy, sort_keys=False, width=200)
        return f"{indent}{key}:\n" + "".join(f"{indent}  {text}\n" for text in dumped.splitlines())

    return HEAD + re.sub(r"^( *)(\w+): !Policy ([\w-]+)\n", document, SOURCE.read_text(), flags=re.MULTILINE)


def _substituted(member: dict[str, Any]) -> dict[str, Any]:
    def one(value: Any) -> Any:
        if isinstance(value, list):
            return [one(item) for item in value]
        return {"Fn::Sub": value} if isinstance(value, str) and VARIABLE.search(value) else value

    return {key: one(value) for key, value in member.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=[*names(), "template"])
    parser.add_argument("--account", help="12 digits")
    parser.add_argument("--region")
    parser.add_argument("--bucket")
    parser.add_argument("--partition", default="aws")
    parser.add_argument("--prefix", default="evergreen", help="compute.prefix of the pipeline files")
    parser.add_argument("--role", default=ROLE, help="name of the execution role")
    parser.add_argument("--key", default="", help="ARN of the KMS key, for …-keys")
    parser.add_argument("--topic", default="", help="ARN of the SNS topic, for airflow-notifications")
    given = parser.parse_args()
    if given.name == "template":
        TEMPLATE.write_text(template())
        return
    filled = values(
        given.account, given.region, given.bucket, partition=given.partition, prefix=given.prefix,
        role=given.role, KeyArn=given.key, TopicArn=given.topic,
    )  # fmt: skip
    text = (FOLDER / f"{given.name}.json").read_text()
    if missing := sorted(name for name in set(VARIABLE.findall(text)) if not filled[name]):
        parser.error(f"{given.name} needs a value for {', '.join(missing)}")
    print(json.dumps(render(given.name, filled), indent=2))


if __name__ == "__main__":
    main()
