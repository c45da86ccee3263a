"""Which of the captured files a look takes, and how it is told."""

import itertools

from evergreen.monitoring import MOST_FILES, chosen, table


def files(count: int, megabytes: float) -> list[dict[str, int]]:
    return [{"Key": key, "Size": int(megabytes * 2**20)} for key in range(count)]


def test_few_small_files_are_all_looked_at() -> None:
    assert chosen(files(7, 0.1)) == files(7, 0.1)
    assert chosen(files(1, 5000)) == files(1, 5000)


def test_of_many_or_large_ones_some_are_evenly() -> None:
    many = [file["Key"] for file in chosen(files(10_000, 0.01))]
    assert len(many) == MOST_FILES
    assert {after - before for before, after in itertools.pairwise(many)} == {50}
    large = chosen(files(300, 10))
    assert 500 <= sum(file["Size"] for file in large) / 2**20 <= 512


def test_a_table_says_what_has_drifted() -> None:
    measures = [
        {"name": "brightness", "psi": 1.25, "chance": 0.2, "drifted": True},
        {"name": "prediction", "psi": 0.01, "chance": 0.2, "drifted": False},
    ]
    assert table({"measures": measures}) == [
        "measure             PSI  by chance",
        "brightness        1.250      0.200  drifted",
        "prediction        0.010      0.200",
    ]
    assert table({"measures": []}) == []
