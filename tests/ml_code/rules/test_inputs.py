"""CheckInputImages against numpy."""

from pathlib import Path

import numpy as np
import pytest

from tests.ml_code.rules.recording import EVERYTHING, Recorded, run


def means(recorded: Recorded) -> list[float]:
    """The largest |mean| of a channel over all images so far, step by step."""
    batches = recorded.tensors["Net_input_0"]
    seen = [np.concatenate(batches[: step + 1]) for step in range(len(batches))]
    return [float(np.abs(images.mean(axis=0)).max()) for images in seen]


def test_inputs_far_from_zero_are_found_once_there_are_enough(tmp_path: Path) -> None:
    recorded = run(tmp_path / "out", epochs=2, lr=0.01, images=600, batches=4, shift=0.5)
    verdict = recorded.verdict("CheckInputImages")
    # 150 images to a step.
    assert (verdict.status, verdict.step, verdict.tensor) == ("IssuesFound", 3, "Net_input_0")
    assert verdict.value == pytest.approx(means(recorded)[3], rel=1e-4)
    assert "Normalise" in verdict.recommendation
    assert recorded.verdict("CheckInputImages", threshold_samples="150").step == 0
    assert recorded.verdict("CheckInputImages", threshold_mean="0.9").status == "NoIssuesFound"


def test_normalised_inputs_pass(healthy: Recorded) -> None:
    verdict = healthy.verdict("CheckInputImages", regex="Net_input_0")
    assert (verdict.status, verdict.step) == ("NoIssuesFound", 13)
    assert verdict.value == pytest.approx(means(healthy)[13], rel=1e-4)
    assert verdict.plot is not None
    assert len(verdict.plot.series[0].points) == 14


def test_samples_are_cut_and_dimensions_checked(tmp_path: Path) -> None:
    recorded = run(tmp_path / "out", epochs=1, lr=0.01, images=200, batches=2, shift=1.0)
    verdict = recorded.verdict("CheckInputImages")
    assert (verdict.status, verdict.step) == ("IssuesFound", 0)
    assert "threshold_samples 500 cut to 100: the run has 200 images" in verdict.detail
    assert "no dimension 3 for channels" in recorded.verdict("CheckInputImages", channel="3").detail


def test_the_collection_to_turn_on_is_named(tmp_path: Path) -> None:
    collections = {name: pattern for name, pattern in EVERYTHING.items() if name != "input_image"}
    verdict = run(tmp_path / "out", epochs=1, lr=0.01, collections=collections).verdict("CheckInputImages")
    assert verdict.status == "NotEvaluated"
    assert "collection `input_image`" in verdict.detail
