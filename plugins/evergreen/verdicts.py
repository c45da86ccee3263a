"""A report's verdict in words, for the task log, the approval and messages."""

from typing import Any

from evergreen import addresses

RELATIONS = {">=": "≥ ", ">": "> ", "<=": "≤ ", None: ""}


def markdown(verdict: dict[str, Any], dag_id: str, run_id: str) -> str:
    """What a person who has to decide reads first: reasons, the gate's table, the way to the report."""
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
        ]
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
