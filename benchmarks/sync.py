"""Syncing 10,000 small files to the local S3, against `aws s3 sync`; and the memory at 1,000 to 1,000,000 files.

    make bench NAME=sync

About 12 minutes on 2 cores, half of it for 100,000 files. Ours and AWS's command line (installed below `var/venv`) take
turns at the same local S3, each in a fresh process whose start is part of its time, each into a bucket of its own: a
first sync, then syncs with nothing to do; medians. Ours runs as the operator runs it, without Airflow around it.
The bound is on whole processes; `in_a_task` leaves out Python's start and the imports, which a task has had anyway. The
memory is the peak of a fresh process's resident pages: first sync and nothing to do for up to 100,000 files, and a
listing of 1,000,000 objects compared with an equal one without any S3.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from scripts.bench import conditions, uv
from scripts.local_stack import REGION, REPOSITORY, Cloud, Stack

FILES, COLD_ROUNDS, NOOP_ROUNDS = 10_000, 3, 7
MEMORY_FILES = (1_000, 10_000, 100_000)
AWS = REPOSITORY / "var/venv/awscli/bin/aws"
NOOP_LIMIT_S, RATIO, GROWTH = 3.0, 5.0, 1.15
SPLITS = {"train": "train", "validation": "valid", "test": "test"}
# The S3 client is botocore's, which is boto3's without boto3's own import.
OURS = """
import json, resource, sys, time
from pathlib import Path
import botocore.session
from evergreen.transfer import CLIENT_CONFIG, Sync
started = time.perf_counter()
splits, source, bucket, facts = json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
client = botocore.session.get_session().create_client("s3", config=CLIENT_CONFIG)
with Sync(client, source, splits, bucket, "pets", facts) as sync:
    sync.look()
    sent = sync.send()
    sync.publish(anew=sent > 0)
