"""Execution roles: held against the local IAM before anything starts, and put back where it has forgotten them."""

import html
import json
import logging
import re
import urllib.parse
from typing import Any

from local_sagemaker.api.protocol import ACCOUNT, invalid
from local_sagemaker.aws.client import AwsError
from local_sagemaker.cloud import Cloud
from local_sagemaker.store import ExistsError

log = logging.getLogger(__name__)

SERVICE = "sagemaker.amazonaws.com"
KIND = "Role"


def check_role(cloud: Cloud, role_arn: str) -> None:
    """Raises ApiError unless the role is in the local IAM and its trust policy lets SageMaker assume it."""
    found = re.fullmatch(r"arn:aws[a-z-]*:iam::(\d{12}):role/(.+)", role_arn)
    if not found:
        raise invalid(f"{role_arn} is not the ARN of a role")
    if found.group(1) != ACCOUNT:
        raise invalid("Cross-account pass role is not allowed.")
    name = found.group(2).rpartition("/")[2]
    status, body = _ask(cloud, "GetRole", RoleName=name)
    if status not in {200, 400, 404}:
        raise RuntimeError(f"IAM answered GetRole {name} with {status}")
    members = dict(re.findall(r"<(Arn|AssumeRolePolicyDocument)>([^<]*)<", body.decode()))
    policy = urllib.parse.unquote(html.unescape(members.get("AssumeRolePolicyDocument", "{}")))
    if members.get("Arn") != role_arn or not _trusts(policy):
        raise invalid(
            f"Could not assume role {role_arn}. Please ensure that the role exists and allows principal "
            f"'{SERVICE}' to assume the role."
        )
    _remember(cloud, role_arn, policy)


def restore_roles(cloud: Cloud) -> None:
    """Create the roles that jobs have used anew: when it is killed, MiniStack forgets what IAM had."""
    for role in cloud.store.all(KIND):
        path, _, name = role["Arn"].partition(":role/")[2].rpartition("/")
        policy = role["AssumeRolePolicyDocument"]
        try:
            _ask(
                cloud,
                "CreateRole",
                RoleName=name,
                Path=f"/{path}/" if path else "/",
                AssumeRolePolicyDocument=policy,
            )
        except AwsError as error:
            log.warning("the role %s was not put back: %s", name, error)


def _remember(cloud: Cloud, arn: str, policy: str) -> None:
    try:
        cloud.store.create(KIND, arn, arn, {"Arn": arn, "AssumeRolePolicyDocument": policy})
    except ExistsError:
        role = cloud.store.get(KIND, arn)
        if role and role["AssumeRolePolicyDocument"] != policy:
            with cloud.store.change(KIND, arn) as changed:
                changed["AssumeRolePolicyDocument"] = policy


def _ask(cloud: Cloud, action: str, **parameters: str) -> tuple[int, bytes]:
    form = urllib.parse.urlencode({"Action": action, "Version": "2010-05-08", **parameters})
    headers = {"content-type": "application/x-www-form-urlencoded"}
    return cloud.aws.request("POST", "/", form.encode(), headers)


def _trusts(policy: str) -> bool:
    """Whether a trust policy lets SageMaker assume its role; MiniStack takes any text for one."""
    try:
        return _allows(json.loads(policy))
    except (ValueError, AttributeError, KeyError, TypeError):
        return False


def _allows(policy: Any) -> bool:
    effects = {
        statement["Effect"]
        for statement in _listed(policy.get("Statement", []))
        if _names(statement.get("Principal", {})) & {SERVICE, "*"}
        and {"sts:AssumeRole", "sts:*", "*"} & set(_listed(statement.get("Action", [])))
    }
    return effects == {"Allow"}


def _names(principal: Any) -> set[str]:
    return {"*"} if principal == "*" else set(_listed(principal.get("Service", [])))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
