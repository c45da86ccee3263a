import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from evergreen import dataset
from evergreen.listing import Object
from evergreen.manifest import Manifest

SPLITS = {"train": "train", "validation": "valid", "test": "test"}
JPEG = b"\xff\xd8\xff\xe0"
FOLDERS = [f"{split}/{name}" for split in ("train", "valid", "test") for name in ("cat", "dog")]


def write(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(JPEG + path.encode())
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "data", *(f"{folder}/1.jpg" for folder in FOLDERS))


@pytest.fixture
def manifest() -> Iterator[Manifest]:
    with Manifest(None) as made:
        yield made


def look(root: Path, manifest: Manifest) -> dict[str, str]:
    """Path → why it was set apart."""
    dataset.look_at_folder(manifest, root, SPLITS)
    return {item["file"]: item["reason"] for item in manifest.ignored()["examples"]}


def version(root: Path) -> str:
    with Manifest(None) as manifest:
        dataset.look_at_folder(manifest, root, SPLITS)
        return manifest.version()


def test_counts_and_version(folder: Path, manifest: Manifest) -> None:
    assert look(folder, manifest) == {}
    assert manifest.counts()["validation"] == {"cat": 1, "dog": 1}
    assert manifest.version() == version(folder)
    write(folder, "train/cat/2.PNG")
    assert version(folder) != manifest.version()


def test_the_version_is_of_paths_and_contents_alone(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy, copy_function=shutil.copyfile)
    assert version(copy) == version(folder)
    renamed = shutil.move(copy / "train/cat/1.jpg", copy / "train/cat/2.jpg")
    assert version(copy) != version(folder)
    shutil.move(renamed, copy / "train/cat/1.jpg")
    assert version(copy) == version(folder)


