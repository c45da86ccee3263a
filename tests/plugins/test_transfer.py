"""The sync itself, against the S3 of a real local cloud."""

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from urllib3 import HTTPResponse

from evergreen import dataset, listing, transfer
from evergreen.dataset import DatasetError, SyncError
from evergreen.manifest import Last, Manifest
from evergreen.transfer import Sync
from scripts.local_stack import BUCKET, REGION, REPOSITORY, Cloud

SPLITS = {"train": "train", "validation": "valid", "test": "test"}
JPEG = b"\xff\xd8\xff\xe0"
NAMES = ["a..b.jpg", " two  spaces.jpg", "é 猫.JPEG", "100%+1&=?#.jpg", "line\nbreak.jpg", "1.jpg"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in SPLITS.values():
        for name in ("ein Hund", "katze"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for image in NAMES:
                (tmp_path / "data" / split / name / image).write_bytes(
                    JPEG + f"{split} {name} {image}".encode()
                )
    return tmp_path / "data"


@pytest.fixture
def client(cloud: Cloud) -> Any:
    return boto3.client(
        "s3", endpoint_url=cloud.aws, region_name=REGION, aws_access_key_id="test", aws_secret_access_key="test",
        config=transfer.CLIENT_CONFIG,
    )  # fmt: skip


def stored(client: Any, prefix: str) -> dict[str, bytes]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    return {
        key.removeprefix(prefix): client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys
    }


def expected(folder: Path) -> dict[str, bytes]:
    by_folder = {folder: split for split, folder in SPLITS.items()}
    files = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {f"{by_folder[path.parts[0]]}/{Path(*path.parts[1:])}": content for path, content in files.items()}


def sync(
    client: Any, source: Path | str, root: str, facts: Path | None = None, *, delete: bool = False
) -> dict[str, Any]:
    with Sync(client, source, SPLITS, BUCKET, root, facts) as syncing:
        syncing.look()
        sent = syncing.send()
        published = syncing.publish(anew=sent > 0)
        deleted = syncing.delete_removed() if delete else 0
        return {"version": syncing.found["version"], "sent": sent, "deleted": deleted, **published}


def test_every_object_is_the_file(client: Any, folder: Path) -> None:
    first = sync(client, folder, "every")
    assert first["sent"] == 6 * len(NAMES)
    assert stored(client, "every/dataset/") == expected(folder)
    assert sync(client, folder, "every") == {**first, "sent": 0}


def test_a_version_is_published(client: Any, folder: Path) -> None:
    result = sync(client, folder, "published")
    documents = stored(client, "published/dataset-versions/")
    base = result["version"]
    assert result["dataset_uri"] == f"s3://{BUCKET}/published/dataset-versions/{base}/dataset.json"
    assert json.loads(documents[f"{base}/dataset.json"]) == {
        "version": base,
        "classes": ["ein Hund", "katze"],
        "counts": {
            split: {"ein Hund": len(NAMES), "katze": len(NAMES)} for split in ("test", "train", "validation")
        },
    }
    prefix, *keys = json.loads(documents[f"{base}/train.manifest"])
    assert prefix == {"prefix": f"s3://{BUCKET}/published/dataset/train/"}
    assert sorted(keys) == sorted(f"{name}/{image}" for name in ("ein Hund", "katze") for image in NAMES)
    entries = [json.loads(line) for line in gzip.decompress(documents[f"{base}/files.jsonl.gz"]).splitlines()]
    assert {entry["path"]: (entry["size"], entry["checksum"], entry["etag"]) for entry in entries} == {
        path: (
            len(content),
            hashlib.sha256(content).hexdigest(),
            hashlib.md5(content, usedforsecurity=False).hexdigest(),
        )
        for path, content in expected(folder).items()
    }


def test_pages_are_put_together(client: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PAGE_SIZE", 5)
    monkeypatch.setattr("evergreen.manifest.BATCH", 7)
    first = sync(client, folder, "paged")
    assert stored(client, "paged/dataset/") == expected(folder)
    assert sync(client, folder, "paged") == {**first, "sent": 0}


def test_a_new_worker_sends_nothing_again(client: Any, folder: Path, tmp_path: Path) -> None:
    # In two parts, so that its ETag is no MD5.
    (folder / "train/katze/large.jpg").write_bytes(JPEG + os.urandom(9 << 20))
    first = sync(client, folder, "worker", tmp_path / "facts.sqlite")
    assert sync(client, folder, "worker", tmp_path / "facts.sqlite") == {**first, "sent": 0}
    assert sync(client, folder, "worker", tmp_path / "other.sqlite") == {**first, "sent": 0}
    client.delete_object(Bucket=BUCKET, Key="worker/dataset-versions/latest.json")
    assert sync(client, folder, "worker", tmp_path / "third.sqlite") == {**first, "sent": 1}
    assert stored(client, "worker/dataset/") == expected(folder)


def test_a_new_worker_that_may_not_read_what_was_published_says_so(client: Any, folder: Path) -> None:
    (folder / "train/katze/large.jpg").write_bytes(JPEG + os.urandom(9 << 20))
    sync(client, folder, "refused")
    body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"

    def refuse(request: Any, **_: object) -> AWSResponse:
        return AWSResponse(request.url, 403, {}, HTTPResponse(BytesIO(body), preload_content=False))

    client.meta.events.register("before-send.s3.GetObject", refuse)
    with pytest.raises(
        SyncError, match=r"what was published of s3://.*/refused/dataset/ cannot be read: .*Denied"
    ):
        sync(client, folder, "refused")


def test_an_object_that_was_overwritten_or_deleted_is_sent_again(client: Any, folder: Path) -> None:
    sync(client, folder, "damaged")
    client.put_object(
        Bucket=BUCKET, Key="damaged/dataset/train/katze/1.jpg", Body=JPEG + b"train katze 2.jpg"
    )
    client.delete_object(Bucket=BUCKET, Key="damaged/dataset/test/katze/é 猫.JPEG")
    assert sync(client, folder, "damaged")["sent"] == 2
    assert stored(client, "damaged/dataset/") == expected(folder)


def test_what_is_as_it_was_needs_no_closer_look(
    client: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The files may be as young as they are here.
    monkeypatch.setattr("evergreen.manifest.SETTLED_NS", -(10**9))
    facts = tmp_path / "facts.sqlite"
    looks: list[int] = []
    look = dataset.look_at_folder
    monkeypatch.setattr(dataset, "look_at_folder", lambda *of: looks.append(1) or look(*of))

    def again(**options: bool) -> tuple[int, dict[str, Any]]:
        looks.clear()
        result = sync(client, folder, "as-it-was", facts, **options)
        return len(looks), result

    _, first = again()
    assert again() == (0, {**first, "sent": 0})
    client.delete_object(Bucket=BUCKET, Key="as-it-was/dataset/train/katze/1.jpg")
    assert again() == (1, {**first, "sent": 1})
    assert again() == (0, {**first, "sent": 0})
    document = first["dataset_uri"].removeprefix(f"s3://{BUCKET}/")
    client.delete_object(Bucket=BUCKET, Key=document)
    assert again() == (1, {**first, "sent": 0})
    assert client.get_object(Bucket=BUCKET, Key=document)
    (folder / "train/katze/1.jpg").rename(folder / "train/katze/2.jpg")
    looked, renamed = again()
    assert (looked, renamed["sent"]) == (1, 1)
    assert renamed["version"] != first["version"]
    with Sync(client, folder, SPLITS, BUCKET, "as-it-was", facts) as syncing:
        assert syncing.look()["version"] == renamed["version"]
        assert syncing.preview()["delete"]["examples"] == ["train/katze/1.jpg"]
    assert again(delete=True) == (1, {**renamed, "sent": 0, "deleted": 1})
    assert stored(client, "as-it-was/dataset/") == expected(folder)
    (folder / "train/katze/3.jpg").write_bytes(b"")
    with Sync(client, folder, SPLITS, BUCKET, "as-it-was", facts) as syncing:
        assert syncing.look()["ignored"]["count"] == 1


CHILD = """
import sys
from pathlib import Path
from evergreen.transfer import CLIENT_CONFIG, Sync
import boto3
client = boto3.client(
    "s3", endpoint_url=sys.argv[1], region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test",
    config=CLIENT_CONFIG,
)
splits = {"train": "train", "validation": "valid", "test": "test"}
with Sync(client, Path(sys.argv[2]), splits, sys.argv[3], sys.argv[4], Path(sys.argv[5])) as sync:
    sync.look()
    sync.publish(anew=sync.send() > 0)
"""


def test_a_killed_sync_goes_on_where_it_was(cloud: Cloud, client: Any, folder: Path, tmp_path: Path) -> None:
    # More than one child can send while this test looks at what is there; a page of a listing holds 1,000.
    for number in range(800):
        (folder / f"train/katze/{number:03}.jpg").write_bytes(JPEG + str(number).encode())
    total, there = len(expected(folder)), 0
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "plugins")}
    command = [sys.executable, "-c", CHILD, cloud.aws, folder, BUCKET, "killed", tmp_path / "facts.sqlite"]
    for _ in range(3):
        process = subprocess.Popen(command, env=environment)
        before, deadline = there, time.monotonic() + 30
        while there < min(before + 40, total) and time.monotonic() < deadline:
            there = len(stored_keys(client, "killed/dataset/"))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not stored_keys(client, "killed/dataset-versions/")
    # A request that was on its way when its sender died may still arrive.
    there = settled(lambda: len(stored_keys(client, "killed/dataset/")))
    assert 120 <= there < total
    # Others read while it is written, and nothing of it is half there.
    assert sync(client, folder, "killed", tmp_path / "facts.sqlite")["sent"] == total - there
    assert stored(client, "killed/dataset/") == expected(folder)
    assert sync(client, folder, "killed", tmp_path / "facts.sqlite")["sent"] == 0


def settled(count: Callable[[], int]) -> int:
    """The number once it has been the same for half a second."""
    before = -1
    while (now := count()) != before:
        before = now
        time.sleep(0.5)
    return now


def stored_keys(client: Any, prefix: str) -> list[str]:
    answer = client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)
    return [item["Key"] for item in answer.get("Contents", [])]


def test_two_syncs_at_once_do_not_disturb_each_other(
    cloud: Cloud, client: Any, folder: Path, tmp_path: Path
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "plugins")}
    command = [sys.executable, "-c", CHILD, cloud.aws, folder, BUCKET, "twice", tmp_path / "facts.sqlite"]
    processes = [subprocess.Popen(command, env=environment) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert stored(client, "twice/dataset/") == expected(folder)
    assert sync(client, folder, "twice", tmp_path / "facts.sqlite")["sent"] == 0


def test_a_file_that_changes_after_the_look_is_looked_at_again(client: Any, folder: Path) -> None:
    with Sync(client, folder, SPLITS, BUCKET, "moved", None) as syncing:
        before = syncing.look()["version"]
        (folder / "train/katze/1.jpg").write_bytes(JPEG + b"something longer")
        (folder / "train/ein Hund/1.jpg").write_bytes(JPEG + b"train ein Hund 2.jpg")
        (folder / "test/katze/1.jpg").unlink()
        assert syncing.send() == 6 * len(NAMES) - 1
        syncing.publish(anew=True)
        version = syncing.found["version"]
        assert version != before
        assert syncing.manifest.ignored()["examples"] == [{"file": "test/katze/1.jpg", "reason": "went away"}]
    assert stored(client, "moved/dataset/") == expected(folder)
    assert sync(client, folder, "moved")["version"] == version


def test_a_file_that_goes_on_changing_is_named(
    client: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "PAUSE_S", 0)
    writes = iter(range(100))
    with Sync(client, folder, SPLITS, BUCKET, "in-flight", None) as syncing:
        send = syncing._send_whole

        def write_and_send(file: Any) -> str:
            if file.path == "train/katze/1.jpg":
                Path(file.source).write_bytes(JPEG + str(next(writes)).encode())
            return send(file)

        monkeypatch.setattr(syncing, "_send_whole", write_and_send)
        syncing.look()
        with pytest.raises(
            SyncError, match=r"1 files are not in .*train/katze/1\.jpg changes while it is sent"
        ):
            syncing.send()
    assert not stored_keys(client, "in-flight/dataset-versions/")


def test_a_class_that_goes_away_after_the_look_is_no_version(client: Any, folder: Path) -> None:
    with Sync(client, folder, SPLITS, BUCKET, "emptied", None) as syncing:
        syncing.look()
        for path in (folder / "test/katze").iterdir():
            path.unlink()
        with pytest.raises(DatasetError, match=r"the test split of .* lacks 'katze'"):
            syncing.send()


def test_an_s3_prefix_is_a_source_too(client: Any, folder: Path, tmp_path: Path) -> None:
    for path in folder.rglob("*.*"):
        client.upload_file(str(path), BUCKET, f"elsewhere/cats/{path.relative_to(folder).as_posix()}")
    client.put_object(Bucket=BUCKET, Key="elsewhere/cats/train/../../stolen.jpg", Body=JPEG)
    (tmp_path / "large.jpg").write_bytes(JPEG + os.urandom(9 << 20))
    client.upload_file(str(tmp_path / "large.jpg"), BUCKET, "elsewhere/cats/train/katze/large.jpg")
    source = f"s3://{BUCKET}/elsewhere/cats"
    # What is known of a folder says nothing of a prefix.
    with Manifest(tmp_path / "facts.sqlite") as manifest:
        manifest.remember(Last("", listing.digest([]), {"version": "of a folder"}))
    first = sync(client, source, "copied", tmp_path / "facts.sqlite")
    assert first["sent"] == 6 * len(NAMES) + 1
    large = {"train/katze/large.jpg": (tmp_path / "large.jpg").read_bytes()}
    assert stored(client, "copied/dataset/") == expected(folder) | large
    assert sync(client, source, "copied", tmp_path / "facts.sqlite") == {**first, "sent": 0}
    assert sync(client, source, "copied") == {**first, "sent": 0}
    client.put_object(Bucket=BUCKET, Key="elsewhere/cats/train/katze/1.jpg", Body=JPEG + b"train KATZE 1.jpg")
    assert sync(client, source, "copied")["sent"] == 1


def test_an_object_that_changes_after_the_look_is_named(client: Any, folder: Path) -> None:
    for path in folder.rglob("*.*"):
        client.upload_file(str(path), BUCKET, f"racing/pets/{path.relative_to(folder).as_posix()}")
    with Sync(client, f"s3://{BUCKET}/racing/pets/", SPLITS, BUCKET, "raced", None) as syncing:
        syncing.look()
        client.put_object(Bucket=BUCKET, Key="racing/pets/train/katze/1.jpg", Body=JPEG)
        with pytest.raises(SyncError, match=r"racing/pets/train/katze/1\.jpg changed after it was listed"):
            syncing.send()


@pytest.mark.parametrize("source", ["", "/overlap", "/overlap/dataset", "/overlap/dataset/train/"])
def test_a_source_around_or_in_its_copy_is_refused(client: Any, source: str) -> None:
    with pytest.raises(DatasetError, match=r"dataset\.source: .* lie in one another"):
        Sync(client, f"s3://{BUCKET}{source}", SPLITS, BUCKET, "overlap", None)
    Sync(client, f"s3://{BUCKET}/overlap/dataset-of-mine", SPLITS, BUCKET, "overlap", None).manifest.close()


def test_what_cannot_be_listed_is_one_sentence(client: Any, folder: Path) -> None:
    with (
        Sync(client, "s3://no-such-bucket/pets", SPLITS, BUCKET, "nowhere", None) as syncing,
        pytest.raises(SyncError, match=r"s3://no-such-bucket/pets cannot be listed: .*NoSuchBucket"),
    ):
        syncing.look()
    with Sync(client, folder, SPLITS, "no-such-bucket", "nowhere", None) as syncing:
        syncing.look()
        with pytest.raises(SyncError, match=r"s3://no-such-bucket/nowhere/dataset cannot be listed"):
            syncing.send()


def test_what_is_gone_is_deleted_only_when_asked_for(client: Any, folder: Path) -> None:
    client.put_object(Bucket=BUCKET, Key="cleaned/dataset-of-mine/1.jpg", Body=b"mine")
    sync(client, folder, "cleaned")
    for image in NAMES[:2]:
        (folder / "train/katze" / image).unlink()
    assert sync(client, folder, "cleaned")["deleted"] == 0
    assert len(stored_keys(client, "cleaned/dataset/")) == 6 * len(NAMES)
    with Sync(client, folder, SPLITS, BUCKET, "cleaned", None) as syncing:
        syncing.look()
        assert syncing.preview()["delete"] == {
            "count": 2,
            "bytes": sum(len(JPEG + f"train katze {image}".encode()) for image in NAMES[:2]),
            "examples": sorted(f"train/katze/{image}" for image in NAMES[:2]),
        }
    assert sync(client, folder, "cleaned", delete=True)["deleted"] == 2
    assert stored(client, "cleaned/dataset/") == expected(folder)
    assert stored_keys(client, "cleaned/dataset-of-mine/") == ["cleaned/dataset-of-mine/1.jpg"]


def test_a_preview_sends_nothing(client: Any, folder: Path) -> None:
    with Sync(client, folder, SPLITS, BUCKET, "previewed", None) as syncing:
        syncing.look()
        preview = syncing.preview()
    assert preview["send"]["count"] == 6 * len(NAMES)
    assert preview["send"]["bytes"] == sum(map(len, expected(folder).values()))
    assert preview["send"]["examples"][0] == "test/ein Hund/ two  spaces.jpg"
    assert preview["delete"] == {"count": 0, "bytes": 0, "examples": []}
    assert not stored_keys(client, "previewed/")


def test_progress_is_shown(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, client: Any
) -> None:
    monkeypatch.setattr("evergreen.progress.SECONDS_BETWEEN_LINES", 0)
    caplog.set_level("INFO")
    sync(client, folder, "shown")
    assert "looked at 36 files (" in caplog.text
    assert "read 36 of 36 files, 0.0 MiB of 0.0 MiB (" in caplog.text
    assert "sent 36 of 36 files, 0.0 MiB of 0.0 MiB (" in caplog.text
