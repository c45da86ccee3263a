"""Real digits as JPEG files, their features, and one trained model; each made once a session."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import features
import pytest
import train
from PIL import Image
from sklearn.datasets import load_digits

import debugger as debugger  # before any test module imports smdebug

IMAGES = {"train": 16, "validation": 5, "test": 5}
"""Of each class."""


@dataclass(frozen=True)
class TrainedModel:
    model: Path
    output: Path


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three ImageFolders, train/ validation/ test/, of scikit-learn's digits as 32 x 32 JPEG."""
    root = tmp_path_factory.mktemp("digits")
    source = load_digits()
    for digit in range(10):
        pictures = iter(source.images[source.target == digit])
        for split, count in IMAGES.items():
            folder = root / split / str(digit)
            folder.mkdir(parents=True)
            for number in range(count):
                picture = Image.fromarray((next(pictures) * 255 / 16).astype("uint8"))
                picture.resize((32, 32), Image.Resampling.BICUBIC).save(
                    folder / f"{number:03}.jpg", quality=95
                )
    return root


@pytest.fixture(scope="session")
def extracted(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What features.py writes for the digits: ResNet18, random weights, tail fc, 32 pixels."""
    output = tmp_path_factory.mktemp("features")
    assert extract(digits, output) == 0
    return output


@pytest.fixture
def copy_of_digits(digits: Path, tmp_path: Path) -> Path:
    """For tests that damage files."""
    return Path(shutil.copytree(digits, tmp_path / "digits"))


def extract(digits: Path, output: Path, *options: str) -> int:
    arguments = ["--train", str(digits / "train"), "--validation", str(digits / "validation")]
    return features.main([*arguments, "--output", str(output), "--image-size", "32", *options])


def job(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, features_or_images: Path, *arguments: str
) -> tuple[int, TrainedModel]:
    """train.py's exit status, and its folders."""
    output = tmp_path / "output"
    variables = {
        "SM_CHANNEL_TRAIN": features_or_images / "train",
        "SM_CHANNEL_VALIDATION": features_or_images / "validation",
        "SM_MODEL_DIR": tmp_path / "model",
        "SM_OUTPUT_DATA_DIR": output,
        "SM_OUTPUT_DIR": tmp_path,
        "SM_NUM_CPUS": 2,
    }
    if (features_or_images / "trunk").is_dir():
        variables["SM_CHANNEL_TRUNK"] = features_or_images / "trunk"
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    return train.main(arguments), TrainedModel(tmp_path / "model", output)


Job = Callable[..., tuple[int, TrainedModel]]


@pytest.fixture
def run_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, extracted: Path) -> Job:
    """`run_job(*arguments, data=extracted)`: train.py in this process."""

    def run(*arguments: str, data: Path = extracted, name: str = "job") -> tuple[int, TrainedModel]:
        return job(monkeypatch, tmp_path / name, data, *arguments)

    return run


@pytest.fixture(scope="session")
def trained(extracted: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    with pytest.MonkeyPatch.context() as monkeypatch:
        status, result = job(monkeypatch, tmp_path_factory.mktemp("trained"), extracted, "--epochs", "8")
    assert status == 0
    return result
