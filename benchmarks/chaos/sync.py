"""Sync through a proxy that answers requests with errors: it converges, or ends with a clear sentence.

    make chaos NAME=sync        # about 3 minutes on 2 cores; FILES=200 for a short one

Between the sync and the S3 of a local cloud of its own is a proxy in this process. Each run syncs 2,000 small files to
a place of its own:

- clean: without faults, for comparison;
- slow_down: 30 % of all requests are answered 503 SlowDown;
- mixed: 10 % 500 InternalError, 5 % connections cut before the answer, 5 % after S3 has carried the request out;
- nothing: every request is answered 503; uploads: every PUT is.

Held: in the first three every object's size and MD5 are the file's, and a second sync sends nothing; in the others the
sync ends within 3 minutes with one sentence that names the place and the last answer, and no version is published.
"""

import hashlib
import http.client
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from scripts.bench import conditions
from scripts.local_stack import BUCKET, REPOSITORY, Cloud, Stack

FILES = int(os.environ.get("FILES", "2000"))
SEED = int(os.environ.get("SEED", "7"))
SPLITS = {"train": "train", "validation": "valid", "test": "test"}
END_LIMIT_S = 180.0
SYNC = """
import json, sys, time
from pathlib import Path
import boto3
from evergreen.dataset import SyncError
from evergreen.transfer import CLIENT_CONFIG, Sync
splits, url, folder, bucket, root = json.loads(sys.argv[1]), *sys.argv[2:]
client = boto3.client(
    "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test",
    config=CLIENT_CONFIG,
)
started, sent, error = time.monotonic(), None, None
try:
    with Sync(client, Path(folder), splits, bucket, root, None) as sync:
        sync.look()
        sent = sync.send()
        sync.publish(anew=sent > 0)
except SyncError as raised:
    error = str(raised)
print(json.dumps({"seconds": round(time.monotonic() - started, 1), "sent": sent, "error": error}))
"""
ERROR = "<Error><Code>{code}</Code><Message>{message}</Message><RequestId>chaos</RequestId></Error>"
ANSWERS = {
    "SlowDown": (503, "Please reduce your request rate."),
    "InternalError": (500, "We encountered an internal error. Please try again."),
}
# Fault → share of the requests.
Faults = dict[str, float]
CONVERGING: dict[str, Faults] = {
    "clean": {},
    "slow_down": {"SlowDown": 0.3},
    "mixed": {"InternalError": 0.1, "cut before": 0.05, "cut after": 0.05},
}
HOPELESS: dict[str, tuple[Faults, frozenset[str]]] = {
    "nothing": ({"SlowDown": 1.0}, frozenset()),
    "uploads": ({"SlowDown": 1.0}, frozenset({"GET", "HEAD"})),
}


def run() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = _files(Path(name) / "files")
        stack = Stack(Path(name) / "var")
        cloud = stack.cloud()
        try:
            converged = {what: _converge(cloud, folder, what, faults) for what, faults in CONVERGING.items()}
            ended = {
                what: _end(cloud, folder, what, faults, spared) for what, (faults, spared) in HOPELESS.items()
            }
        finally:
            stack.down()
    slower = converged["slow_down"]["seconds"] / converged["clean"]["seconds"]
    good = all(
        result["right"] == FILES and result["sent_again"] == 0 and result["error"] is None
        for result in converged.values()
    ) and all(
        result["error"] and result["seconds"] <= END_LIMIT_S and not result["published"]
        for result in ended.values()
    )
    return {
        "figures": {**converged, **ended, "slow_down_ratio": round(slower, 1)},
        "conditions": conditions("botocore", files=FILES, seed=SEED),
        "ok": good,
    }


def _converge(cloud: Cloud, folder: Path, root: str, faults: Faults) -> dict[str, Any]:
    with proxy(cloud, faults) as (url, answered):
        ended = _sync(url, folder, root)
        said = dict(answered)
    expected = {
        f"{root}/dataset/{'validation' if path.parts[-3] == 'valid' else path.parts[-3]}/{'/'.join(path.parts[-2:])}": (
            path.stat().st_size,
            hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest(),
        )
        for path in folder.rglob("*.jpg")
    }
    s3 = cloud.client("s3")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{root}/dataset/")
    there = {
        item["Key"]: (item["Size"], item["ETag"].strip('"'))
        for page in pages
        for item in page.get("Contents", [])
    }
    again = _sync(cloud.aws, folder, root)["sent"]
    result = {
        "seconds": ended["seconds"],
        "error": ended["error"],
        "right": sum(there.get(key) == value for key, value in expected.items()),
        "sent_again": again,
        "answered": said,
    }
    print(f"{root}: {result}", file=sys.stderr, flush=True)
    return result


