"""features.py as the processing job runs it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data.images import ImageDataset, list_images
from data.preprocessing import Preprocessing
from model import artifact
from tests.ml_code.conftest import extract


def test_cached_features_equal_recomputed_ones(digits: Path, extracted: Path) -> None:
    network, manifest = artifact.load_backbone(extracted / "trunk", seed=0)
    network.train()  # the trunk must not care
    cached = load_file(extracted / "validation" / "features.safetensors")
    root = digits / "validation"
    dataset = ImageDataset(root, list_images(root), Preprocessing.from_dict(manifest["preprocessing"]))
    images = torch.stack([dataset[index][0] for index in range(len(dataset))])
    with torch.inference_mode():
        torch.testing.assert_close(network.trunk(images), cached["features"], atol=1e-4, rtol=1e-4)
    assert cached["labels"].tolist() == [label for _, label in dataset.listing.samples]
    assert cached["features"].shape == (50, 512)


def test_output_is_the_same_bit_for_bit(digits: Path, extracted: Path, tmp_path: Path) -> None:
    assert extract(digits, tmp_path) == 0
    for file in ("trunk/trunk.safetensors", "train/features.safetensors", "validation/features.safetensors"):
        assert (tmp_path / file).read_bytes() == (extracted / file).read_bytes()


def test_counts_and_unreadable_files_are_reported(copy_of_digits: Path, tmp_path: Path) -> None:
    (copy_of_digits / "train" / "4" / "002.jpg").write_bytes(b"broken")
    assert extract(copy_of_digits, tmp_path / "out") == 0
    report = json.loads((tmp_path / "out" / "features.json").read_text())
    assert report["splits"]["train"]["classes"]["4"] == 15
    assert report["splits"]["train"]["count"] == 159
    assert [(file["split"], file["file"]) for file in report["unreadable"]] == [("train", "4/002.jpg")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tail", "all"], "tail 'all' leaves nothing frozen"),
        (["--arch", "alexnet"], "arch must be one of"),
        (["--weights", "nowhere.pth"], "weights must be none"),
        (["--arch", "mobilenet_v3_large", "--tail", "layer4"], "needs a resnet"),
    ],
)
def test_mistakes_are_one_sentence(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert extract(digits, tmp_path, *options) == 1
    assert message in capsys.readouterr().err


def test_too_many_unreadable_images_fail_the_job(
    copy_of_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        (copy_of_digits / "train" / "4" / f"00{number}.jpg").write_bytes(b"broken")
    assert extract(copy_of_digits, tmp_path) == 1
    error = capsys.readouterr().err
    assert "4 of 160 images (2.5%) are unreadable, more than the 1.0% allowed" in error
    assert len(error.splitlines()) == 1
