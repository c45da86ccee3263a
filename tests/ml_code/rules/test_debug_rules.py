"""The five rules over real smdebug output, each against numbers recorded beside smdebug."""

import json
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from smdebug import SaveConfig, SaveConfigMode, modes
from smdebug.pytorch import Hook
from torch import nn

from rules import RULES, Outputs, Verdict, evaluate
from rules.debug.saved_tensors import Point, evaluation_passes

FEATURES, CLASSES, WIDTH = 12, 3, 24
EVERYTHING = ("weights", "gradients", "biases", "losses", "relu_input")


class Net(nn.Module):
    """Two blocks with named ReLUs, as AWS's `.*relu_input` expects, and a last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self._block(FEATURES)
        self.second = self._block(WIDTH)
        self.fc = nn.Linear(WIDTH, CLASSES)

    @staticmethod
    def _block(width: int) -> nn.Sequential:
        linear = nn.Linear(width, WIDTH)
        nn.init.kaiming_normal_(linear.weight)
        return nn.Sequential(OrderedDict(linear=linear, relu=nn.ReLU()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(self.second(self.first(x)))
        return logits


@dataclass
class Recorded:
    """What the loop itself saw; the rules only see what smdebug wrote."""

    folder: Path
    train: list[float] = field(default_factory=list)
    evaluation: list[list[float]] = field(default_factory=list)
    gradients: dict[str, list[np.ndarray]] = field(default_factory=dict)
    variances: list[dict[str, float]] = field(default_factory=list)

    def verdict(self, name: str, **parameters: str) -> Verdict:
        return evaluate(Outputs(self.folder), {name: {"policy": "fail", "parameters": parameters}})[0]


def run(
    folder: Path,
    *,
    epochs: int,
    lr: float,
    batches: int = 1,
    images: int = 512,
    shuffled: bool = False,
    prepare: Callable[[Net], None] = lambda net: None,
    collections: tuple[str, ...] = EVERYTHING,
) -> Recorded:
    """Train on a linearly separable task, two EVAL batches of unlike size after each epoch."""
    torch.manual_seed(0)
    direction = torch.randn(FEATURES, CLASSES)
    x, held_out = torch.randn(images, FEATURES), torch.randn(512, FEATURES)
    y, held_out_y = (x @ direction).argmax(1), (held_out @ direction).argmax(1)
    if shuffled:
        y = y[torch.randperm(images)]
    net, loss_function = Net(), nn.CrossEntropyLoss()
    prepare(net)
    recorded = Recorded(folder)
    every_step = SaveConfig({mode: SaveConfigMode(save_interval=1) for mode in (modes.TRAIN, modes.EVAL)})
    hook = Hook(out_dir=str(folder), include_collections=list(collections), save_config=every_step)
    if "relu_input" in collections:
        hook.get_collection("relu_input").include(".*relu_input")
    hook.register_module(net)
    hook.register_loss(loss_function)
    optimizer = torch.optim.SGD((p for p in net.parameters() if p.requires_grad), lr=lr)

    def keep_variance(name: str) -> Callable[..., None]:
        def keep(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            if net.training:
                recorded.variances[-1][name] = float(inputs[0].detach().double().var(correction=0))

        return keep

    for name in ("first", "second"):
        net.get_submodule(f"{name}.relu").register_forward_pre_hook(keep_variance(name))
    for _ in range(epochs):
        hook.set_mode(modes.TRAIN)
        net.train()
        for batch in torch.arange(images).chunk(batches):
            recorded.variances.append({})
            optimizer.zero_grad()
            loss = loss_function(net(x[batch]), y[batch])
            loss.backward()
            recorded.train.append(loss.item())
            for name, parameter in net.named_parameters():
                if parameter.grad is not None:
                    recorded.gradients.setdefault(name, []).append(parameter.grad.double().numpy().copy())
            optimizer.step()
        hook.set_mode(modes.EVAL)
        net.eval()
        with torch.no_grad():
            recorded.evaluation.append(
                [
                    loss_function(net(held_out[part]), held_out_y[part]).item()
                    for part in (slice(384), slice(384, 512))
                ]
            )
    hook.close()
    return recorded


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return run(tmp_path_factory.mktemp("healthy") / "debug-output", epochs=14, lr=0.1)


@pytest.fixture(scope="module")
def overfitted(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    folder = tmp_path_factory.mktemp("overfit") / "debug-output"
    return run(folder, epochs=30, lr=0.5, images=24, shuffled=True, collections=("losses",))


@pytest.fixture(scope="module")
def constant(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return run(tmp_path_factory.mktemp("constant") / "debug-output", epochs=14, lr=0.0)


def test_a_healthy_run_has_no_issues(healthy: Recorded) -> None:
    verdicts = evaluate(Outputs(healthy.folder))
    assert {verdict.name: verdict.status for verdict in verdicts} == dict.fromkeys(RULES, "NoIssuesFound"), [
        verdict.detail for verdict in verdicts
    ]


def test_vanishing_gradient_reports_the_smallest_mean(healthy: Recorded) -> None:
    means = {
        (name, step): np.abs(gradient).mean()
        for name, steps in healthy.gradients.items()
        for step, gradient in enumerate(steps)
    }
    (name, step), smallest = min(means.items(), key=lambda item: item[1])
    verdict = healthy.verdict("VanishingGradient")
    assert (verdict.tensor, verdict.step) == (f"gradient/Net_{name}", step)
    assert verdict.value == pytest.approx(smallest, rel=1e-5)
    raised = healthy.verdict("VanishingGradient", threshold=str(2 * smallest))
    first = min(step for (_, step), mean in means.items() if mean < 2 * smallest)
    assert (raised.status, raised.step) == ("IssuesFound", first)


def test_vanishing_gradient_fires_when_one_layer_is_cut_off(tmp_path: Path) -> None:
    def cut(net: Net) -> None:
        nn.init.zeros_(net.fc.weight)
        net.fc.weight.requires_grad_(False)

    recorded = run(tmp_path / "out", epochs=2, lr=0.1, prepare=cut)
    verdict = recorded.verdict("VanishingGradient")
    assert verdict.status == "IssuesFound"
    assert (verdict.value, verdict.step) == (0.0, 0)
    assert verdict.tensor is not None
    assert not np.abs(recorded.gradients[verdict.tensor.removeprefix("gradient/Net_")][0]).any()


def test_poor_initialization_compares_the_variances_of_trainable_layers(tmp_path: Path) -> None:
    def blow_up(net: Net) -> None:
        with torch.no_grad():
            net.second.get_submodule("linear").weight.mul_(20)  # type: ignore[operator]

    recorded = run(tmp_path / "out", epochs=4, lr=0.01, prepare=blow_up)
    ratios = [max(step.values()) / min(step.values()) for step in recorded.variances]
    verdict = recorded.verdict("PoorWeightInitialization")
    assert verdict.status == "IssuesFound"
    assert verdict.value == pytest.approx(max(ratios), rel=1e-4)
    assert verdict.step == int(np.argmax(ratios))
    assert verdict.tensor == "first.relu_input_0"
    assert "not evaluated" in verdict.detail  # four steps are fewer than patience


def test_poor_initialization_ignores_frozen_layers(tmp_path: Path) -> None:
    def blow_up_and_freeze(net: Net) -> None:
        with torch.no_grad():
            net.second.get_submodule("linear").weight.mul_(20)  # type: ignore[operator]
        net.second.requires_grad_(False)

    recorded = run(tmp_path / "out", epochs=12, lr=0.0001, prepare=blow_up_and_freeze)
    verdict = recorded.verdict("PoorWeightInitialization")
    assert verdict.threshold in {0.001, 5.0}
    assert "fewer than two trainable layers" in verdict.detail


def test_poor_initialization_looks_at_gradients_and_loss_when_activations_are_missing(
    constant: Recorded,
) -> None:
    spreads = [
        np.subtract(*np.percentile(gradient, [95, 5]))
        for steps in constant.gradients.values()
        for gradient in steps[:10]
    ]
    verdict = constant.verdict(
        "PoorWeightInitialization",
        activation_inputs_regex=".*nothing",
        distribution_range=str(2 * min(spreads)),
    )
    assert verdict.status == "IssuesFound"
    assert verdict.value == pytest.approx(min(spreads), rel=1e-4)
    assert "not evaluated: fewer than two trainable layers" in verdict.detail
    stuck = constant.verdict("PoorWeightInitialization", distribution_range="0")
    assert (stuck.status, stuck.value, stuck.threshold) == ("IssuesFound", 9.0, 5.0)


def test_loss_not_decreasing_compares_evaluation_passes(healthy: Recorded) -> None:
    means = [float(np.mean(batches)) for batches in healthy.evaluation]
    # Two EVAL batches to a pass: 10 steps are 5 passes.
    falls = [100 * (means[i - 5] - means[i]) / means[i - 5] for i in range(5, len(means), 5)]
    verdict = healthy.verdict("LossNotDecreasing")
    assert verdict.value == pytest.approx(min(falls), rel=1e-4)
    strict = healthy.verdict("LossNotDecreasing", diff_percent=str(min(falls) + 1))
    assert strict.status == "IssuesFound"


def test_loss_not_decreasing_fires_on_a_constant_loss(constant: Recorded) -> None:
    verdict = constant.verdict("LossNotDecreasing")
    assert (verdict.status, verdict.value, verdict.step) == ("IssuesFound", 0.0, 11)
    assert "hardly learns" in verdict.detail
    train = constant.verdict("LossNotDecreasing", mode="TRAIN")
    assert (train.status, train.step) == ("IssuesFound", 10)


def test_loss_not_decreasing_needs_enough_steps(healthy: Recorded) -> None:
    verdict = healthy.verdict("LossNotDecreasing", num_steps="500")
    assert verdict.status == "NotEvaluated"
    assert "500 steps" in verdict.detail


def test_loss_not_decreasing_calls_a_loss_that_is_not_finite_an_issue(tmp_path: Path) -> None:
    recorded = run(tmp_path / "out", epochs=14, lr=1e30, collections=("losses",))
    verdict = recorded.verdict("LossNotDecreasing")
    assert (verdict.status, verdict.as_json()["value"]) == ("IssuesFound", None)
    assert "nan" in verdict.detail
    assert recorded.verdict("Overtraining").status == "NotEvaluated"
    assert recorded.verdict("Overfit").status == "NotEvaluated"


def test_overfit_compares_each_pass_with_the_training_since_the_one_before(overfitted: Recorded) -> None:
    ratios = [
        (np.mean(batches) - train) / train
        for train, batches in zip(overfitted.train, overfitted.evaluation, strict=True)
    ]
    first = next(i for i, ratio in enumerate(ratios) if ratio > 0.1)
    verdict = overfitted.verdict("Overfit")
    assert (verdict.status, verdict.step) == ("IssuesFound", 2 * first + 1)
    assert verdict.value == pytest.approx(ratios[first], rel=1e-4)
    patient = overfitted.verdict("Overfit", patience="3")
    third = next(i for i in range(2, len(ratios)) if min(ratios[i - 2 : i + 1]) > 0.1)
    assert patient.step == 2 * third + 1
    assert overfitted.verdict("Overfit", start_step="1000").status == "NotEvaluated"
    assert overfitted.verdict("Overfit", ratio_threshold="1e9").status == "NoIssuesFound"


def test_overtraining_waits_for_new_optima(overfitted: Recorded) -> None:
    means = [float(np.mean(batches)) for batches in overfitted.evaluation]
    longest, waited, best, fired = 0, 0, means[0], None
    for i, value in enumerate(means[1:], start=1):
        waited = 0 if best - value >= 0.01 else waited + 1
        best = value if waited == 0 else best
        longest = max(longest, waited)
        fired = i if fired is None and waited >= 10 else fired
    assert fired is not None
    verdict = overfitted.verdict("Overtraining")
    assert (verdict.status, verdict.value, verdict.threshold) == ("IssuesFound", longest, 10)
    assert verdict.step == 2 * fired + 1
    patient = overfitted.verdict("Overtraining", patience_train="1000", patience_validation="1000")
    assert patient.status == "NotEvaluated"
    half = overfitted.verdict("Overtraining", patience_train="29", patience_validation="1000")
    assert half.status == "NoIssuesFound"
    assert "not evaluated: validation loss has 30 evaluation passes, patience is 1000" in half.detail


@pytest.mark.parametrize(
    ("rule", "missing"),
    [
        ("VanishingGradient", "`gradients` collection"),
        ("PoorWeightInitialization", "`relu_input` collection"),
    ],
)
def test_missing_tensors_name_the_collection(overfitted: Recorded, rule: str, missing: str) -> None:
    verdict = (
        overfitted.verdict(rule, steps="3")
        if rule == "PoorWeightInitialization"
        else overfitted.verdict(rule)
    )
    assert verdict.status == "NotEvaluated"
    assert missing in verdict.detail


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
        file.unlink()
    verdict = recorded.verdict("VanishingGradient")
    assert verdict.status == "NotEvaluated"
    assert "the rule failed with" in verdict.detail


def test_passes_are_found_by_the_training_between_them() -> None:
    points = [Point(0, 3, 1.0), Point(1, 4, 3.0), Point(2, 8, 5.0)]
    assert [(one.step, one.train_steps, one.value) for one in evaluation_passes(points)] == [
        (1, 3, 2.0),
        (2, 6, 5.0),
    ]


def test_the_command_line_prints_json(healthy: Recorded) -> None:
    code = Path(__file__).parents[3] / "ml_code"
    command = [sys.executable, "-m", "rules", str(healthy.folder), "--rules", '{"Overfit": {}}']
    done = subprocess.run(command, cwd=code, capture_output=True, text=True, check=True)
    (verdict,) = json.loads(done.stdout[done.stdout.index("[\n") :])
    assert (verdict["name"], verdict["status"], verdict["policy"]) == ("Overfit", "NoIssuesFound", "warn")
