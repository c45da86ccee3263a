"""One rule as a job beside a training job: what a RuleEvaluatorImage is for the local cloud.

    RULE_CONFIG=ruleconfig.json RULE_STATUS=rule-status.json python -m rules.job

Waits until the training job has ended, evaluates the rule named by RuleParameters.rule_to_invoke, writes the verdict
to OutputPath/verdict.json and to RULE_STATUS {"Status": "NoIssuesFound"|"IssuesFound"|"Error", "Details": "…"}; a rule
that could not be evaluated is an Error with the reason, SageMaker having no other word for it. docs/contracts.md has
both files. About 2 s after the training job's end.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

POLL_SECONDS = 0.5


def main() -> None:
    config = json.loads(Path(os.environ["RULE_CONFIG"]).read_text())
    while not Path(config["TrainingEndedPath"]).exists():
        time.sleep(POLL_SECONDS)
    # Not before: it takes 150 MB, and most of a rule job's life is waiting.
    from rules import Outputs, evaluate

    parameters = config["RuleParameters"]
    name = parameters.get("rule_to_invoke", config["RuleConfigurationName"])
    outputs = Outputs(Path(config["DebugOutputPath"]), Path(config["ProfilerOutputPath"]))
    verdict = evaluate(outputs, {name: {"parameters": parameters}})[0].as_json()
    Path(config["OutputPath"], "verdict.json").write_text(json.dumps(verdict, indent=1))
    status = "Error" if verdict["status"] == "NotEvaluated" else verdict["status"]
    Path(os.environ["RULE_STATUS"]).write_text(json.dumps({"Status": status, "Details": verdict["detail"]}))
    print(f"{name}: {verdict['status']}: {verdict['detail']}")


if __name__ == "__main__":
    main()
