"""Moving files between S3 and job directories."""

import http.client
import json
import shutil
import tarfile
import urllib.parse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

THREADS = 4
CREDENTIAL = "test"  # MiniStack takes any


class TransferError(Exception):
    """A transfer that failed for a reason that belongs in FailureReason."""


def client(service: str, endpoint: str, region: str = "us-east-1") -> Any:
    """A boto3 client of the local AWS; safe to share between threads."""
    config = Config(
        max_pool_connections=32,
        retries={"mode": "standard", "max_attempts": 5},
        # No checksum but what the protocol asks for: both ends are this machine.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    session = boto3.session.Session("test", CREDENTIAL, region_name=region)
    return session.client(service, endpoint_url=endpoint, config=config)


def split(uri: str) -> tuple[str, str]:
    """Bucket and key of s3://BUCKET/KEY."""
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise TransferError(f"ClientError: {uri} is not an S3 URI")
    return bucket, key


class Found(NamedTuple):
    """An object, and where it lies below the local folder."""

    bucket: str
    key: str
    relative: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


class S3:
    """The transfers that jobs need."""

    def __init__(self, endpoint: str) -> None:
        self._client = client("s3", endpoint)
        self._host = urllib.parse.urlsplit(endpoint).netloc

    def find(self, uri: str, data_type: str = "S3Prefix") -> list[Found]:
        """The objects of an S3 data source: below a prefix, or those that a manifest names.

        Raises TransferError, worded as AWS's FailureReason, when there are none.
        """
        found = self._in_manifest(uri) if data_type == "ManifestFile" else self._below(uri)
        if not found:
            raise TransferError(
                f'ClientError: Data download failed: No S3 objects found under S3 URL "{uri}" given in input data '
                "source. Please ensure that the bucket exists in the selected region, that objects exist under "
                "that S3 prefix, and that the role may list the bucket."
            )
        return found

    def exists(self, uri: str) -> bool:
        """Whether there is anything below a prefix."""
        return bool(self._below(uri))

    def _below(self, uri: str) -> list[Found]:
        """Objects below a prefix by key, folder markers left out. A missing bucket has none."""
        bucket, prefix = split(uri)
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        try:
            keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        except ClientError as error:
            if error.response["Error"]["Code"] == "NoSuchBucket":
                return []
            raise
        return [Found(bucket, key, relative_key(prefix, key)) for key in keys if key[-1] != "/"]

    def _in_manifest(self, uri: str) -> list[Found]:
        """A manifest is [{"prefix": "s3://BUCKET/PREFIX"}, "KEY", "KEY", …]."""
        try:
            head, *names = json.loads(self.read(uri))
            bucket, prefix = split(head["prefix"])
            return [Found(bucket, prefix + name, name.lstrip("/")) for name in names]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise TransferError(
                f"ClientError: Data download failed: {uri} is not a manifest: {error!r}"
            ) from error

    def download(
        self, uri: str, target: Path, data_type: str = "S3Prefix", shard: tuple[int, int] = (0, 1)
    ) -> None:
        """Fetch a data source into a folder, as SageMaker's File mode does. Raises TransferError.

        `shard` is which part of how many, as ShardedByS3Key divides the objects among hosts.
        """
        found = self.find(uri, data_type)[shard[0] :: shard[1]]
        target.mkdir(parents=True, exist_ok=True)
        files = [(item, _inside(target, item.relative)) for item in found]
        for folder in {file.parent for _, file in files}:
            folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(self._fetch, [files[n::THREADS] for n in range(THREADS)]))

    def download_file(self, uri: str, target: Path) -> None:
        """Fetch one object. Raises TransferError when it is not there."""
        self._fetch([(Found(*split(uri), ""), target)])

    def read(self, uri: str) -> bytes:
        """The content of a small object. Raises TransferError when it is not there."""
        bucket, key = split(uri)
        try:
            return bytes(self._client.get_object(Bucket=bucket, Key=key)["Body"].read())
        except ClientError as error:
            raise TransferError(f"ClientError: Data download failed: {uri}: {error}") from error

    def _fetch(self, files: list[tuple[Found, Path]]) -> None:
        # Plain HTTP: boto3 takes 2.5 ms of processor time for each small object, this takes 0.3 ms, and a folder
        # of images is thousands of them. MiniStack asks for no signature.
        connection = http.client.HTTPConnection(self._host, timeout=60)
        try:
            for item, target in files:
                connection.request("GET", urllib.parse.quote(f"/{item.bucket}/{item.key}"))
                response = connection.getresponse()
                if response.status != 200:
                    raise TransferError(
                        f"ClientError: Data download failed: {item} answered {response.status}"
                    )
                with target.open("wb") as file:
                    shutil.copyfileobj(response, file, 1 << 20)
        finally:
            connection.close()

    def upload_file(self, source: Path, uri: str) -> None:
        """Raises TransferError, when the bucket does not exist for one."""
        bucket, key = split(uri)
        try:
            with source.open("rb") as file:
                self._client.put_object(Bucket=bucket, Key=key, Body=file)
        except (BotoCoreError, ClientError) as error:
            raise TransferError(f"ClientError: Upload to {uri} failed: {error}") from error

    def upload_bytes(self, content: bytes, uri: str, content_type: str) -> None:
        bucket, key = split(uri)
        self._client.put_object(Bucket=bucket, Key=key, Body=content, ContentType=content_type)

    def upload_folder(self, source: Path, uri: str) -> None:
        """Upload every file below a folder, keeping the paths."""
        files = [file for file in sorted(source.rglob("*")) if file.is_file()]
        with ThreadPoolExecutor(THREADS) as pool:
            base = uri.rstrip("/")
            list(
                pool.map(
                    lambda file: self.upload_file(file, f"{base}/{file.relative_to(source).as_posix()}"),
                    files,
                )
            )


def relative_key(prefix: str, key: str) -> str:
    """Where an object lies below the local folder, given the S3 prefix that matched it.

    >>> relative_key("data/train", "data/train/cat/1.jpg"), relative_key("data/a.csv", "data/a.csv")
    ('cat/1.jpg', 'a.csv')
    """
    if prefix.endswith("/") or not prefix:
        return key[len(prefix) :]
    if key.startswith(prefix + "/"):
        return key[len(prefix) + 1 :]
    return key[len(prefix.rpartition("/")[0]) :].lstrip("/")


def _inside(folder: Path, relative: str) -> Path:
    # A key may hold anything, "../" among it.
    if ".." in PurePosixPath(relative).parts or relative.startswith("/"):
        raise TransferError(
            f"ClientError: Data download failed: the key {relative!r} leaves the input folder"
        )
    return folder / relative


def pack(folders: Sequence[Path], archive: Path) -> None:
    """Write the folders' contents as one tar.gz; of files with the same name the first folder's is taken."""
    files: dict[str, Path] = {}
    for folder in folders:
        for item in sorted(folder.rglob("*")):
            files.setdefault(item.relative_to(folder).as_posix(), item)
    # Level 1: weights hardly compress, and level 9 takes 20 times as long over it.
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        for name, item in files.items():
            tar.add(item, name, recursive=False)


def unpack(archive: Path, folder: Path) -> None:
    """Extract a tar.gz. Raises TransferError for a broken archive or one whose members leave the folder."""
    try:
        with tarfile.open(archive, "r:gz") as tar:
            tar.extractall(folder, filter="data")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise TransferError(f"ClientError: {archive.name} cannot be extracted: {error}") from error
