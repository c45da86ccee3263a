"""What is published of a dataset version: documents in S3 below `ROOT/dataset-versions/VERSION/`.

`dataset.json` has the counts; `SPLIT.manifest` is SageMaker's ManifestFile of a split; `files.jsonl.gz` says what is in
each object, for a worker that knows nothing of the dataset. `ROOT/dataset-versions/latest.json` names the last version.
"""

import gzip
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import IO, Any

from botocore.exceptions import ClientError

from evergreen.dataset import SPLITS
from evergreen.manifest import BATCH, Manifest

MISSING = frozenset({"NoSuchKey", "404"})


class DatasetVersions:
    """:param upload: takes a file of any size and its key. :param arguments: of every request that writes an object."""

    def __init__(
        self,
        client: Any,
        bucket: str,
        root: str,
        upload: Callable[[IO[bytes], str], None],
        arguments: Mapping[str, str],
    ) -> None:
        self._client, self._bucket, self._base = client, bucket, f"{root}/dataset-versions"
        self._send, self._arguments = upload, arguments

    def documents(self, version: str) -> dict[str, Any]:
        """Where they are: `dataset_uri`, and `manifests` by split."""
        place = f"s3://{self._bucket}/{self._base}/{version}"
        return {
            "dataset_uri": f"{place}/dataset.json",
            "manifests": {split: f"{place}/{split}.manifest" for split in SPLITS},
        }

    def exists(self, version: str) -> bool:
        """Whether all of it is there: dataset.json is written last."""
        try:
            self._client.head_object(Bucket=self._bucket, Key=f"{self._base}/{version}/dataset.json")
        except ClientError as error:
            if code(error) in MISSING:
                return False
            raise
        return True

    def write(self, version: str, counts: dict[str, dict[str, int]], manifest: Manifest, uri: str) -> None:
        """:param uri: of the folder that has the dataset's files."""
        place = f"{self._base}/{version}"
        for split in SPLITS:
            self._upload(f"{place}/{split}.manifest", partial(_write_split, manifest, split, uri))
        self._upload(f"{place}/files.jsonl.gz", partial(_write_entries, manifest))
        self._put(f"{self._base}/latest.json", {"version": version})
        self._put(
            f"{place}/dataset.json",
            {"version": version, "classes": sorted(counts["train"]), "counts": counts},
        )

    def latest_entries(self) -> Iterator[list[tuple[str, str, str]]]:
        """(path, ETag, checksum) of the files of the last version, in batches; none where nothing was published."""
        try:
            latest = self._client.get_object(Bucket=self._bucket, Key=f"{self._base}/latest.json")
            version = json.load(latest["Body"])["version"]
            files = self._client.get_object(Bucket=self._bucket, Key=f"{self._base}/{version}/files.jsonl.gz")
        except ClientError as error:
            if code(error) in MISSING:
                return
            raise
        with gzip.open(files["Body"], "rt", encoding="utf-8") as lines:
            entries = (json.loads(line) for line in lines)
            while batch := [
                (entry["path"], entry["etag"], entry["checksum"])
                for entry in itertools.islice(entries, BATCH)
            ]:
                yield batch

    def _upload(self, key: str, write: Callable[[IO[bytes]], None]) -> None:
        with tempfile.TemporaryFile() as file:
            write(file)
            file.seek(0)
            self._send(file, key)

    def _put(self, key: str, document: dict[str, Any]) -> None:
        body = json.dumps(document, indent=1).encode()
        self._client.put_object(Bucket=self._bucket, Key=key, Body=body, **self._arguments)


def code(error: ClientError) -> str:
    """AWS's name for what went wrong."""
    return str(error.response["Error"]["Code"])


def _write_split(manifest: Manifest, split: str, uri: str, file: IO[bytes]) -> None:
    """A prefix, then the keys below it."""
    file.write(b"[" + json.dumps({"prefix": f"{uri}/{split}/"}).encode())
    for path in manifest.files(split):
        file.write(b",\n" + json.dumps(path.removeprefix(f"{split}/")).encode())
    file.write(b"]")


def _write_entries(manifest: Manifest, file: IO[bytes]) -> None:
    with gzip.GzipFile(fileobj=file, mode="wb", filename="", mtime=0) as zipped:
        for path, size, checksum, etag in manifest.entries():
            entry = {"path": path, "size": size, "checksum": checksum, "etag": etag}
            zipped.write(json.dumps(entry).encode() + b"\n")
