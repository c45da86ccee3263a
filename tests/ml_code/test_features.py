"""features.py as the processing job runs it."""

import gc
import json
import shutil
from pathlib import Path

import features
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from data.images import ImageDataset, list_images
from data.preprocessing import Preprocessing
from model import artifact, parts, weights
from model.extraction import Forward
from model.folding import fold_batch_norms
from model.network import assemble
from model.parts import assemble_parts, read_parts
from tests.ml_code.conftest import extract


def rows_of(folder: Path) -> dict[str, Tensor]:
    """File → inputs [K, …], of all parts."""
    found = {}
    for part in read_parts(folder):
        inputs = load_file(folder / f"{part.name}.safetensors")["inputs"]
        found |= dict(zip(part.files, inputs, strict=False))
    return found


@pytest.mark.parametrize(("tail", "tolerance"), [("fc", 1e-4), ("layer4", 1e-3)])
def test_cached_features_equal_recomputed_ones(
    digits: Path, tmp_path: Path, tail: str, tolerance: float
) -> None:
    """Up to the rounding of folded batch norms and, for activations, of float16."""
    assert extract(digits, tmp_path, "--tail", tail) == 0
    network, manifest = artifact.load_backbone(tmp_path / "trunk", seed=0)
    network.train()  # the trunk must not care
    root = digits / "validation"
    dataset = ImageDataset(root, list_images(root), Preprocessing.from_dict(manifest["preprocessing"]))
    images = torch.stack([dataset[index][0] for index in range(len(dataset))])
    with torch.inference_mode():
        expected = network.trunk(images)
    cached = rows_of(tmp_path / "validation")
    for index, (file, _) in enumerate(dataset.listing.samples):
        torch.testing.assert_close(cached[file][0].float(), expected[index], atol=tolerance, rtol=tolerance)
    assert len(cached) == len(dataset)


@pytest.mark.parametrize("arch", ["densenet121", "mobilenet_v3_large", "efficientnet_b0"])
def test_a_trunk_made_fast_computes_what_it_did(arch: str) -> None:
    network = assemble(weights.backbone(arch, "none", 0), arch, "fc", 3)
    views = torch.randint(
        256, (2, 1, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    preprocessing = Preprocessing(64, 64)
    fast = Forward(network.trunk, preprocessing)(views)
    with torch.inference_mode():
        plain = network.trunk(preprocessing.normalize(views[:, 0]))
    torch.testing.assert_close(fast[:, 0], plain, atol=1e-4, rtol=1e-4)


def test_folding_leaves_no_second_copy_of_the_weights() -> None:
    network = assemble(weights.backbone("resnet18", "none", 0), "resnet18", "fc", 3)

    def convolutions() -> int:
        return sum(type(found) is nn.Conv2d for found in gc.get_objects())

    gc.collect()
    before = convolutions()
    gc.disable()
    try:
        folded = fold_batch_norms(network.trunk)
        after = convolutions()
    finally:
        gc.enable()
    assert after - before == sum(isinstance(module, nn.Conv2d) for module in folded.modules()) == 20


def test_output_is_the_same_bit_for_bit(digits: Path, extracted: Path, tmp_path: Path) -> None:
    assert extract(digits, tmp_path) == 0
    files = [file.relative_to(extracted) for file in sorted(extracted.rglob("*")) if file.is_file()]
    assert {file.suffix for file in files} == {".json", ".safetensors"}
    for file in files:
        assert (tmp_path / file).read_bytes() == (extracted / file).read_bytes()


def test_counts_and_unreadable_files_are_written_down(copy_of_digits: Path, tmp_path: Path) -> None:
    (copy_of_digits / "train" / "4" / "002.jpg").write_bytes(b"broken")
    assert extract(copy_of_digits, tmp_path) == 0
    (part,) = read_parts(tmp_path / "train")
    assert part.classes == {str(digit): 16 - (digit == 4) for digit in range(10)}
    assert [file["file"] for file in part.unreadable] == ["4/002.jpg"]
    assert len(part.files) == 160
    assert len(assemble_parts(tmp_path / "train", 10)[0].labels) == 159


def test_instances_and_interruptions_change_nothing(
    digits: Path, extracted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two instances with half of the images each, one image twice, in parts of 30: the same split."""
    monkeypatch.setattr(parts, "PART_IMAGES", 30)
    listing = list_images(digits / "train")
    dataset = {
        "classes": list(listing.classes),
        "counts": {"train": listing.counts(), "validation": {"0": 5}},
    }
    (tmp_path / "dataset.json").write_text(json.dumps(dataset))
    for number, host in enumerate(("algo-1", "algo-2")):
        half = tmp_path / host
        for index, (file, _) in enumerate(listing.samples):
            if index % 2 == number or index == 7:
                (half / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(digits / "train" / file, half / file)
        config = tmp_path / f"{host}.json"
        config.write_text(json.dumps({"current_host": host, "hosts": ["algo-1", "algo-2"]}))
        output = ["--output", str(tmp_path / f"output-{host}"), "--image-size", "32"]
        named = ["--dataset", str(tmp_path / "dataset.json"), "--resource-config", str(config)]
        assert features.main(["--train", str(half), *output, *named]) == 0
    assert (tmp_path / "output-algo-1/trunk/trunk.json").exists()
    assert not (tmp_path / "output-algo-2/trunk").exists()
    together = tmp_path / "together"
    for host in ("algo-1", "algo-2"):
        shutil.copytree(tmp_path / f"output-{host}/train", together, dirs_exist_ok=True)
    assert len(list(together.glob("*.json"))) == 6
    split, _ = assemble_parts(together, 10)
    expected, _ = assemble_parts(extracted / "train", 10)
    assert torch.equal(split.labels, expected.labels)
    torch.testing.assert_close(split.inputs, expected.inputs, atol=1e-5, rtol=1e-5)


def test_a_damaged_part_is_refused(extracted: Path, tmp_path: Path) -> None:
    shutil.copytree(extracted / "train", tmp_path / "train")
    (file,) = (tmp_path / "train").glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="was changed or cut short"):
        assemble_parts(tmp_path / "train", 10)
    file.unlink()
    with pytest.raises(ValueError, match="cannot be read as features"):
        assemble_parts(tmp_path / "train", 10)


def test_views_are_drawn_once_and_the_first_is_what_is_served(
    digits: Path, extracted: Path, tmp_path: Path
) -> None:
    assert extract(digits, tmp_path / "three", "--views", "3") == 0
    three, one = rows_of(tmp_path / "three" / "train"), rows_of(extracted / "train")
    for file, inputs in three.items():
        torch.testing.assert_close(inputs[0], one[file][0], atol=1e-4, rtol=1e-4)
        assert not torch.allclose(inputs[1], inputs[2])
    assert rows_of(tmp_path / "three" / "validation").popitem()[1].shape == (1, 512)


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
