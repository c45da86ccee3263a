"""ClassImbalance and Confusion against numpy and scikit-learn."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, precision_score
from smdebug import modes
from smdebug.pytorch.singleton_utils import del_hook
from torch import nn

from rules import Outputs, Verdict, evaluate
from tests.ml_code.rules.recording import LABELS, LOGITS, Recorded, make_hook, run

IN_LOSS = {"labels_regex": LABELS, "predictions_regex": LOGITS}
NAMED = {"labels": LABELS, "predictions": LOGITS}


def save(folder: Path, steps: Sequence[tuple[np.ndarray, np.ndarray]], mode: str = "TRAIN") -> None:
    """Labels and predictions by the names that the rules ask for, saved by the script itself."""
    layer = nn.Linear(1, 1)
    hook = make_hook(folder, {"labels": "^labels", "predictions": "^predictions"})
    hook.register_module(layer)
    hook.set_mode(modes[mode])
    for labels, predictions in steps:
        hook.save_tensor("labels", torch.tensor(labels), "labels")
        hook.save_tensor("predictions", torch.tensor(predictions), "predictions")
        layer(torch.zeros(1, 1)).backward()
    hook.close()
    del_hook()


def verdict(folder: Path, rule: str, **parameters: str) -> Verdict:
    return evaluate(Outputs(folder), {rule: {"parameters": parameters}})[0]


def test_classes_are_counted_from_the_start(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    labels = [generator.choice(3, 100, p=[0.47, 0.5, 0.03]) for _ in range(8)]
    save(tmp_path / "out", [(one, one) for one in labels])
    counts = np.cumsum([np.bincount(one, minlength=3) for one in labels], axis=0)
    ratios = counts.max(axis=1) / counts.min(axis=1)
    first = next(step for step in range(4, 8) if ratios[step] > 10)
    found = verdict(tmp_path / "out", "ClassImbalance")
    assert (found.status, found.step, found.tensor) == ("IssuesFound", first, "labels")
    assert found.value == pytest.approx(ratios[first])
    assert "WeightedRandomSampler" in found.recommendation
    patient = verdict(tmp_path / "out", "ClassImbalance", threshold_imbalance="100")
    assert (patient.status, patient.value) == ("NoIssuesFound", 0.0)


def test_many_classes_need_many_labels(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    labels = [generator.integers(0, 100, 100) for _ in range(6)]
    seen = np.bincount(np.concatenate(labels), minlength=100)
    assert seen.max() > 10 * seen.min(), "chance alone"
    save(tmp_path / "out", [(one, one) for one in labels])
    found = verdict(tmp_path / "out", "ClassImbalance")
    assert found.status == "NotEvaluated"
    assert "600 labels of" in found.detail
    assert "20 for each are needed" in found.detail


def test_mispredictions_are_those_of_the_last_labels(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    steps = []
    for step in range(12):
        labels = generator.integers(0, 3, 100)
        # At first everything is wrong; later most of class 2 stays so.
        wrong = (labels == 2) & (generator.random(100) < 0.8)
        steps.append((labels, (labels + 1) % 3 if step < 6 else np.where(wrong, 0, labels)))
    save(tmp_path / "out", steps)
    labels, predictions = (np.concatenate(one) for one in zip(*steps[-5:], strict=True))
    share = float(np.mean(predictions[labels == 2] != 2))
    found = verdict(tmp_path / "out", "ClassImbalance")
    assert (found.status, found.step, found.tensor) == ("IssuesFound", 11, "predictions")
    assert found.value == pytest.approx(share)
    assert "class 2" in found.detail
    assert (
        verdict(tmp_path / "out", "ClassImbalance", threshold_misprediction="0.9").status == "NoIssuesFound"
    )


def test_labels_and_predictions_are_found_in_the_loss(healthy: Recorded) -> None:
    labels = healthy.tensors[LABELS][-1].astype(int)
    predictions = healthy.tensors[LOGITS][-1].argmax(axis=1)
    shares = [float(np.mean(predictions[labels == one] != one)) for one in range(3)]
    found = healthy.verdict("ClassImbalance", argmax="True", **IN_LOSS)
    assert (found.status, found.step) == ("NoIssuesFound", 13)
    assert found.value == pytest.approx(max(shares))


def test_samples_are_cut_for_a_short_run(tmp_path: Path) -> None:
    recorded = run(tmp_path / "out", epochs=1, lr=0.1, images=240)
    found = recorded.verdict("ClassImbalance", threshold_misprediction="1", **IN_LOSS)
    assert found.status == "NoIssuesFound", found.detail
    assert "samples 500 cut to 120: the run has 240 labels" in found.detail
    assert "samples 501 needs 501" in recorded.verdict("ClassImbalance", samples="501", **IN_LOSS).detail


def test_what_is_no_class_number_is_named(tmp_path: Path) -> None:
    save(tmp_path / "out", [(np.array([0, 1] * 100), np.array([0.5, 1.0] * 100))])
    found = verdict(tmp_path / "out", "ClassImbalance")
    assert found.status == "NotEvaluated"
    assert "predictions has values that are no class numbers" in found.detail
    assert "one column per class" in verdict(tmp_path / "out", "ClassImbalance", argmax="True").detail


def test_the_confusion_matrix_is_that_of_the_last_evaluation_pass(healthy: Recorded) -> None:
    labels = np.concatenate([labels for _, labels in healthy.last_pass])
    predictions = np.concatenate([logits.argmax(axis=1) for logits, _ in healthy.last_pass])
    precision = precision_score(labels, predictions, average=None)
    beside = confusion_matrix(labels, predictions, normalize="pred")
    np.fill_diagonal(beside, 0)
    found = healthy.verdict("Confusion", min_diag="0", max_off_diag="1", **NAMED)
    assert (found.status, found.tensor, found.step) == ("NoIssuesFound", LOGITS, 27)
    assert found.value == pytest.approx(precision.min())
    strict = healthy.verdict("Confusion", min_diag=str(precision.min() + 0.001), max_off_diag="1", **NAMED)
    assert (strict.status, strict.value) == ("IssuesFound", found.value)
    off = healthy.verdict("Confusion", min_diag="0", max_off_diag=str(beside.max() - 0.001), **NAMED)
    assert off.status == "IssuesFound"
    assert off.value == pytest.approx(beside.max())


@pytest.mark.parametrize(("classes", "right"), [(2, 0.95), (10, 0.95), (10, 0.8)])
def test_confusion_can_pass_with_several_classes(tmp_path: Path, classes: int, right: float) -> None:
    labels = np.tile(np.arange(classes), 100)
    wrong = np.arange(len(labels)) // classes >= 100 * right
    predictions = np.where(wrong, (labels + 1) % classes, labels)
    save(tmp_path / "out", [(labels, predictions)])
    found = verdict(tmp_path / "out", "Confusion")
    assert found.status == ("NoIssuesFound" if right > 0.9 else "IssuesFound")
    assert found.value == pytest.approx(right)
    fewer = verdict(tmp_path / "out", "Confusion", category_no="1")
    assert f"category_no is 1, and there is a class {classes - 1}" in fewer.detail


def test_a_class_that_is_never_predicted_is_found(tmp_path: Path) -> None:
    labels = np.tile(np.arange(3), 40)
    save(tmp_path / "out", [(labels, np.where(labels == 2, 1, labels))])
    found = verdict(tmp_path / "out", "Confusion")
    assert (found.status, found.value, found.step) == ("IssuesFound", 0.0, 0)
    assert "class 2" in found.detail


def test_a_matrix_of_few_labels_says_nothing(tmp_path: Path) -> None:
    save(tmp_path / "out", [(np.arange(3), np.arange(3))])
    found = verdict(tmp_path / "out", "Confusion")
    assert found.status == "NotEvaluated"
    assert "has 3 labels of 3 classes, 20 for each are needed" in found.detail
