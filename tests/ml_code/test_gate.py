"""The gate with real models: half the labels shuffled is held, an equal one gets what is set, a better one goes out."""

import random
import shutil
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pytest

from report import models
from report.verdict import Equal, Gate, decide
from tests.ml_code.conftest import TrainedModel, extract, job

GATE = Gate(minimum_accuracy=0.2, champion_margin=0.02, confidence=0.95)


@dataclass(frozen=True)
class Candidate:
    archive: Path
    tested: models.Tested


def candidate(folder: Path, model: Path, test: Path) -> Candidate:
    """The model as a training job's archive, and its answers on the test split."""
    archive = folder / "model.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add(model, ".")
    loaded = models.load(archive, folder / "unpacked")
    return Candidate(archive, models.run_model(loaded, test, folder / "predictions.jsonl", GATE.confidence))


def shuffle_half(train: Path, seed: int = 0) -> None:
    """Half of the images, of all classes, change places."""
    chance = random.Random(seed)
    files = sorted(train.glob("*/*.jpg"))
    chosen = chance.sample(files, len(files) // 2)
    places = chance.sample(chosen, len(chosen))
    for number, file in enumerate(chosen):
        file.rename(train / f"{number}.moved")
    for number, place in enumerate(places):
        (train / f"{number}.moved").rename(place)


@pytest.fixture(scope="module")
def good(trained: TrainedModel, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Candidate:
    return candidate(tmp_path_factory.mktemp("good"), trained.model, digits / "test")


@pytest.fixture(scope="module")
def worse(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Candidate:
    folder = tmp_path_factory.mktemp("worse")
    shuffled = Path(shutil.copytree(digits, folder / "digits"))
    shuffle_half(shuffled / "train")
    assert extract(shuffled, folder / "features") == 0
    with pytest.MonkeyPatch.context() as monkeypatch:
        status, trained = job(monkeypatch, folder / "job", folder / "features", "--epochs", "8")
    assert status == 0
    return candidate(folder, trained.model, digits / "test")


def compared(challenger: Candidate, champion: Candidate, digits: Path, folder: Path) -> dict[str, Any]:
    """report.json's `champion`."""
    return models.against_champion(
        challenger.tested,
        champion.archive,
        digits / "test",
        folder / "champion",
        folder / "its.jsonl",
        GATE.confidence,
    )


def test_one_trained_on_shuffled_labels_is_held(
    worse: Candidate, good: Candidate, digits: Path, tmp_path: Path
) -> None:
    found = decide(worse.tested.metrics, compared(worse, good, digits, tmp_path), [], GATE)
    assert found["decision"] == "hold"
    (reason,) = found["reasons"]
    assert "a loss of 2 percentage points or more cannot be ruled out" in reason


def test_a_better_one_is_promoted_without_a_question(
    worse: Candidate, good: Candidate, digits: Path, tmp_path: Path
) -> None:
    asking = replace(GATE, equal="hold", approve="when_unsure")
    found = decide(good.tested.metrics, compared(good, worse, digits, tmp_path), [], asking)
    assert found["decision"] == "promote"
    low = next(check for check in found["checks"] if check["name"] == "not worse than the champion")["value"]
    assert low > 0


def test_an_equal_one_gets_what_is_set(good: Candidate, digits: Path, tmp_path: Path) -> None:
    rival = compared(good, good, digits, tmp_path)
    for wanted in get_args(Equal):
        assert decide(good.tested.metrics, rival, [], replace(GATE, equal=wanted))["decision"] == wanted
