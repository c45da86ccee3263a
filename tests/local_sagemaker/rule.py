"""A rule for tests: answers what it is told to, when the training job has ended."""

import json
import os
import time
from pathlib import Path

config = json.loads(Path(os.environ["RULE_CONFIG"]).read_text())
while not Path(config["TrainingEndedPath"]).exists():
    time.sleep(0.05)
answer = config["RuleParameters"]["answer"]
time.sleep(float(config["RuleParameters"].get("seconds", "0")))
Path(config["OutputPath"], "seen.txt").write_text(config["RuleConfigurationName"])
files = len(list(Path(config["DebugOutputPath"], "events").glob("*")))
if answer:
    Path(os.environ["RULE_STATUS"]).write_text(json.dumps({"Status": answer, "Details": f"{files} files"}))