def test_what_is_no_image_of_a_class_is_set_apart(folder: Path, manifest: Manifest) -> None:
    write(
        folder, "train/cat/notes.txt", "train/.DS_Store", "train/stray.jpg", "test/dog/deep/1.jpg", "valid/.git/1.jpg",
        "train/cat/.2.jpg.Xa1", "train/cat/3.jpg.part", "train/cat/4.jpg~",
    )  # fmt: skip
    (folder / "train/cat/empty.jpg").touch()
    (folder / "train/cat/gone.jpg").symlink_to("nowhere.jpg")
    (folder / "train/cat/loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(folder / "train/cat/pipe.jpg")
    (Path(os.fsdecode(os.fsencode(folder / "train/cat") + b"/\xff.jpg"))).write_bytes(JPEG)
    assert look(folder, manifest) == {
        "train/cat/notes.txt": "is no image by its name",
        "train/.DS_Store": "is hidden",
        "train/stray.jpg": "lies in no class folder",
        "test/dog/deep/": "is a folder in a class folder",
        "validation/.git/": "is hidden",
        "train/cat/.2.jpg.Xa1": "is hidden",
        "train/cat/3.jpg.part": "has a temporary name",
        "train/cat/4.jpg~": "has a temporary name",
        "train/cat/empty.jpg": "is empty",
        "train/cat/gone.jpg": "is a link to nothing",
        "train/cat/loop.jpg": "cannot be read: Too many levels of symbolic links",
        "train/cat/pipe.jpg": "is no regular file",
        "train/cat/\\xff.jpg": "has a name that is not UTF-8",
    }
    assert manifest.counts()["train"] == {"cat": 1, "dog": 1}


def test_odd_names_are_names(folder: Path, manifest: Manifest) -> None:
    names = [
        "a..b.jpg",
        " two  spaces .jpg",
        "Ünïcödé 猫.JPEG",
        "100%+1&=?#.jpg",
        "line\nbreak.jpg",
        "back\\slash.jpg",
    ]
    write(folder, *(f"train/cat/{name}" for name in names))
    assert look(folder, manifest) == {}
    assert set(manifest.files("train")) == {f"train/cat/{name}" for name in ["1.jpg", *names]} | {
        "train/dog/1.jpg"
    }


def test_links_to_files_and_class_folders_are_followed(
    folder: Path, tmp_path: Path, manifest: Manifest
) -> None:
    outside = write(tmp_path / "outside", "1.jpg", "2.jpg")
    (folder / "train/dog/linked.jpg").symlink_to(outside / "1.jpg")
    for split in ("train", "valid", "test"):
        (folder / split / "bird").symlink_to(outside, target_is_directory=True)
    assert look(folder, manifest) == {}
    assert manifest.counts()["train"] == {"bird": 2, "cat": 1, "dog": 2}


def test_what_does_not_begin_like_an_image_is_listed_and_kept(folder: Path, manifest: Manifest) -> None:
    (folder / "train/cat/page.jpg").write_bytes(b"<html>not found</html>")
    (folder / "train/cat/web.webp").write_bytes(b"RIFF\x00\x00\x00\x00WEBPVP8 ")
    look(folder, manifest)
    assert manifest.doubtful() == {
        "count": 1,
        "examples": [{"file": "train/cat/page.jpg", "reason": "does not begin like an image"}],
    }
    assert manifest.counts()["train"]["cat"] == 3


def test_contents_in_more_than_one_split_are_reported(folder: Path, manifest: Manifest) -> None:
    for copy in ("test/dog/again.jpg", "valid/dog/again.jpg", "train/cat/again.jpg"):
        shutil.copy(folder / "train/cat/1.jpg", folder / copy)
    look(folder, manifest)
    assert manifest.duplicates() == {
        "count": 1,
        "examples": [["test/dog/again.jpg", "validation/dog/again.jpg"]],
    }


def test_lists_are_short_whatever_the_dataset(folder: Path, manifest: Manifest) -> None:
    write(folder, *(f"train/cat/{number:03}.txt" for number in range(150)))
    look(folder, manifest)
    assert manifest.ignored()["count"] == 150
    assert [item["file"] for item in manifest.ignored()["examples"]] == [
        f"train/cat/{number:03}.txt" for number in range(100)
    ]


def test_only_files_that_were_touched_are_read_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = tmp_path / "facts.sqlite"
    monkeypatch.setattr("evergreen.manifest.SETTLED_NS", -1)
    read: list[str] = []
    original = dataset._read
    monkeypatch.setattr(dataset, "_read", lambda file: read.append(file.path) or original(file))

    def paths_read() -> list[str]:
        read.clear()
        with Manifest(facts) as manifest:
            look(folder, manifest)
            assert manifest.version() == version_now
        return sorted(read)

    version_now = version(folder)
    assert len(paths_read()) == 6
    assert paths_read() == []
    # The same size and time: the change of the inode tells.
    modified = (folder / "train/cat/1.jpg").stat()
    (folder / "train/cat/1.jpg").write_bytes(JPEG + b"train/cat/X.jpg")
    os.utime(folder / "train/cat/1.jpg", ns=(modified.st_atime_ns, modified.st_mtime_ns))
    version_now = version(folder)
    assert paths_read() == ["train/cat/1.jpg"]
    facts.write_bytes(b"no database" * 1000)
    assert len(paths_read()) == 6


def test_a_file_that_was_just_written_is_read_again(folder: Path, tmp_path: Path) -> None:
    facts = tmp_path / "facts.sqlite"
    with Manifest(facts) as manifest:
        look(folder, manifest)
    with Manifest(facts) as manifest:
        dataset.look_at_folder(manifest, folder, SPLITS)
        assert not manifest.db.execute("SELECT count(*) FROM files").fetchone()[0]


def test_facts_that_cannot_be_kept_are_done_without(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with Manifest(tmp_path / "file/facts.sqlite") as manifest:
        assert look(folder, manifest) == {}


def test_a_file_that_grows_is_waited_for(
    folder: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "PAUSE_S", 0.1)
    monkeypatch.setattr(dataset, "CHUNK", 1)
    growing = folder / "train/cat/growing.jpg"
    growing.write_bytes(JPEG * 5000)
    began, ended = threading.Event(), threading.Event()

    def write_on() -> None:
        with growing.open("ab") as file:
            while not ended.is_set():
                file.write(b"more")
                file.flush()
                began.set()
                time.sleep(0.001)

    thread = threading.Thread(target=write_on)
    thread.start()
    began.wait()
    try:
        with pytest.raises(dataset.SyncError, match=r"train/cat/growing\.jpg changes while it is read"):
            look(folder, manifest)
    finally:
        ended.set()
        thread.join()
    with Manifest(None) as again:
        look(folder, again)
        assert again.version() == version(folder)


@pytest.mark.parametrize(
    ("paths", "sentence"),
    [
        ([], "dataset.source: there is no folder"),
        (["train/cat/1.jpg", "valid/cat/1.jpg"], "dataset.splits.test: there is no folder 'test'"),
        (
            ["train/cat/1.txt", "valid/cat/1.jpg", "test/cat/1.jpg"],
            "holds no images in class folders (files ending in .bmp,",
        ),
        (
            ["train/cat/1.jpg", "valid/cat/1.jpg", "test/cat/1.jpg"],
            "has one class ('cat'); a classifier needs two or more",
        ),
        (
            ["train/cat/1.jpg", "train/dog/1.jpg", "valid/cat/1.jpg", "test/cat/1.jpg", "test/dog/1.jpg"],
            "lacks 'dog'",
        ),
        (
            ["train/a/1.jpg", "train/b/1.jpg", "valid/a/1.jpg", "valid/b/1.jpg", "test/a/1.jpg", "test/b/1.jpg",
             "test/c/1.jpg"],
            "has 'c', which train lacks",
        ),
    ],
)  # fmt: skip
def test_a_broken_folder_is_one_sentence(
    tmp_path: Path, manifest: Manifest, paths: list[str], sentence: str
) -> None:
    root = write(tmp_path / "data", *paths)
    with pytest.raises(dataset.DatasetError) as raised:
        look(root, manifest)
    assert sentence in str(raised.value)


def test_a_class_that_is_empty_is_one_sentence(folder: Path, manifest: Manifest) -> None:
    (folder / "test/cat/1.jpg").write_bytes(b"")
    with pytest.raises(dataset.DatasetError, match=r"the test split of .* lacks 'cat'"):
        look(folder, manifest)


def test_an_s3_listing_gives_the_same_counts(manifest: Manifest) -> None:
    objects = [Object(f"{folder}/1.jpg", 3, "e") for folder in FOLDERS]
    more = [
        Object("readme.txt", 1, "e"), Object("train/", 0, "e"), Object("train/cat/", 0, "e"),
        Object("train/cat/0.jpg", 0, "e"), Object("train/cat/../../1.jpg", 3, "e"), Object("train//1.jpg", 3, "e"),
        Object("train/./1.jpg", 3, "e"), Object("train/cat/a..b.jpg", 3, "e"), Object("train/cat/a/1.jpg", 3, "e"),
    ]  # fmt: skip
    dataset.look_at_listing(manifest, [objects, more], SPLITS, "s3://b/p/")
    assert manifest.counts() == {
        "train": {"cat": 2, "dog": 1},
        "validation": {"cat": 1, "dog": 1},
        "test": {"cat": 1, "dog": 1},
    }
    leads_out = "has a path that would lead out of the folder that a job reads it into"
    assert {item["file"]: item["reason"] for item in manifest.ignored()["examples"]} == {
        "train/cat/0.jpg": "is empty",
        "train/cat/../../1.jpg": leads_out,
        "train//1.jpg": leads_out,
        "train/./1.jpg": leads_out,
        "train/cat/a/1.jpg": "lies deeper than its class folder",
    }
    with pytest.raises(dataset.DatasetError, match=r"nothing lies under s3://b/p/valid/"):
        dataset.look_at_listing(Manifest(None), [[*objects[:2], *objects[4:]]], SPLITS, "s3://b/p/")
