"""Objects of S3 by their URIs, many at once: for scripts, which have no Airflow."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from botocore.exceptions import ClientError

THREADS = 16
ABSENT = frozenset({"NoSuchKey", "NoSuchBucket", "404"})


class StorageError(RuntimeError):
    """An object is not there, or not what it may be; the message names it."""


class Storage:
    """Objects of S3, by their URIs."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def read(self, uri: str) -> bytes | None:
        """None for an object that is not there."""
        bucket, key = split(uri)
        try:
            return bytes(self.client.get_object(Bucket=bucket, Key=key)["Body"].read())
        except ClientError as error:
            if error.response["Error"]["Code"] in ABSENT:
                return None
            raise

    def fetch(self, uri: str, file: Path) -> bool:
        """The object as a file; False when it is not there."""
        bucket, key = split(uri)
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.client.download_file(bucket, key, str(file))
        except ClientError as error:
            if error.response["Error"]["Code"] in ABSENT:
                return False
            raise
        return True

    def fetch_all(self, prefix: str, names: Iterable[str], folder: Path) -> int:
        """`prefix` + name → `folder` / name, 16 at once; how many there are.

        :raises StorageError: when one of them is not there, or has a name that leads out of the folder.
        """

        def one(name: str) -> None:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise StorageError(f"{prefix}: an object is called {name!r}, which leads out of any folder")
            if not self.fetch(prefix + name, folder / name):
                raise StorageError(f"{prefix}{name} is not there")

        with ThreadPoolExecutor(THREADS) as pool:
            return len(list(pool.map(one, names)))

    def names(self, prefix: str) -> list[str]:
        """Of all objects below a prefix that ends with a slash."""
        bucket, key = split(prefix)
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key)
        found = [str(item["Key"]).removeprefix(key) for page in pages for item in page.get("Contents", [])]
        return [name for name in found if name and not name.endswith("/")]


def split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key
