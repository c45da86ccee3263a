"""What the debugger rules find where something is wrong, and where nothing is; prints JSON.

PYTHONPATH=.:ml_code var/venv/ml/bin/python -m benchmarks.ml.debug_truth [HEALTHY_RUNS]

Each planted fault has a rule, and counts as found when the rule's tensor and step are those that the training loop saw
itself. The healthy runs differ by their seed, and in turn by their learning rate. Outside these rates, tried on a few
runs: at 0.001 twelve epochs left one network of four too weak for Confusion's default 0.9, and at 0.008 the first steps
of one in seventeen overshot for as long as PoorWeightInitialization's patience.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.ml.debug_faults import FAULTS, PARAMETERS
from benchmarks.ml.digits_training import Recipe, train
from rules import Outputs, Verdict, evaluate
from rules.debug.catalogue import DEBUG_RULES

LEARNING_RATES = (0.003, 0.004, 0.005)
HEALTHY = (
    "1,197 of scikit-learn's digits, 600 for validation; a convolutional network with dropout 0.3; images shifted by "
    "up to a pixel; Adam with cosine decay, learning rates 0.003, 0.004 and 0.005 in turn; batches of 64, 12 epochs, "
    "one evaluation batch after each; losses saved at every step, the rest at every 10th"
)


def measure(runs: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    with ProcessPoolExecutor(os.cpu_count(), initializer=partial(torch.set_num_threads, 1)) as processes:
        faults = dict(_shown("fault", processes.map(_fault, FAULTS), len(FAULTS)))
        healthy = list(_shown("healthy run", processes.map(_healthy, range(runs)), runs))
    alarms: Counter[str] = Counter()
    unevaluated: Counter[str] = Counter()
    rates: dict[str, Any] = {
        f"{rate:g}": {"runs": 0, "false_alarms": Counter(), "accuracy": []} for rate in LEARNING_RATES
    }
    for result in healthy:
        of = rates[f"{result['lr']:g}"]
        of["runs"] += 1
        of["accuracy"].append(result["accuracy"])
        of["false_alarms"].update(result["IssuesFound"])
        alarms.update(result["IssuesFound"])
        unevaluated.update(result["NotEvaluated"])
    for of in rates.values():
        of["accuracy"] = round(sum(of["accuracy"]) / max(1, len(of["accuracy"])), 4)
    names = [rule.__name__ for rule in DEBUG_RULES]
    return {
        "faults": faults,
        "false_alarms": {name: alarms[name] for name in names},
        "runs": runs,
        "not_evaluated": {name: unevaluated[name] for name in names},
        "healthy": HEALTHY,
        "learning_rates": rates,
    }


def _fault(name: str) -> tuple[str, dict[str, Any]]:
    fault = FAULTS[name]
    folder = Path(tempfile.mkdtemp(prefix="debug-truth-"))
    try:
        run = train(folder / "debug-output", 0, fault.recipe)
        verdict = _verdict(run.folder, fault.rule, fault.parameters)
        step, tensor = fault.expected(run)
    finally:
        shutil.rmtree(folder)
    found = (verdict.status, verdict.step, verdict.tensor) == ("IssuesFound", step, tensor)
    detail = verdict.detail if found else f"expected {tensor} at step {step}, got {verdict}"
    return name, {"rule": fault.rule, "found": found, "detail": detail}


def _healthy(seed: int) -> dict[str, Any]:
    lr = LEARNING_RATES[seed % len(LEARNING_RATES)]
    folder = Path(tempfile.mkdtemp(prefix="debug-truth-"))
    try:
        run = train(folder / "debug-output", seed, Recipe(lr=lr))
        verdicts = [
            _verdict(run.folder, rule.__name__, PARAMETERS.get(rule.__name__, {})) for rule in DEBUG_RULES
        ]
    finally:
        shutil.rmtree(folder)
    for verdict in verdicts:
        if verdict.status != "NoIssuesFound":
            print(
                f"healthy run {seed}, lr {lr}: {verdict.name} {verdict.status}: {verdict.detail}",
                file=sys.stderr,
            )
    return {
        "lr": lr,
        "accuracy": run.accuracy,
        **{
            status: [one.name for one in verdicts if one.status == status]
            for status in ("IssuesFound", "NotEvaluated")
        },
    }


def _verdict(folder: Path, rule: str, parameters: dict[str, str]) -> Verdict:
    return evaluate(Outputs(folder), {rule: {"parameters": parameters}})[0]


def _shown(what: str, results: Iterator[Any], total: int) -> Iterator[Any]:
    for number, result in enumerate(results, start=1):
        if number % 10 == 0 or number == total:
            print(f"{what} {number} of {total}", file=sys.stderr, flush=True)
        yield result


if __name__ == "__main__":
    json.dump(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 100), sys.stdout)
