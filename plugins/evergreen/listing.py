"""The objects below a prefix, page by page, at the cost of the request.

boto3 parses a date for each object with dateutil, which takes longer than all else in a sync with nothing to do:
10,000 objects are 1 s with it and 0.03 s without.
"""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from typing import Any, NamedTuple

# AWS gives 1,000 at once whatever is asked; servers that sort the whole bucket for each page give what is asked.
PAGE_SIZE = 10_000


class Object(NamedTuple):
    path: str
    """The key below the prefix."""
    size: int
    etag: str
    """Without its quotes."""


Page = list[Object]


def pages(client: Any, bucket: str, prefix: str) -> Iterator[Page]:
    """Every object below `prefix`, which ends in `/` or is empty.

    From now on what this client lists has keys, sizes and ETags only.
    """
    client.meta.events.register("before-parse.s3.ListObjectsV2", _take_contents, unique_id="evergreen")
    paginator = client.get_paginator("list_objects_v2")
    for page in paginator.paginate(Bucket=bucket, Prefix=prefix, PaginationConfig={"PageSize": PAGE_SIZE}):
        yield [
            Object(item["Key"].removeprefix(prefix), int(item["Size"]), item["ETag"].strip('"'))
            for item in page.get("Contents", [])
        ]


class Ahead:
    """The pages of another iterator, each fetched while its caller works on the one before.

    The first is fetched at once: a context manager, so that the thread ends with whoever wanted the pages.
    """

    def __init__(self, source: Iterator[Page]) -> None:
        self._source = source
        self._pool = ThreadPoolExecutor(1)
        self._coming = self._pool.submit(next, source, None)

    def __enter__(self) -> "Ahead":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def __iter__(self) -> Iterator[Page]:
        while (page := self._coming.result()) is not None:
            self._coming = self._pool.submit(next, self._source, None)
            yield page


def _take_contents(
    response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object
) -> None:
    """Take the objects out of a ListObjectsV2 answer before boto3 parses it; it decodes their keys afterwards.

    What does not look as S3 writes it is left to boto3.
    """
    head, opening, rest = response_dict["body"].partition(b"<Contents>")
    objects, closing, tail = rest.rpartition(b"</Contents>")
    keys, sizes, etags = (
        re.findall(rf"<{name}>([^<]*)</{name}>", objects.decode()) for name in ("Key", "Size", "ETag")
    )
    if opening and closing and len(keys) == len(sizes) == len(etags) == objects.count(b"<Contents>") + 1:
        customized_response_dict["Contents"] = [
            {"Key": unescape(key), "Size": size, "ETag": unescape(etag)}
            for key, size, etag in zip(keys, sizes, etags, strict=True)
        ]
        response_dict["body"] = head + tail
