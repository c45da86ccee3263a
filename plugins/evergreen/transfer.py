"""A dataset → its folder in S3: what changed is sent, the listing is compared again, the version is published.

It needs an S3 client of boto3 or botocore and nothing of Airflow. What is in S3 is known from its listing, never from a
request for each object; what was sent is therefore known to the next try too, wherever this one was killed.
"""

import hashlib
import itertools
import logging
import os
import time
from base64 import b64encode
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from evergreen import dataset, listing
from evergreen.dataset import DatasetError, SyncError
from evergreen.dataset_versions import MISSING, DatasetVersions, code
from evergreen.manifest import BATCH, Amount, File, Last, Manifest
from evergreen.progress import Progress, mib

log = logging.getLogger(__name__)

# Requests in flight. On AWS one takes 30 to 100 ms, most of it waiting, and more while S3 asks for patience.
CONCURRENCY = 32
CLIENT_CONFIG = Config(max_pool_connections=CONCURRENCY + 2, retries={"mode": "standard", "max_attempts": 8})
# Larger files go in parts, in parallel, through boto3's transfer manager.
WHOLE_LIMIT = 8 << 20
# So many failures in a row, none of them at the first attempt, and the rest of a round is not tried.
HOPELESS = 2 * CONCURRENCY
# How many rounds may end with as much to do as they began with, and the seconds before another one.
FRUITLESS_ROUNDS, PAUSE_S = 3, 1
EXAMPLES = 10


class Moved(Exception):  # ruff: ignore[error-suffix-on-exception-name] - no error: the file is looked at again
    """The file is not what was looked at."""


@dataclass
class _Failures:
    in_a_row: int = 0
    last: str = ""
    moved: list[File] = field(default_factory=list)

    def add(self, file: File, error: Exception) -> None:
        if isinstance(error, Moved):
            self.moved.append(file)
            self.last = f"{file.source} changes while it is sent"
        else:
            self.in_a_row += 1
            self.last = f"{file.path}: {_said(error)}"


