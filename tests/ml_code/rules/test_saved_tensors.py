"""The reader that the rules share, over what smdebug wrote."""

from pathlib import Path

import numpy as np
import pytest
import torch
from smdebug.pytorch import Hook
from smdebug.pytorch.singleton_utils import del_hook

from rules.debug.saved_tensors import Point, SavedTensors, evaluation_passes
from rules.verdict import NotEvaluatedError
from tests.ml_code.rules.recording import LOSS, Net, Recorded


def test_values_are_those_of_the_loop(healthy: Recorded) -> None:
    tensors = SavedTensors(healthy.folder)
    names = set(tensors.names())
    assert {LOSS, "Net_fc.weight", "gradient/Net_fc.weight", "third.tanh_input_0"} <= names
    for name in names & set(healthy.tensors):
        saved = dict(tensors.values(name, "TRAIN"))
        assert list(saved) == list(range(14))
        np.testing.assert_allclose(np.stack([*saved.values()]), np.stack(healthy.tensors[name]), rtol=1e-6)
    assert [point.value for point in tensors.losses("TRAIN")[LOSS]] == pytest.approx(healthy.train)


def test_passes_are_found_by_the_training_between_them() -> None:
    points = [Point(0, 3, 1.0), Point(1, 4, 3.0), Point(2, 8, 5.0)]
    assert [(one.step, one.train_steps, one.value) for one in evaluation_passes(points)] == [
        (1, 3, 2.0),
        (2, 6, 5.0),
    ]


def test_steps_of_all_modes_come_in_order(healthy: Recorded) -> None:
    seen = [(one.mode, one.step) for one in SavedTensors(healthy.folder).saved(LOSS)]
    assert seen[:6] == [("TRAIN", 0), ("EVAL", 0), ("EVAL", 1), ("TRAIN", 1), ("EVAL", 2), ("EVAL", 3)]


def test_a_script_that_sets_no_mode_trains(tmp_path: Path) -> None:
    net = Net()
    hook = Hook(out_dir=str(tmp_path / "out"), save_all=True)
    hook.register_module(net)
    for _ in range(2):
        net(torch.ones(4, 12)).sum().backward()
    hook.close()
    del_hook()
    tensors = SavedTensors(tmp_path / "out")
    assert tensors.modes_of("Net_fc.weight") == ["TRAIN"]
    assert tensors.steps("Net_fc.weight", "TRAIN") == [0]  # of smdebug's default interval, 500
    assert tensors.gradients()


def test_names_come_from_collections_and_patterns(healthy: Recorded) -> None:
    tensors = SavedTensors(healthy.folder)
    weights = ["Net_fc.weight", *(f"Net_{block}.linear.weight" for block in ("first", "second", "third"))]
    assert tensors.select("weights", None) == weights
    assert tensors.select("weights, losses", "tanh_input") == sorted([*weights, LOSS, "third.tanh_input_0"])
    assert tensors.select(None, None) == tensors.names()
    with pytest.raises(NotEvaluatedError, match="is in collection_names 'other' or tensor_regex 'none'"):
        tensors.select("other", "none")


def test_the_order_of_a_step_is_that_of_the_training(healthy: Recorded) -> None:
    order = SavedTensors(healthy.folder).order(0)
    expected = ("Net_fc.weight", "first.relu_input_0", LOSS, "gradient/Net_fc.weight")
    places = [order.index(name) for name in expected]
    assert places == sorted(places)


def test_a_tensor_of_which_only_reductions_were_saved(reduced: Recorded) -> None:
    tensors = SavedTensors(reduced.folder)
    name = "Net_fc.weight"
    saved = [value for _, value in tensors.statistic(name, "TRAIN", "abs_mean")]
    assert saved == pytest.approx([np.abs(value).mean() for value in reduced.tensors[name]], rel=1e-5)
    with pytest.raises(NotEvaluatedError, match=r"Net_fc\.weight was saved as reductions only"):
        next(tensors.values(name, "TRAIN"))


def test_no_tensors_yet(healthy: Recorded, tmp_path: Path) -> None:
    with pytest.raises(NotEvaluatedError, match="turn the debugger hook on"):
        SavedTensors(tmp_path)
    file = next(healthy.folder.glob("collections/*/*.json"))
    copy = tmp_path / file.relative_to(healthy.folder)
    copy.parent.mkdir(parents=True)
    copy.write_bytes(file.read_bytes())
    with pytest.raises(NotEvaluatedError, match="no tensor has been saved yet"):
        SavedTensors(tmp_path)
