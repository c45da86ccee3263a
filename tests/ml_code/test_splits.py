"""Drift and near-duplicates between samples of two splits, with a real network and real pictures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from model.artifact import LoadedModel, load_model
from report.drift import Snapshot, drift
from report.near_duplicates import near_duplicates
from report.predictions import predict
from report.sample import Sample, look, spread
from report.splits import compare_splits
from tests.ml_code.conftest import TrainedModel


@pytest.fixture(scope="session")
def model(trained: TrainedModel) -> LoadedModel:
    return load_model(trained.model)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg"))


def psi(report: dict[str, Any]) -> dict[str, bool]:
    return {row["name"]: row["drifted"] for row in report["measures"]}


def test_two_halves_of_a_split_show_no_drift_and_changed_ones_do(
    model: LoadedModel, digits: Path, tmp_path: Path
) -> None:
    train = files(digits / "train")
    snapshot = Snapshot.of(look(model, digits / "train", train[::2]), model.classes)
    assert not any(psi(drift(snapshot, look(model, digits / "train", train[1::2]))).values())
    for file in train[1::2]:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        with Image.open(digits / "train" / file) as image:
            ImageEnhance.Brightness(image).enhance(0.4).resize((48, 48)).save(tmp_path / file)
    found = psi(drift(snapshot, look(model, tmp_path, train[1::2])))
    assert found["brightness"]
    assert found["shorter side"], "training has one size, these another"


def test_the_index_is_that_of_its_definition(model: LoadedModel, digits: Path) -> None:
    train = look(model, digits / "train", files(digits / "train"))
    test = look(model, digits / "validation", files(digits / "validation"))
    snapshot = Snapshot.of(train, model.classes)
    (row,) = (row for row in drift(snapshot, test)["measures"] if row["name"] == "brightness")
    edges = np.quantile(train.brightness, np.linspace(0, 1, 11))[1:-1]
    p, q = (np.histogram(one, [-np.inf, *np.nextafter(edges, 2), np.inf])[0] + 0.5 for one in
            (train.brightness, test.brightness))  # fmt: skip
    p, q = p / p.sum(), q / q.sum()
    expected = sum((b - a) * np.log(b / a) for a, b in zip(p, q, strict=True))
    assert row["psi"] == pytest.approx(expected, abs=1e-4)


def test_a_picture_saved_again_is_found_and_others_are_not(
    model: LoadedModel, digits: Path, tmp_path: Path
) -> None:
    train = look(model, digits / "train", files(digits / "train"))
    names = files(digits / "test")[:10]
    for file in names:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes((digits / "test" / file).read_bytes())
    with Image.open(digits / "train" / "7/003.jpg") as image:
        image.resize((30, 30)).save(tmp_path / "7-again.jpg", quality=80)
    Image.new("RGB", (32, 32), "red").save(tmp_path / "flat.jpg")
    found = near_duplicates(train, look(model, tmp_path, [*names, "7-again.jpg", "flat.jpg"]))
    assert found["count"] == 1
    assert found["examples"][0]["test"] == "7-again.jpg"
    assert found["examples"][0]["train"] == "7/003.jpg"
    assert found["test_images"] == 12


def test_a_snapshot_can_be_read_again_and_what_is_missing_is_said(
    model: LoadedModel, digits: Path, tmp_path: Path
) -> None:
    predictions = predict(model, digits / "test", tmp_path / "predictions.jsonl")
    nothing = compare_splits(model, None, predictions, digits / "test", tmp_path)
    assert "--train-sample" in nothing["reason"]
    few = tmp_path / "few" / "3"
    few.mkdir(parents=True)
    (few / "0.jpg").write_bytes((digits / "train" / "3/000.jpg").read_bytes())
    (few / "broken.jpg").write_bytes(b"\xff\xd8\xff half a picture")
    assert compare_splits(model, few.parent, predictions, digits / "test", tmp_path)["reason"].startswith(
        "1 "
    )
    found = compare_splits(model, digits / "train", predictions, digits / "test", tmp_path)
    assert found["reason"] is None
    snapshot = json.loads((tmp_path / "snapshot.json").read_text())
    assert snapshot["images"] == found["drift"]["train_images"] == 160
    assert set(snapshot["measures"]) == {row["name"] for row in found["drift"]["measures"]}
    assert all(sum(one["shares"]) == pytest.approx(1) for one in snapshot["measures"].values())
    sample: Sample = look(model, digits / "test", [predictions.file(int(i)) for i in spread(10)])
    assert len(sample.files) == 10
