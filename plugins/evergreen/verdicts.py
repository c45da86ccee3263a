"""A report's verdict in words, for the task log, the approval and messages."""

from typing import Any

from evergreen import addresses

RELATIONS = {">=": "≥ ", ">": "> ", "<=": "≤ ", None: ""}


def markdown(verdict: dict[str, Any], dag_id: str, run_id: str, consequences: str) -> str:
    """What a person who has to decide reads first: reasons, the gate's table, the way to the report, what follows."""
    rows = [
        f"| {check['name']} | {check['status']} | {measure(check['value'], check['unit'])} "
        f"| {RELATIONS[check['relation']]}{measure(check['threshold'], check['unit'])} |"
        for check in verdict["checks"]
    ]
    return "\n".join(
        [
            f"**{verdict['decision'].capitalize()}**",
            "",
            *(f"- {reason}" for reason in verdict["reasons"]),
            "",
            "| check | result | value | threshold |",
            "|---|---|--:|--:|",
            *rows,
            "",
            f"[The report]({addresses.report_tab(dag_id, run_id)})",
            "",
            consequences,
        ]
    )


def consequences(endpoint_name: str, policy: str, champion: dict[str, Any] | None) -> str:
    """What an approval and a rejection do.

    :param champion: what serves now; None where nothing does.
    """
    if champion is None:
        return f"Approve: {endpoint_name} is created with this model. Reject: there is no endpoint, as now."
    serves = champion["endpoint_config"]
    return (
        f"Approve: {endpoint_name} gets this model, by the policy {policy}. Reject: {serves} goes on serving."
    )


def measure(value: float | str | None, unit: str | None) -> str:
    """A check's value or threshold in its unit."""
    match value, unit:
        case None, _:
            return "none"
        case str(), _:
            return value.replace("|", r"\|")
        case _, "share":
            return f"{value:.2%}"
        case _, "difference of shares":
            return f"{100 * value:+.2f} points"
        case _:
            return f"{value:.4g} {unit or ''}".rstrip()
