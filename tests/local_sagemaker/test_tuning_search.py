"""The search process: what it proposes, and that it can be made anew."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from local_sagemaker.tuning import client as search_client
from local_sagemaker.tuning.client import SearchEndedError, Searches, Session
from local_sagemaker.tuning.ranges import Range
from tests.local_sagemaker.cloud_client import REPOSITORY

Call = Callable[..., Any]

LR = Range("lr", "Continuous", 1e-4, 0.1, "Logarithmic")
MOMENTUM = Range("momentum", "Continuous", 0.5, 0.999, "ReverseLogarithmic")
UNITS = Range("units", "Integer", 1, 64)
OPTIMIZER = Range("optimizer", "Categorical", values=("sgd", "adam"))
ALL = [LR, MOMENTUM, UNITS, OPTIMIZER]


@pytest.fixture(scope="module")
def call() -> Iterator[Call]:
    """Ask a search process: `call(search, method, …)`."""
    with subprocess.Popen(
        [sys.executable, "-m", "local_sagemaker.tuning.search"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    ) as process:
        assert process.stdin
        assert process.stdout

        def ask(search: str, method: str, *arguments: Any) -> Any:
            print(json.dumps([search, method, arguments]), file=process.stdin, flush=True)
            reply = json.loads(process.stdout.readline())
            assert "error" not in reply, reply
            return reply["answer"]

        yield ask
        process.stdin.close()
        assert process.wait(10) == 0


def start(
    call: Call, name: str, strategy: str, ranges: list[Range], resources: list[int] | None = None
) -> None:
    call(name, "open", strategy, 7, [asdict(item) for item in ranges], False, 1, resources)


def loss(values: dict[str, str]) -> float:
    return abs(float(values.get("lr", 0)) - 0.01) + abs(int(values.get("units", 8)) - 8)


def walk(call: Call, name: str, count: int) -> list[tuple[int, dict[str, str]]]:
    """Trials one after the other."""
    trials = []
    for _ in range(count):
        number, values = call(name, "ask")
        call(name, "tell", number, loss(values), False)
        trials.append((number, values))
    return trials


@pytest.mark.parametrize("strategy", ["Bayesian", "Random", "Hyperband"])
def test_a_search_made_anew_goes_on_as_if_nothing_had_happened(call: Call, strategy: str) -> None:
    resources = [1, 9] if strategy == "Hyperband" else None
    for name in ("whole", "again"):
        start(call, name, strategy, [LR, UNITS, OPTIMIZER], resources)
    whole = walk(call, "whole", 10)
    for number, values in whole[:6]:
        call("again", "restore", number, values)
    # Told in another order, which must not matter either.
    for number, values in reversed(whole[:6]):
        call("again", "tell", number, loss(values), False)
    assert walk(call, "again", 4) == whole[6:]


def test_proposals_lie_in_their_ranges_and_look_like_sagemakers(call: Call) -> None:
    start(call, "ranges", "Bayesian", ALL)
    for _, values in walk(call, "ranges", 12):
        assert values.keys() == {"lr", "momentum", "units", "optimizer"}
        assert all(item.contains(values[item.name]) for item in ALL)
        assert values["units"].isdigit()
        assert repr(float(values["lr"])) == values["lr"]


def test_a_reversed_logarithm_looks_close_to_its_end(call: Call) -> None:
    start(call, "reverse", "Random", [Range("x", "Continuous", 0.0, 0.9999, "ReverseLogarithmic")])
    tried = [float(values["x"]) for _, values in walk(call, "reverse", 40)]
    # A quarter of the scale's length lies above 0.999; a linear one would have 0.1 % there.
    assert 4 <= sum(value > 0.999 for value in tried) <= 20
    assert 4 <= sum(value < 0.9 for value in tried) <= 20


@pytest.mark.parametrize("strategy", ["Bayesian", "Random"])
def test_nothing_is_tried_twice_while_there_is_something_else(call: Call, strategy: str) -> None:
    start(call, f"few-{strategy}", strategy, [OPTIMIZER, Range("units", "Integer", 1, 3)])
    trials = walk(call, f"few-{strategy}", 6)
    assert len({tuple(values.items()) for _, values in trials}) == 6
    # And then again.
    assert len(walk(call, f"few-{strategy}", 1)) == 1


def test_a_grid_is_walked_in_order(call: Call) -> None:
    start(call, "grid", "Grid", [OPTIMIZER, Range("x", "Categorical", values=("1", "2"))])
    found = [tuple(values.values()) for _, values in walk(call, "grid", 2)]
    start(call, "grid-again", "Grid", [OPTIMIZER, Range("x", "Categorical", values=("1", "2"))])
    call("grid-again", "restore", 0, {"optimizer": "sgd", "x": "1"})
    call("grid-again", "restore", 1, {"optimizer": "sgd", "x": "2"})
    found += [tuple(values.values()) for _, values in walk(call, "grid-again", 2)]
    assert found == [("sgd", "1"), ("sgd", "2"), ("adam", "1"), ("adam", "2")]


def test_what_others_found_is_used(call: Call) -> None:
    """With enough known trials the first own one is no longer drawn at random."""
    known = [
        ({"lr": "0.01", "units": str(units), "optimizer": "sgd"}, abs(units - 8)) for units in range(1, 60)
    ]
    start(call, "cold", "Bayesian", [LR, UNITS, OPTIMIZER])
    start(call, "warm", "Bayesian", [LR, UNITS, OPTIMIZER])
    # Also from a trial without all hyperparameters.
    call("warm", "learn", [*known, ({"units": "9"}, 1.0)])
    cold, warm = walk(call, "cold", 3), walk(call, "warm", 3)
    assert warm[0][0] == 60
    assert [values for _, values in warm] != [values for _, values in cold]
    assert sum(abs(int(values["units"]) - 8) for _, values in warm) / 3 < 12


def test_hyperband_prunes_the_worst(call: Call) -> None:
    start(call, "hyperband", "Hyperband", [LR], [1, 27])
    pruned = []
    for worse in range(30):
        number, _ = call("hyperband", "ask")
        for epoch in range(1, 28):
            if call("hyperband", "report", number, epoch, float(worse)):
                pruned.append((worse, epoch))
                break
        is_pruned = worse in dict(pruned)
        call("hyperband", "tell", number, None if is_pruned else worse, is_pruned)
    # Each is worse than all before it; brackets without a rung so low let it run longer.
    assert 0 not in dict(pruned)
    assert len(pruned) > 15
    assert {epoch for _, epoch in pruned} <= {1, 3, 9, 27}
    assert len({epoch for _, epoch in pruned}) > 1


def test_hyperband_made_anew_prunes_the_same(call: Call) -> None:
    def trial(name: str, factor: int) -> tuple[int, dict[str, str], int]:
        """Its loss grows or shrinks with its number."""
        number, values = call(name, "ask")
        epochs = report(name, number, factor)
        return number, values, epochs

    def report(name: str, number: int, factor: int, known: int = 0) -> int:
        """After how many of nine epochs it was pruned, or 9; told so when it is `known`."""
        for epoch in range(1, 10):
            if (call(name, "report", number, epoch, factor / epoch) and not known) or epoch == known:
                break
        call(name, "tell", number, None if epoch < 9 else factor / 9, epoch < 9)
        return epoch

    for name in ("first", "second"):
        start(call, name, "Hyperband", [LR, UNITS], [1, 9])
    factors = [5, 7, 3, 9, 8, 2, 6, 1, 7, 9, 4, 8]
    whole = [trial("first", factor) for factor in factors]
    for (number, values, epochs), factor in zip(whole[:8], factors[:8], strict=True):
        call("second", "restore", number, values)
        report("second", number, factor, known=epochs)
    assert [trial("second", factor) for factor in factors[8:]] == whole[8:]
    assert len({epochs for _, _, epochs in whole}) > 1


def test_the_process_ends_when_it_has_been_idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_client, "IDLE_S", 0.1)
    (tmp_path / "log").mkdir()
    cloud: Any = SimpleNamespace(state=tmp_path, settings=SimpleNamespace(mark=f"{tmp_path}#test"))
    searches = Searches(cloud)

    def ask(session: Session) -> dict[str, str]:
        session.open("Random", 1, [LR], maximize=True, parallel=1, resources=None)
        return session.ask(0)[1]

    def wait_until_gone() -> None:
        deadline = time.monotonic() + 10
        while searches._process:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    with searches.session("first") as first, searches.session("second") as second:
        assert ask(first) == ask(second)
        assert first._process is second._process
    wait_until_gone()
    with pytest.raises(SearchEndedError):
        first.ask(0)
    with searches.session("third") as third:
        assert ask(third)
    wait_until_gone()