class Sync:
    """One dataset on its way to `s3://BUCKET/ROOT/dataset/`: look, then send, then publish, then delete.

    A context manager, and the manifest's owner for as long.

    :param source: a local folder, or an `s3://` prefix.
    :param splits: split → the name of its folder in the source.
    :param facts: the manifest's file; None for one that goes with the process.
    :param arguments: of every request that writes an object: how it is encrypted.
    """

    def __init__(
        self,
        client: Any,
        source: Path | str,
        splits: dataset.Splits,
        bucket: str,
        root: str,
        facts: Path | None,
        arguments: Mapping[str, str] | None = None,
    ) -> None:
        self._client, self._arguments = client, dict(arguments or {})
        self._source, self._splits = source, splits
        self._bucket, self._root = bucket, root
        self._prefix = f"{root}/dataset/"
        if isinstance(source, str):
            self._source_bucket, self._source_prefix = _s3_place(source)
            self._refuse_overlap(source)
        self._versions = DatasetVersions(client, bucket, root, self._upload, self._arguments)
        self._closing = ExitStack()
        self.manifest = self._closing.enter_context(Manifest(facts))

    def __enter__(self) -> "Sync":
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    @property
    def uri(self) -> str:
        return f"s3://{self._bucket}/{self._root}/dataset"

    def look(self) -> dict[str, Any]:
        """Look at all of the dataset; returns what `Manifest.found` says of it. Sends nothing.

        :raises DatasetError: when no model can be trained on it.
        :raises SyncError: when it cannot be read, or not now.
        """
        # The destination is listed meanwhile.
        self._there = self._ahead(self._bucket, self._prefix, self.uri)
        self._last = self._untouched()
        if self._last:
            self.found = self._last.found
            # While the listing comes; `publish` will ask.
            pool = self._closing.enter_context(ThreadPoolExecutor(1))
            self._published = pool.submit(self._versions.exists, self.found["version"])
        else:
            self._fill()
        return self.found

    def _untouched(self) -> Last | None:
        """What the last sync saw, when no file was touched since."""
        if isinstance(self._source, str):
            return None
        last = self.manifest.last()
        return last if last and last.source == dataset.fingerprint(self._source, self._splits) else None

    def _fill(self) -> None:
        """The dataset into the manifest."""
        self._began_ns = time.time_ns()
        if isinstance(self._source, str):
            pages = self._ahead(self._source_bucket, self._source_prefix, self._source)
            objects = (page.objects() for page in pages)
            dataset.look_at_listing(self.manifest, objects, self._splits, self._source)
        else:
            self._digest = dataset.look_at_folder(self.manifest, self._source, self._splits)
        self.found = self.manifest.found()

    def compare(self) -> Amount:
        """How much has to be sent, against the listing that `look` began."""
        if self._last:
            # The files are as they were at the last sync. If the listing is too, so is the answer.
            if listing.digest(self._there) == self._last.listing:
                return Amount(0, 0)
            return self._look_closer()
        return self._compare(self._there)

    def _look_closer(self) -> Amount:
        """Fill the manifest that is empty since all is as the last sync saw it."""
        self._last = None
        self._fill()
        return self._compare(self._pages(self._bucket, self._prefix, self.uri))

    def _look_closer_at_the_same(self) -> None:
        """The same after `send`, when only the version that it found will do."""
        if self._last:
            version = self.found["version"]
            if self._look_closer().files or self.found["version"] != version:
                raise SyncError(f"dataset.source: {self._source} changed while it was synced: sync again")

    def _compare(self, pages: Iterable[listing.Page]) -> Amount:
        """With this listing, whose digest is remembered when nothing is left to do."""
        hashed = hashlib.sha256()

        def objects() -> Iterator[list[listing.Object]]:
            for page in pages:
                hashed.update(page.text)
                yield page.objects()

        changed = self.manifest.compare(objects())
        self._listing = hashed.hexdigest()
        if changed.files and self.manifest.unexplained():
            # On a new worker: which ETag stands for which content, as the last sync wrote it down.
            with _one_sentence(f"what was published of {self.uri}/ cannot be read"):
                for entries in self._versions.latest_entries():
                    self.manifest.sent(entries)
            changed = self.manifest.compare_again()
        return changed

    def preview(self) -> dict[str, Any]:
        """What `send` and `delete_removed` would do now."""
        changed = self._look_closer() if self._last else self.compare()
        removed = self.manifest.removed()
        sent = [file.path for file in itertools.islice(self.manifest.changed(), EXAMPLES)]
        deleted = next(self.manifest.removed_paths(), [])[:EXAMPLES]
        return {
            "send": {"count": changed.files, "bytes": changed.size, "examples": sent},
            "delete": {"count": removed.files, "bytes": removed.size, "examples": deleted},
        }

    def send(self) -> int:
        """Send what changed until the listing shows all of it; how many files that were.

        :raises SyncError: when nothing gets through any more, or a file goes on changing.
        """
        changed, sent, fruitless = self.compare(), 0, 0
        log.info("%s files to send, %s", f"{changed.files:,}", mib(changed.size))
        while changed.files:
            failures = _Failures()
            sent += self._round(changed, failures)
            if failures.moved:
                with ThreadPoolExecutor(dataset.READERS) as pool:
                    dataset.read_again(self.manifest, failures.moved, pool)
            before = changed
            changed = self._compare(self._pages(self._bucket, self._prefix, self.uri))
            fruitless = fruitless + 1 if changed.files >= before.files else 0
            if fruitless == FRUITLESS_ROUNDS or (fruitless and failures.in_a_row >= HOPELESS):
                raise SyncError(self._stuck(changed, failures))
            if changed.files:
                log.warning("%s files to send once more; the last: %s", f"{changed.files:,}", failures.last)
                time.sleep(PAUSE_S)
        if not self._last:
            self._settle()
        return sent

    def _settle(self) -> None:
        """All of the dataset is where it should be."""
        dataset.check(self.manifest.counts(), str(self._source))
        self.manifest.settle()
        # A file that changed meanwhile made another version.
        self.found = self.manifest.found()
        if not isinstance(self._source, str) and self.manifest.settled(self._began_ns):
            self.manifest.remember(Last(self._digest, self._listing, self.found))

    def publish(self, *, anew: bool) -> dict[str, Any]:
        """Write what belongs to the version: `dataset_uri`, and `manifests` with a ManifestFile for each split.

        :param anew: write it although it is there, since the objects' ETags are others now.
        """
        version = self.found["version"]
        published = self._versions.documents(version)
        with _one_sentence(f"{published['dataset_uri']} cannot be written"):
            there = self._published.result() if self._last else self._versions.exists(version)
            if anew or not there:
                self._look_closer_at_the_same()
                self._versions.write(version, self.found["counts"], self.manifest, self.uri)
        return published

    def delete_removed(self) -> int:
        """Delete the objects of the dataset's folder that the dataset no longer has; how many they were."""
        deleted = 0
        self._look_closer_at_the_same()
        for paths in self.manifest.removed_paths():
            # A thousand, which is the most that one request takes.
            with _one_sentence(f"objects below {self.uri}/ cannot be deleted"):
                answer = self._client.delete_objects(
                    Bucket=self._bucket,
                    Delete={"Objects": [{"Key": self._prefix + path} for path in paths], "Quiet": True},
                )
            if errors := answer.get("Errors"):
                raise SyncError(
                    f"dataset.delete_removed: {len(errors)} objects below {self.uri}/ could not be deleted "
                    f"({errors[0]['Key']}: {errors[0]['Code']}): may Airflow's credentials do s3:DeleteObject there?"
                )
            deleted += len(paths)
        return deleted

    # Sending

    def _round(self, changed: Amount, failures: _Failures) -> int:
        """Try every changed file once; how many got through. Few are in memory at a time."""
        progress, sent = Progress("sent", changed.files, changed.size), 0
        running: dict[Future[str], File] = {}
        records: list[tuple[str, str, str]] = []

        def collect(done: Iterable[Future[str]]) -> None:
            nonlocal sent
            for future in done:
                file = running.pop(future)
                try:
                    etag = future.result()
                except (Moved, BotoCoreError, ClientError, OSError) as error:
                    failures.add(file, error)
                    continue
                failures.in_a_row = 0
                sent += 1
                progress.add(1, file.stat.size)
                # An ETag that is the MD5 says by itself what is in the object.
                if etag != file.md5:
                    records.append((file.path, etag, str(file.checksum)))
            if len(records) >= CONCURRENCY:
                self.manifest.sent(records)
                records.clear()

        with ThreadPoolExecutor(CONCURRENCY) as pool:
            try:
                for file in self.manifest.changed():
                    running[pool.submit(self._way(file), file)] = file
                    if len(running) >= 2 * CONCURRENCY:
                        collect(wait(running, return_when=FIRST_COMPLETED).done)
                    if failures.in_a_row >= HOPELESS or len(failures.moved) >= BATCH:
                        break
                collect(wait(running).done)
            finally:
                pool.shutdown(cancel_futures=True)
                self.manifest.sent(records)
        return sent

    def _way(self, file: File) -> Callable[[File], str]:
        """The function that sends this file and returns the object's ETag; threads call it."""
        if isinstance(self._source, str):
            return self._copy
        return self._send_whole if file.stat.size <= WHOLE_LIMIT else self._send_in_parts

    def _send_whole(self, file: File) -> str:
        try:
            with Path(file.source).open("rb") as opened:
                content = opened.read(file.stat.size + 1)
        except FileNotFoundError as error:
            raise Moved from error
        # It is these bytes that the version stands for, and S3 refuses any others.
        sha256 = hashlib.sha256(content)
        if sha256.hexdigest() != file.checksum:
            raise Moved
        answer = self._client.put_object(
            Bucket=self._bucket,
            Key=self._prefix + file.path,
            Body=content,
            ChecksumSHA256=b64encode(sha256.digest()).decode(),
            **self._arguments,
        )
        return _etag(answer)

    def _send_in_parts(self, file: File) -> str:
        key = self._prefix + file.path
        try:
            self._upload(file.source, key)
            # A file that was touched meanwhile may have been sent half old, half new.
            if dataset.stat_of(os.stat(file.source)) != file.stat:  # ruff: ignore[os-stat]
                raise Moved
        except FileNotFoundError as error:
            raise Moved from error
        return _etag(self._client.head_object(Bucket=self._bucket, Key=key))

    def _upload(self, file: IO[bytes] | str, key: str) -> None:
        self._manager.upload(file, self._bucket, key, extra_args=self._arguments).result()

    def _copy(self, file: File) -> str:
        key = f"{self._source_prefix}{file.source}"
        try:
            answer = self._client.copy_object(
                Bucket=self._bucket,
                Key=self._prefix + file.path,
                CopySource={"Bucket": self._source_bucket, "Key": key},
                CopySourceIfMatch=file.checksum,
                **self._arguments,
            )
        except ClientError as error:
            if code(error) in MISSING | {"PreconditionFailed", "412"}:
                raise SyncError(
                    f"dataset.source: s3://{self._source_bucket}/{key} changed after it was listed: nothing was "
                    "published; sync again when what writes it is done"
                ) from error
            raise
        return _etag(answer["CopyObjectResult"])

    @cached_property
    def _manager(self) -> Any:
        # Takes a tenth of a second to import, and small files do without it.
        from boto3.s3.transfer import HAS_CRT, TransferConfig, create_transfer_manager

        # boto3's CRT client goes to AWS whatever endpoint this client has.
        crt = HAS_CRT and urlsplit(self._client.meta.endpoint_url).netloc.endswith(".amazonaws.com")
        config = TransferConfig(
            multipart_threshold=WHOLE_LIMIT, preferred_transfer_client="crt" if crt else "classic"
        )
        manager = create_transfer_manager(self._client, config)
        self._closing.callback(manager.shutdown)
        return manager

    # The destination's listing

    def _ahead(self, bucket: str, prefix: str, where: str) -> Iterable[listing.Page]:
        return self._closing.enter_context(listing.Ahead(self._client, self._pages(bucket, prefix, where)))

    def _pages(self, bucket: str, prefix: str, where: str) -> Generator[listing.Page]:
        with _one_sentence(f"{where} cannot be listed"):
            yield from listing.pages(self._client, bucket, prefix)

    def _stuck(self, changed: Amount, failures: _Failures) -> str:
        return (
            f"{changed.files:,} files are not in {self.uri}/ as they should be, and tries no longer help; the last: "
            f"{failures.last or 'what was sent is not in the listing'}; what was sent stays, a retry goes on from there"
        )

    def _refuse_overlap(self, source: str) -> None:
        """Copies of copies would be taken for the source's files at the next sync."""
        if self._source_bucket == self._bucket and (
            self._source_prefix.startswith(self._prefix) or self._prefix.startswith(self._source_prefix)
        ):
            raise DatasetError(
                f"dataset.source: {source} and the place that it is synced to, {self.uri}/, lie in one another: "
                "name another prefix, or another compute.prefix"
            )


def _s3_place(uri: str) -> tuple[str, str]:
    """Bucket and prefix, which ends in `/` unless it is the whole bucket."""
    place = urlsplit(uri)
    prefix = uri.removeprefix(f"s3://{place.netloc}").strip("/")
    return place.netloc, f"{prefix}/" if prefix else ""


def _etag(answer: dict[str, Any]) -> str:
    return str(answer["ETag"]).strip('"')


@contextmanager
def _one_sentence(what: str) -> Generator[None]:
    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise SyncError(f"{what}: {_said(error)}: {_advice(error)}") from error


def _said(error: Exception) -> str:
    return str(error).rstrip(".")


def _advice(error: BotoCoreError | ClientError) -> str:
    if isinstance(error, ClientError) and error.response["ResponseMetadata"]["HTTPStatusCode"] < 500:
        return "is the name right, and do Airflow's credentials allow it?"
    return "a retry goes on where this try was"
