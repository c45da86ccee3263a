"""Who asks, what the jobs' role is, and what both may do: by IAM's own simulation, which changes nothing."""

import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from botocore.exceptions import ClientError

from scripts import policies
from scripts.doctor.finding import Clients, Finding, code

SERVICE = "sagemaker.amazonaws.com"
ABSENT = "NoSuchEntity"


def role(clients: Clients, name: str) -> Iterator[Finding]:
    """:param name: name or ARN of the execution role."""
    short = name.rpartition("/")[2]
    try:
        found = clients("iam").get_role(RoleName=short)["Role"]
    except ClientError as error:
        if code(error) != ABSENT:
            raise
        yield Finding(
            "role", "fix", f"there is no role {short}: make it (docs/aws.md), or name another in compute.role"
        )
        return
    yield Finding("role", "ok", found["Arn"])
    trust = found["AssumeRolePolicyDocument"]
    trusted = trust if isinstance(trust, dict) else json.loads(trust)
    if any(_lets_sagemaker_in(statement) for statement in _listed(trusted["Statement"])):
        yield Finding("trust", "ok", f"{SERVICE} may take the role")
    else:
        yield Finding(
            "trust", "fix", f"{SERVICE} may not take the role: give it the trust policy execution-trust"
        )


def _lets_sagemaker_in(statement: dict[str, Any]) -> bool:
    principal = statement.get("Principal", {})
    services = _listed(principal.get("Service", [])) if isinstance(principal, dict) else []
    allowed = statement["Effect"] == "Allow" and "sts:AssumeRole" in _listed(statement["Action"])
    return allowed and SERVICE in services


def role_permissions(
    clients: Clients, role_arn: str, policy: str, wanted: Iterable[policies.Permission], *, local: bool
) -> Iterator[Finding]:
    """What SageMaker's jobs may do of what `policy` has.

    :param local: the local cloud's IAM weighs no conditions.
    """
    yield from _permissions("role's permissions", clients, role_arn, policy, wanted, local=local)


def own_permissions(
    clients: Clients, caller_arn: str, policy: str, wanted: Iterable[policies.Permission], *, local: bool
) -> Iterator[Finding]:
    """What whoever asks may do of what Airflow does."""
    check = "your permissions"
    if caller_arn.endswith(":root"):
        yield Finding(
            check, "not checked", "these are the account's own credentials, which may do everything"
        )
        return
    yield from _permissions(check, clients, principal(caller_arn), policy, wanted, local=local)


def principal(caller_arn: str) -> str:
    """The role behind an assumed one; IAM simulates for roles and users.

    >>> principal("arn:aws:sts::123456789012:assumed-role/Airflow/session")
    'arn:aws:iam::123456789012:role/Airflow'
    """
    head, _, rest = caller_arn.partition(":assumed-role/")
    if not rest:
        return caller_arn
    return f"{head.replace(':sts:', ':iam:')}:role/{rest.rpartition('/')[0]}"


def _permissions(
    check: str,
    clients: Clients,
    arn: str,
    name: str,
    wanted: Iterable[policies.Permission],
    *,
    local: bool,
) -> Iterator[Finding]:
    permissions = list(wanted)
    conditional = [one for one in permissions if one.conditions] if local else []
    asked = [one for one in permissions if one not in conditional]
    denied = [sentence for group in _groups(asked) for sentence in _denied(clients, arn, group)]
    if denied:
        more = f" and {len(denied) - 5} more" if len(denied) > 5 else ""
        what = f"{arn} may not {', '.join(denied[:5])}{more}"
        yield Finding(check, "fix", f"{what}: attach the policy {name} (python -m scripts.policies {name} …)")
    else:
        yield Finding(check, "ok", f"{len(asked)} of the {len(permissions)} in aws/policies/{name}.json")
    if conditional:
        actions = ", ".join(one.action for one in conditional)
        yield Finding(check, "not checked", f"{actions}: the local cloud's IAM weighs no conditions")


def _groups(permissions: list[policies.Permission]) -> Iterator[list[policies.Permission]]:
    """Those that one simulation can be asked of."""
    for _, group in groupby(permissions, key=lambda one: (one.statement, one.resource)):
        yield list(group)


def _denied(clients: Clients, arn: str, group: list[policies.Permission]) -> Iterator[str]:
    resource = group[0].resource
    answer = clients("iam").simulate_principal_policy(
        PolicySourceArn=arn,
        ActionNames=[one.action for one in group],
        # A name that the pattern stands for: a resource of a simulation has no wildcards.
        ResourceArns=[resource if resource == "*" else resource.replace("*", "x")],
        ContextEntries=list(_context(group[0].conditions)),
    )
    for one in answer["EvaluationResults"]:
        if one["EvalDecision"] != "allowed":
            yield f"{one['EvalActionName']} on {resource.split(':', 5)[-1]}"


def _context(conditions: policies.Conditions) -> Iterator[dict[str, Any]]:
    for tests in conditions.values():
        for key, value in tests.items():
            first = str(_listed(value)[0]).replace("*", "x")
            yield {"ContextKeyName": key, "ContextKeyType": "string", "ContextKeyValues": [first]}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
