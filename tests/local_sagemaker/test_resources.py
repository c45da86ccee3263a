"""Lists and deletion, on documents in a store."""

import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from local_sagemaker.api.protocol import ApiError
from local_sagemaker.api.resources import Resources, paged
from local_sagemaker.store import Store

REGION = "us-east-1"


def resources(folder: Path, kind: str, statuses: list[str]) -> Resources:
    """One document a second, from second 1 on."""
    made = Resources(Store(folder / "documents.sqlite"), kind)
    for number, status in enumerate(statuses, 1):
        name = f"{kind}-{number}"
        made.create(name, REGION, {made.name_key: name, made.status_key: status})
        with made.store.change(kind, name) as document:
            document["CreationTime"] = float(number)
    return made


def listed(made: Resources, **request: Any) -> list[int]:
    answer = made.page(request, "Items", made.store.all(made.kind))
    return [int(item[made.name_key].rpartition("-")[2]) for item in answer["Items"]]


def test_a_list_has_ten_unless_it_is_asked_for_more(tmp_path: Path) -> None:
    made = resources(tmp_path, "ProcessingJob", ["Completed"] * 12)
    assert listed(made) == list(range(1, 11))
    assert listed(made, MaxResults=100, SortOrder="Descending") == list(range(12, 0, -1))
    first = made.page({}, "Items", made.store.all(made.kind))
    assert listed(made, NextToken=first["NextToken"]) == [11, 12]


def test_training_jobs_are_counted_before_their_status_is_asked(tmp_path: Path) -> None:
    made = resources(tmp_path, "TrainingJob", ["Failed", "Completed", "Completed"])
    assert listed(made, MaxResults=2, StatusEquals="Completed") == [2]
    (tmp_path / "other").mkdir()
    others = resources(tmp_path / "other", "ProcessingJob", ["Failed", "Completed", "Completed"])
    assert listed(others, MaxResults=2, StatusEquals="Completed") == [2, 3]


def test_some_lists_begin_at_the_moment_others_after_it(tmp_path: Path) -> None:
    models = resources(tmp_path, "Model", ["", "", ""])
    assert listed(models, CreationTimeAfter=2.0) == [3, 2]
    (tmp_path / "other").mkdir()
    jobs = resources(tmp_path / "other", "TrainingJob", ["Completed"] * 3)
    assert listed(jobs, CreationTimeAfter=2.0) == [3]
    assert listed(jobs, CreationTimeBefore=2.0) == [1]


@pytest.mark.parametrize(
    "token",
    ["x", "bm90aGluZw==", "WyJJdGVtcyIsIC0xXQ==", "WyJPdGhlcnMiLCAxXQ==", "W1tbWw==", "eyJzdGFydCI6IDF9"],
)
def test_a_token_of_something_else_is_refused(token: str) -> None:
    with pytest.raises(ApiError, match="NextToken") as refused:
        paged({"NextToken": token}, "Items", [])
    assert refused.value.code == "ValidationException"


@pytest.mark.parametrize(
    ("kind", "missing", "in_progress"),
    [
        ("TrainingJob", "ResourceNotFound", "ResourceInUse"),
        ("ProcessingJob", "ResourceNotFound", "ResourceInUse"),
        ("HyperParameterTuningJob", "ValidationException", "ValidationException"),
    ],
)
def test_only_what_has_ended_is_deleted(tmp_path: Path, kind: str, missing: str, in_progress: str) -> None:
    made = resources(tmp_path, kind, ["Completed", "InProgress", "Stopping"])
    for number, code in ((1, ""), (1, missing), (2, in_progress), (3, in_progress)):
        request = {made.name_key: f"{kind}-{number}"}
        if not code:
            assert made.delete_ended(request, REGION) == {}
            continue
        with pytest.raises(ApiError) as refused:
            made.delete_ended(request, REGION)
        assert refused.value.code == code
    assert listed(made, MaxResults=10, SortBy="Name") == [2, 3]


def test_names_that_differ_in_case_are_one(tmp_path: Path) -> None:
    """ARNs are in lower case."""
    made = resources(tmp_path, "Model", [])
    made.create("Net", REGION, {"ModelName": "Net"})
    with pytest.raises(ApiError, match="already existing model"):
        made.create("net", REGION, {"ModelName": "net"})


def test_a_store_of_another_version_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "documents.sqlite"
    Store(file).close()
    with sqlite3.connect(file) as database:
        database.execute("pragma user_version = 99")
    database.close()
    with pytest.raises(RuntimeError, match=re.escape("give --state another directory")):
        Store(file)