seconds, peak = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"sent": sent, "peak_kib": peak, "seconds": seconds}))
"""
MILLION = """
import json, resource
from evergreen import dataset
from evergreen.listing import Object
from evergreen.manifest import Manifest
def pages(folders):
    for number in range(0, 1_000_000, 1000):
        split = folders[number // 1000 % 3]
        yield [
            Object(f"{split}/class {key % 100}/{key:08}.jpg", 100_000 + key, f"{key:032x}")
            for key in range(number, number + 1000)
        ]
splits = {"train": "train", "validation": "valid", "test": "test"}
with Manifest(None) as manifest:
    dataset.look_at_listing(manifest, pages(list(splits.values())), splits, "s3://b/p")
    changed = manifest.compare(pages(list(splits)))
    assert changed.files == 0, changed
    manifest.version(), manifest.duplicates()
print(json.dumps({"peak_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))
"""


def run() -> dict[str, Any]:
    _install_aws()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stack = Stack(folder / "var")
        cloud = stack.cloud()
        try:
            bench = Bench(folder, cloud)
            cold, noop = bench.race()
            memory = {str(files): bench.memory(files) for files in MEMORY_FILES}
        finally:
            stack.down()
    million = _million()
    seconds = {
        what: {way: median(times) for way, times in ways.items()}
        for what, ways in (("cold", cold), ("noop", noop))
    }
    ratio = seconds["noop"]["aws"] / seconds["noop"]["ours"]
    peaks = [kinds[kind] for kinds in memory.values() for kind in ("cold_mib", "noop_mib")]
    return {
        "figures": {
            "noop_seconds": {way: round(value, 2) for way, value in seconds["noop"].items()},
            "noop_ratio": round(ratio, 1),
            "noop_ratio_in_a_task": round(seconds["noop"]["aws"] / seconds["noop"]["ours_in_a_task"], 1),
            "cold_seconds": {way: round(value, 1) for way, value in seconds["cold"].items()},
            "cold_files_per_second": {way: round(FILES / value) for way, value in seconds["cold"].items()},
            "peak_memory": memory,
            "million_objects": million,
        },
        "conditions": conditions(
            "botocore",
            awscli=_aws_version(), files=FILES, cold_rounds=COLD_ROUNDS, noop_rounds=NOOP_ROUNDS,
        ),
        "ok": seconds["noop"]["ours"] <= NOOP_LIMIT_S
        and ratio >= RATIO
        and seconds["cold"]["ours"] <= seconds["cold"]["aws"]
        and max(peaks[2:]) <= GROWTH * max(peaks[2:4])
        and million["peak_mib"] <= GROWTH * max(peaks[2:4]),
    }  # fmt: skip


class Bench:
    """The files, the buckets, and one process for each sync."""

    def __init__(self, folder: Path, cloud: Cloud) -> None:
        self._folder = folder
        self._s3 = cloud.client("s3")
        # No settings of this machine's user: neither profiles nor other endpoints.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        self._environment = kept | {
            "AWS_ENDPOINT_URL": cloud.aws,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "PYTHONPATH": str(REPOSITORY / "plugins"),
        }
        self._environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def race(self) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
        """Seconds of the first syncs and of those with nothing to do, for each way."""
        source = self._files(FILES)
        cold: dict[str, list[float]] = {"ours": [], "aws": []}
        noop: dict[str, list[float]] = {"ours": [], "aws": [], "ours_in_a_task": []}
        for turn in range(COLD_ROUNDS):
            for way in cold:
                cold[way].append(self._timed(way, source, f"cold-{way}-{turn}"))
                print(f"first sync {turn}, {way}: {cold[way][-1]:.1f} s", file=sys.stderr, flush=True)
        for turn in range(NOOP_ROUNDS):
            for way in cold:
                noop[way].append(self._timed(way, source, f"cold-{way}-0"))
                print(f"nothing to do {turn}, {way}: {noop[way][-1]:.2f} s", file=sys.stderr, flush=True)
            noop["ours_in_a_task"].append(self._said["seconds"])
        shutil.rmtree(source)
        return cold, noop

    def memory(self, files: int) -> dict[str, float]:
        """MiB at the peak of a first sync, and of one with nothing to do."""
        source, bucket = self._files(files), f"memory-{files}"
        self._make(bucket)
        first, second = self._ours(source, bucket), self._ours(source, bucket)
        assert (first["sent"], second["sent"]) == (files, 0)
        shutil.rmtree(source)
        peaks = {
            "cold_mib": round(first["peak_kib"] / 1024, 1),
            "noop_mib": round(second["peak_kib"] / 1024, 1),
        }
        print(f"memory of {files} files: {peaks}", file=sys.stderr, flush=True)
        return peaks

    def _timed(self, way: str, source: Path, bucket: str) -> float:
        self._make(bucket)
        started = time.perf_counter()
        if way == "ours":
            self._ours(source, bucket)
        else:
            self._aws(source, bucket)
        return time.perf_counter() - started

    def _make(self, bucket: str) -> None:
        if bucket not in {item["Name"] for item in self._s3.list_buckets()["Buckets"]}:
            self._s3.create_bucket(Bucket=bucket)

    def _ours(self, source: Path, bucket: str) -> dict[str, Any]:
        facts = self._folder / f"{bucket}.sqlite"
        command = [sys.executable, "-c", OURS, json.dumps(SPLITS), str(source), bucket, str(facts)]
        said: dict[str, Any] = json.loads(self._run(command))
        self._said = said
        return said

    def _aws(self, source: Path, bucket: str) -> None:
        self._run([str(AWS), "s3", "sync", str(source), f"s3://{bucket}/pets", "--only-show-errors"])

    def _run(self, command: list[str]) -> str:
        return subprocess.run(
            command, env=self._environment, check=True, capture_output=True, text=True
        ).stdout

    def _files(self, files: int) -> Path:
        """Files of 1.5 KB, 80 % in train, in 10 classes."""
        root = self._folder / f"files-{files}"
        random_bytes = random.Random(files).randbytes  # ruff: ignore[suspicious-non-cryptographic-random-usage]
        for split in SPLITS.values():
            for label in range(10):
                (root / split / f"class {label}").mkdir(parents=True)
        names = ["train"] * 8 + ["valid", "test"]
        for number in range(files):
            path = root / names[number % 10] / f"class {number // 10 % 10}" / f"{number:06}.jpg"
            path.write_bytes(b"\xff\xd8\xff\xe0" + random_bytes(1500))
        # Until their times are old enough to be trusted.
        time.sleep(2)
        return root


def _million() -> dict[str, float]:
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", MILLION],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "plugins")}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    peak = json.loads(done.stdout)["peak_kib"]
    return {"peak_mib": round(peak / 1024, 1), "seconds": round(time.perf_counter() - started, 1)}


def _install_aws() -> None:
    if not AWS.exists():
        python = AWS.with_name("python")
        subprocess.run(
            [uv(), "venv", "-q", "--allow-existing", "--python", sys.executable, AWS.parents[1]], check=True
        )
        subprocess.run(
            [uv(), "pip", "install", "-q", "--compile-bytecode", "--python", python, "awscli"], check=True
        )


def _aws_version() -> str:
    said = subprocess.run([AWS, "--version"], check=True, capture_output=True, text=True).stdout
    return said.split()[0].partition("/")[2]
