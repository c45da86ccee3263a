"""What the rules find where something is wrong, and how often they say so where nothing is.

    make bench NAME=rule-truth

About 10 minutes on 2 cores. The debugger's rules (benchmarks/ml/debug_truth.py) and the profiler's
(benchmarks/ml/profiler_truth.py), at AWS's default parameters where AWS has any: planted faults, each to be found at
the tensor and step, or in the device and phase, where it was planted; and 100 healthy runs with different seeds, in
which a rule may be wrong once. What a healthy run is, learning rates included, stands beside the figures.
"""

import json
import os
import subprocess
import sys
from typing import Any

from scripts.bench import conditions
from scripts.local_stack import REPOSITORY

ML = REPOSITORY / "var/venv/ml/bin/python"
PARTS = {"debugger": "benchmarks.ml.debug_truth", "profiler": "benchmarks.ml.profiler_truth"}
FALSE_ALARMS = 1
"""Of each rule, in all healthy runs."""


def run() -> dict[str, Any]:
    figures = {name: _measure(module) for name, module in PARTS.items()}
    for name, of in figures.items():
        _show(name, of)
    return {
        "figures": figures,
        "conditions": conditions("boto3"),
        "ok": all(
            all(fault["found"] for fault in of["faults"].values())
            and max(of["false_alarms"].values()) <= FALSE_ALARMS
            and not any(of["not_evaluated"].values())
            for of in figures.values()
        ),
    }


def _measure(module: str) -> dict[str, Any]:
    path = os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "ml_code")))
    said = subprocess.run(
        [ML, "-W", "ignore", "-m", module], cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": path},
        check=True, stdout=subprocess.PIPE, text=True,
    ).stdout  # fmt: skip
    measured: dict[str, Any] = json.loads(said)
    return measured


def _show(name: str, of: dict[str, Any]) -> None:
    lines = [f"{name}, faults:"]
    for fault, result in of["faults"].items():
        found = "found" if result["found"] else f"NOT FOUND: {result['detail']}"
        lines.append(f"  {fault:48} {result['rule']:26} {found}")
    lines.append(f"{name}, {of['runs']} healthy runs ({of['healthy']}): false alarms, runs not evaluated")
    for rule, alarms in of["false_alarms"].items():
        lines.append(f"  {rule:26} {alarms:4} {of['not_evaluated'].get(rule, 0):4}")
    print("\n".join(lines), file=sys.stderr, flush=True)
