"""One rule as a job beside a training job: what a RuleEvaluatorImage is for the local cloud.

    RULE_CONFIG=ruleconfig.json RULE_STATUS=rule-status.json python rule_job.py

Looks at what the training job has written so far, again and again, until the rule finds an issue or the job has ended.
Writes the verdict to OutputPath/verdict.json, ProfilerReport its page beside it, and to RULE_STATUS {"Status":
"NoIssuesFound"|"IssuesFound"|"Error", "Details": "…"}; a rule that could not be evaluated is an Error with the reason,
SageMaker having no other word for it. At an issue the actions of RuleParameters.action_json are carried out, once.
docs/contracts.md has the files. The verdict is there about 2 s after the training job's end.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rules import Verdict

POLL_SECONDS = 0.5
# Between two looks at a job that runs: at least so long, and so many times what a look takes.
PAUSE_SECONDS, PAUSE_RATIO = 5.0, 10.0


def main() -> None:
    config = json.loads(Path(os.environ["RULE_CONFIG"]).read_text())
    verdict = watch(config)
    problems = []
    action_json = config["RuleParameters"].get("action_json", "")
    if verdict.status == "IssuesFound" and action_json:
        from rules import actions

        problems = actions.carry_out(verdict.name, action_json, verdict.detail)
    document = verdict.as_json()
    Path(config["OutputPath"], "verdict.json").write_text(json.dumps(document, indent=1))
    details = " ".join([verdict.detail, *problems])
    status = "Error" if verdict.status == "NotEvaluated" else verdict.status
    Path(os.environ["RULE_STATUS"]).write_text(json.dumps({"Status": status, "Details": details}))
    print(f"{verdict.name}: {verdict.status}: {details}")


def watch(config: dict[str, Any]) -> Verdict:
    """The verdict: the first that finds an issue, or the last."""
    ended, debug_output = Path(config["TrainingEndedPath"]), Path(config["DebugOutputPath"])
    parameters = config["RuleParameters"]
    name = parameters.get("rule_to_invoke", config["RuleConfigurationName"])
    # What a rule job takes are 150 MB, most of them imports, and there is nothing to look at before.
    while not ended.exists() and not _begun(config):
        time.sleep(POLL_SECONDS)
    if source := config.get("SourcePath"):
        from rules.custom import evaluate_custom

        return evaluate_custom(debug_output, Path(source), name, parameters)
    from rules import Outputs, evaluate

    profiler_output = Path(config["ProfilerOutputPath"])
    due = time.monotonic() + PAUSE_SECONDS
    while True:
        over = ended.exists()
        if over or time.monotonic() >= due:
            started = time.monotonic()
            outputs = Outputs(debug_output, profiler_output, ended=over)
            verdict = evaluate(outputs, {name: {"parameters": parameters}})[0]
            if over and name == "ProfilerReport":
                from report.profiler_report import write_where_possible

                write_where_possible(profiler_output, Path(config["OutputPath"]), parameters)
            # A report is on all of the training.
            if over or (verdict.status == "IssuesFound" and name != "ProfilerReport"):
                return verdict
            took = time.monotonic() - started
            due = time.monotonic() + max(PAUSE_SECONDS, PAUSE_RATIO * took)
        time.sleep(POLL_SECONDS)


def _begun(config: dict[str, Any]) -> bool:
    return any(
        any(Path(config[folder]).glob(pattern))
        for folder, pattern in (
            ("DebugOutputPath", "index/*/*.json"),
            ("ProfilerOutputPath", "*/incremental/*/*.json"),
        )
    )


if __name__ == "__main__":
    main()
