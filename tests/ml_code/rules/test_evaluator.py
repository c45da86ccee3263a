"""What becomes of rules, whatever happens to them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from smdebug import modes
from smdebug.pytorch.singleton_utils import del_hook
from torch import nn

from rules import Outputs, evaluate
from rules.debug.catalogue import DEBUG_RULES
from tests.ml_code.rules.recording import LABELS, LOGITS, Recorded, make_hook, run

NAMES = [rule.__name__ for rule in DEBUG_RULES]

# What AWS has no default for, and where this training has its labels, predictions and input.
PARAMETERS = {
    "AllZero": {"collection_names": "weights,gradients"},
    "UnchangedTensor": {"collection_names": "weights"},
    "TensorVariance": {"collection_names": "weights", "max_threshold": "10"},
    "ClassImbalance": {"labels_regex": LABELS, "predictions_regex": LOGITS},
    # 14 steps make no good classifier.
    "Confusion": {"labels": LABELS, "predictions": LOGITS, "min_diag": "0.2", "max_off_diag": "0.8"},
}


def test_a_healthy_run_has_no_issues(healthy: Recorded) -> None:
    rules = {name: {"parameters": PARAMETERS.get(name, {})} for name in NAMES}
    verdicts = evaluate(Outputs(healthy.folder), rules)
    assert {verdict.name: verdict.status for verdict in verdicts} == dict.fromkeys(NAMES, "NoIssuesFound"), [
        verdict.detail for verdict in verdicts
    ]
    for verdict in verdicts:
        assert not verdict.recommendation
        assert verdict.detail.endswith(".")
        plot = json.loads(json.dumps(verdict.as_json(), allow_nan=False))["plot"]
        assert plot["series"]
        assert all(series["points"] for series in plot["series"]), verdict.name


def test_issues_come_with_what_to_do(exploding: Recorded, constant: Recorded, overfitted: Recorded) -> None:
    rules = {name: {"parameters": PARAMETERS.get(name, {})} for name in NAMES}
    issues = [
        verdict
        for recorded in (exploding, constant, overfitted)
        for verdict in evaluate(Outputs(recorded.folder), rules)
        if verdict.status == "IssuesFound"
    ]
    expected = {"ExplodingTensor", "LossNotDecreasing", "Overfit", "Overtraining", "UnchangedTensor"}
    assert expected <= {verdict.name for verdict in issues}
    for verdict in issues:
        assert verdict.recommendation.endswith("."), verdict.name
        assert verdict.plot is not None
        json.dumps(verdict.as_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("rule", "missing"),
    [
        ("VanishingGradient", "`gradients` collection"),
        ("PoorWeightInitialization", "`relu_input` collection"),
        ("DeadRelu", "include_regex .*relu_output"),
        ("SaturatedActivation", "include_regex .*tanh_input|.*sigmoid_input"),
        ("WeightUpdateRatio", "`weights` collection"),
        ("ClassImbalance", "include_regex CrossEntropyLoss_input"),
        ("Confusion", "include_regex CrossEntropyLoss_input"),
        ("CheckInputImages", "`input_image`"),
    ],
)
def test_missing_tensors_name_the_collection(overfitted: Recorded, rule: str, missing: str) -> None:
    parameters = {"steps": "3"} if rule == "PoorWeightInitialization" else {}
    verdict = overfitted.verdict(rule, **parameters)
    assert verdict.status == "NotEvaluated"
    assert missing in verdict.detail


def test_missing_losses_name_the_collection(tmp_path: Path) -> None:
    layer = nn.Linear(1, 1)
    hook = make_hook(tmp_path / "out", {"weights": None})
    hook.register_module(layer)
    hook.set_mode(modes.TRAIN)
    layer(torch.zeros(1, 1)).backward()
    hook.close()
    del_hook()
    for rule in ("LossNotDecreasing", "Overfit", "Overtraining"):
        (verdict,) = evaluate(Outputs(tmp_path / "out"), {rule: {}})
        assert verdict.status == "NotEvaluated"
        assert "save the `losses` collection" in verdict.detail


def test_no_output_at_all_leaves_every_rule_unevaluated(tmp_path: Path) -> None:
    verdicts = evaluate(Outputs(tmp_path / "absent"))
    assert {verdict.status for verdict in verdicts} == {"NotEvaluated"}
    assert all("hook" in verdict.detail for verdict in verdicts)


def test_wrong_parameters_and_names_are_verdicts(healthy: Recorded) -> None:
    assert "no parameter 'treshold'" in healthy.verdict("VanishingGradient", treshold="1").detail
    assert "not a number" in healthy.verdict("VanishingGradient", threshold="small").detail
    assert "there is no rule Underfit" in healthy.verdict("Underfit").detail
    assert healthy.verdict("VanishingGradient", rule_to_invoke="VanishingGradient").status == "NoIssuesFound"


def test_a_crash_becomes_the_verdict(tmp_path: Path) -> None:
    recorded = run(tmp_path / "out", epochs=2, lr=0.1)
    for file in (recorded.folder / "events").rglob("*.tfevents"):
        file.write_bytes(b"")  # smdebug waits for files that are not there
    verdict = recorded.verdict("VanishingGradient")
    assert verdict.status == "NotEvaluated"
    assert "the rule failed with" in verdict.detail


def test_the_command_line_prints_json(healthy: Recorded) -> None:
    code = Path(__file__).parents[3] / "ml_code"
    command = [sys.executable, "-m", "rules", str(healthy.folder), "--rules", '{"Overfit": {}}']
    done = subprocess.run(command, cwd=code, capture_output=True, text=True, check=True)
    (verdict,) = json.loads(done.stdout[done.stdout.index("[\n") :])
    assert (verdict["name"], verdict["status"], verdict["policy"]) == ("Overfit", "NoIssuesFound", "warn")