def _end(cloud: Cloud, folder: Path, root: str, faults: Faults, spared: frozenset[str]) -> dict[str, Any]:
    with proxy(cloud, faults, spared) as (url, answered):
        ended = _sync(url, folder, root)
        said = dict(answered)
    s3 = cloud.client("s3")
    published = s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{root}/dataset-versions/").get("KeyCount", 0)
    result = {"seconds": ended["seconds"], "error": ended["error"], "published": published, "answered": said}
    print(f"{root}: {result}", file=sys.stderr, flush=True)
    return result


def _sync(url: str, folder: Path, root: str) -> dict[str, Any]:
    """Seconds, how many files were sent, and the sentence with which the sync ended, in a process of its own."""
    arguments = [json.dumps(SPLITS), url, str(folder), BUCKET, root]
    done = subprocess.run(
        [sys.executable, "-c", SYNC, *arguments],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "plugins")}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    said: dict[str, Any] = json.loads(done.stdout)
    return said


@contextmanager
def proxy(
    cloud: Cloud, faults: Faults, spared: frozenset[str] = frozenset()
) -> Generator[tuple[str, "Counter[str]"]]:
    """Its address, and how often it answered what."""
    answered: Counter[str] = Counter()
    handler = type(
        "Handler",
        (Proxy,),
        {
            "upstream": urlsplit(cloud.aws).netloc,
            "faults": faults,
            "spared": spared,
            "rng": random.Random(SEED),  # ruff: ignore[suspicious-non-cryptographic-random-usage]
            "answered": answered,
        },
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", answered
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Proxy(BaseHTTPRequestHandler):
    """One connection; requests go on to the S3, or are answered here."""

    protocol_version = "HTTP/1.1"
    upstream: ClassVar[str]
    faults: ClassVar[Faults]
    spared: ClassVar[frozenset[str]]
    rng: ClassVar[random.Random]
    answered: ClassVar["Counter[str]"]

    def setup(self) -> None:
        super().setup()
        self._s3 = http.client.HTTPConnection(self.upstream, timeout=60)

    def finish(self) -> None:
        self._s3.close()
        with suppress(OSError):
            super().finish()

    def log_message(self, *_: object) -> None:
        return None

    def handle_one(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self._fault()
        self.answered[fault or "carried out"] += 1
        if fault in ANSWERS:
            status, message = ANSWERS[fault]
            text = ERROR.format(code=fault, message=message).encode()
            self._answer(status, [("Content-Type", "application/xml")], text)
        elif fault == "cut before":
            self._cut()
        else:
            self._s3.request(self.command, self.path, body, dict(self.headers))
            response = self._s3.getresponse()
            content = response.read()
            if fault == "cut after":
                self._cut()
            else:
                self._answer(response.status, response.getheaders(), content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_one  # ruff: ignore[mixed-case-variable-in-class-scope]

    def _fault(self) -> str | None:
        drawn = self.rng.random()
        if self.command in self.spared:
            return None
        for fault, share in self.faults.items():
            if drawn < share:
                return fault
            drawn -= share
        return None

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in {"content-length", "transfer-encoding", "connection"}:
                self.send_header(name, value)
        length = dict(headers).get("content-length", "0") if self.command == "HEAD" else str(len(body))
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


def _files(root: Path) -> Path:
    """Small files of random content, two classes."""
    random_bytes = random.Random(SEED).randbytes  # ruff: ignore[suspicious-non-cryptographic-random-usage]
    names = ["train"] * 8 + ["valid", "test"]
    for number in range(FILES):
        path = root / names[number % 10] / f"class {number // 10 % 2}" / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\xff\xd8\xff\xe0" + random_bytes(1500))
    return root
