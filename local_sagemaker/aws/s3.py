"""Moving files between S3 and job directories."""

import http.client
import json
import os
import re
import shutil
import tarfile
import time
import urllib.parse
import xml.etree.ElementTree  # ruff: ignore[suspicious-xml-etree-import] - of our own MiniStack only
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from isal import igzip

from local_sagemaker.aws.client import PAUSE_S, TRIES, Aws, AwsError

THREADS = 4
CREDENTIAL = "test"  # MiniStack takes any
_XML = "{http://s3.amazonaws.com/doc/2006-03-01/}"


class TransferError(Exception):
    """A transfer that failed for a reason that belongs in FailureReason."""


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

    def __init__(self, aws: Aws) -> None:
        self._aws = aws

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
        keys: list[str] = []
        query = {"list-type": "2", "prefix": prefix}
        while True:
            status, body = self._request("GET", f"/{bucket}?{urllib.parse.urlencode(query)}")
            if status == 404:
                return []
            if status != 200:
                raise TransferError(f"ClientError: Data download failed: the list of {uri} answered {status}")
            page = xml.etree.ElementTree.fromstring(body)  # ruff: ignore[suspicious-xml-element-tree-usage]
            keys += [item.findtext(f"{_XML}Key", "") for item in page.iter(f"{_XML}Contents")]
            token = page.findtext(f"{_XML}NextContinuationToken")
            if not token:
                return [Found(bucket, key, relative_key(prefix, key)) for key in keys if key[-1:] != "/"]
            query["continuation-token"] = token

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
        status, body = self._request("GET", _path(*split(uri)))
        if status != 200:
            raise TransferError(f"ClientError: Data download failed: {uri} answered {status}")
        return body

    def _fetch(self, files: list[tuple[Found, Path]]) -> None:
        # One connection for all of them: a folder of images is thousands of small objects.
        with self._aws.connection() as connection:
            for item, target in files:
                for attempt in range(TRIES):
                    try:
                        _save(connection, item, target)
                        break
                    except (ConnectionError, http.client.HTTPException) as error:
                        connection.close()
                        if attempt + 1 == TRIES:
                            raise TransferError(f"InternalServerError: {item}: {error!r}") from error
                        time.sleep(PAUSE_S)

    def upload_file(self, source: Path, uri: str) -> None:
        """Raises TransferError, when the bucket does not exist for one, and OSError for the file."""
        with source.open("rb") as file:
            self._put(uri, file, {"content-length": str(os.fstat(file.fileno()).st_size)})

    def upload_bytes(self, content: bytes, uri: str, content_type: str) -> None:
        self._put(uri, content, {"content-type": content_type})

    def _put(self, uri: str, body: Any, headers: Mapping[str, str]) -> None:
        status, answer = self._request("PUT", _path(*split(uri)), body, headers)
        if status != 200:
            found = re.search(r"<Message>([^<]*)<", answer.decode(errors="replace"))
            reason = found.group(1) if found else f"status {status}"
            raise TransferError(f"ClientError: Artifact upload failed: {uri}: {reason}")

    def _request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        try:
            return self._aws.request(method, path, body, headers)
        except AwsError as error:
            raise TransferError(f"InternalServerError: {error}") from error


def _save(connection: http.client.HTTPConnection, item: Found, target: Path) -> None:
    connection.request("GET", _path(item.bucket, item.key))
    response = connection.getresponse()
    if response.status != 200:
        raise TransferError(f"ClientError: Data download failed: {item} answered {response.status}")
    with target.open("wb") as file:
        shutil.copyfileobj(response, file, 1 << 20)


def _path(bucket: str, key: str) -> str:
    return urllib.parse.quote(f"/{bucket}/{key}")


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
    # Weights hardly compress, and zlib's fastest level took half of a trial's processor time (benchmarks/tuning.py).
    with (
        igzip.open(archive, "wb", compresslevel=1) as file,  # type: ignore[no-untyped-call]  # isal has no types
        tarfile.open(fileobj=file, mode="w") as tar,
    ):
        for name, item in files.items():
            tar.add(item, name, recursive=False)


def unpack(archive: Path, folder: Path) -> None:
    """Extract a tar.gz. Raises TransferError for a broken archive or one whose members leave the folder."""
    try:
        with tarfile.open(archive, "r:gz") as tar:
            tar.extractall(folder, filter="data")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise TransferError(f"ClientError: {archive.name} cannot be extracted: {error}") from error
