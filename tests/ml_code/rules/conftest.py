"""Trainings that several rules look at, each made once."""

import pytest

from tests.ml_code.rules.recording import EVERYTHING, Recorded, run


@pytest.fixture(scope="session")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return run(tmp_path_factory.mktemp("healthy") / "debug-output", epochs=14, lr=0.1)


@pytest.fixture(scope="session")
def overfitted(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    folder = tmp_path_factory.mktemp("overfit") / "debug-output"
    return run(folder, epochs=30, lr=0.5, images=24, shuffled=True, collections={"losses": None})


@pytest.fixture(scope="session")
def constant(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return run(tmp_path_factory.mktemp("constant") / "debug-output", epochs=14, lr=0.0)


@pytest.fixture(scope="session")
def exploding(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return run(tmp_path_factory.mktemp("exploding") / "debug-output", epochs=12, lr=1e30)


@pytest.fixture(scope="session")
def reduced(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Only reductions were saved of every tensor."""
    folder = tmp_path_factory.mktemp("reduced") / "debug-output"
    collections = {name: pattern for name, pattern in EVERYTHING.items() if name != "labels_and_predictions"}
    # Without the labels: smdebug cannot reduce whole numbers.
    return run(folder, epochs=6, lr=0.1, collections=collections, reductions="abs_mean,mean,variance")
