"""The int8 step of an assessment: what is tested is what is to be served."""

import tarfile
from pathlib import Path

import pytest

from data.images import list_images
from report.int8 import ARCHIVE, NOT_ASKED, quantised
from report.loaded import Loaded, load
from report.predictions import predict
from tests.ml_code.conftest import TrainedModel


@pytest.fixture
def packed(trained: TrainedModel, tmp_path: Path) -> tuple[Loaded, Path]:
    """The trained digits out of their archive, and where it has been unpacked."""
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz", compresslevel=1) as tar:
        tar.add(trained.model, ".")
    return load(tmp_path / "model.tar.gz", tmp_path / "unpacked"), tmp_path / "unpacked"


def test_a_network_that_is_good_enough_is_tested_and_packed(
    packed: tuple[Loaded, Path], digits: Path, tmp_path: Path
) -> None:
    loaded, unpacked = packed
    (output := tmp_path / "output").mkdir()
    served, result = quantised(loaded, unpacked, digits / "train", 0.1, output)
    assert result["accepted"], result["reason"]
    assert result["archive"] == ARCHIVE
    assert served.archive_bytes == (output / ARCHIVE).stat().st_size > loaded.archive_bytes
    assert served.model.manifest == loaded.model.manifest
    in_float, in_int8 = (
        predict(model, digits / "test", tmp_path / f"{name}.jsonl")
        for name, model in (("float", loaded.served), ("int8", served.served))
    )
    assert loaded.served is loaded.model
    assert in_int8.answers.correct.mean() >= in_float.answers.correct.mean() - 0.1
    difference = abs(in_int8.answers.likelihood - in_float.answers.likelihood)
    assert 1e-5 < difference.mean() < 0.05, "it is another network, and nearly the same"
    again = load(output / ARCHIVE, tmp_path / "again")
    assert again.served is not again.model, "the archive is the one that was tested"


def test_what_was_not_quantised_says_why(packed: tuple[Loaded, Path], digits: Path, tmp_path: Path) -> None:
    loaded, unpacked = packed
    assert quantised(loaded, unpacked, digits / "validation", None, tmp_path)[1]["reason"] == NOT_ASKED
    assert "--validation" in quantised(loaded, unpacked, None, 0.1, tmp_path)[1]["reason"]
    same, few = quantised(loaded, unpacked, digits / "validation", 0.1, tmp_path)
    assert len(list_images(digits / "validation").samples) == 50
    assert few["reason"].startswith("not evaluated: ")
    assert (few["accepted"], few["archive"], same) == (False, None, loaded)
