from pathlib import Path

import pytest

from evergreen import dataset
from evergreen.settings import Splits

SPLITS = Splits()


def write(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(
        tmp_path,
        *(f"{split}/{name}/1.jpg" for split in ("train", "valid", "test") for name in ("cat", "dog")),
    )


def test_counts_and_version(folder: Path) -> None:
    snapshot = dataset.scan_folder(folder, SPLITS)
    dataset.check(snapshot, "x")
    assert snapshot.counts["validation"] == {"cat": 1, "dog": 1}
    assert dataset.scan_folder(folder, SPLITS).version == snapshot.version
    write(folder, "train/cat/2.PNG")
    changed = dataset.scan_folder(folder, SPLITS)
    assert changed.version != snapshot.version
    assert changed.counts["train"] == {"cat": 2, "dog": 1}


def test_files_that_are_no_images_are_listed(folder: Path) -> None:
    write(folder, "train/cat/notes.txt", "train/.DS_Store", "train/stray.jpg", "test/dog/deep/1.jpg")
    snapshot = dataset.scan_folder(folder, SPLITS)
    assert set(snapshot.ignored) == {
        "train/cat/notes.txt", "train/.DS_Store", "train/stray.jpg", "test/dog/deep/1.jpg",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("paths", "sentence"),
    [
        ([], "dataset.source: there is no folder"),
        (["train/cat/1.jpg", "valid/cat/1.jpg"], "dataset.splits.test: there is no folder 'test'"),
        (
            ["train/cat/1.txt", "valid/cat/1.jpg", "test/cat/1.jpg"],
            "dataset.source: the train split of x holds no images",
        ),
        (
            ["train/cat/1.jpg", "valid/cat/1.jpg", "test/cat/1.jpg"],
            "dataset.source: x has one class ('cat')",
        ),
        (
            ["train/cat/1.jpg", "train/dog/1.jpg", "valid/cat/1.jpg", "test/cat/1.jpg", "test/dog/1.jpg"],
            "dataset.source: the validation split of x lacks 'dog'",
        ),
        (
            ["train/a/1.jpg", "train/b/1.jpg", "valid/a/1.jpg", "valid/b/1.jpg", "test/a/1.jpg", "test/b/1.jpg",
             "test/c/1.jpg"],
            "dataset.source: the test split of x has 'c', which train lacks",
        ),
    ],
)  # fmt: skip
def test_a_broken_folder_is_one_sentence(tmp_path: Path, paths: list[str], sentence: str) -> None:
    root = write(tmp_path / "data", *paths)
    with pytest.raises(dataset.DatasetError) as raised:
        dataset.check(dataset.scan_folder(root, SPLITS), "x")
    assert sentence in str(raised.value)


def test_an_s3_listing_gives_the_same_counts() -> None:
    objects = [
        (f"{split}/{name}/1.jpg", 3, "e") for split in ("train", "valid", "test") for name in ("a", "b")
    ]
    snapshot = dataset.scan_listing(
        [*objects, ("readme.txt", 1, "e"), ("train/", 0, "e")], SPLITS, "s3://b/p/"
    )
    dataset.check(snapshot, "s3://b/p/")
    assert snapshot.counts["test"] == {"a": 1, "b": 1}
    with pytest.raises(dataset.DatasetError, match=r"nothing lies under s3://b/p/valid/"):
        dataset.scan_listing([*objects[:2], *objects[4:]], SPLITS, "s3://b/p/")
