"""Syncing 10,000 small files to the local S3, against `aws s3 sync`; and the memory at 1,000 to 1,000,000 files.

    make bench NAME=sync

About 9 minutes on 2 cores, half of it for 100,000 files. Two tasks take turns at the same local S3, each in a fresh
process, each into a bucket of its own: our operator, and a BashOperator that runs AWS's command line (installed below
`var/venv`): a first sync, then syncs with nothing to do; medians. What is timed is what the task takes once it runs:
the operator's `execute`, hook, connection and client included. `as_processes` is the same work without Airflow against
the command line by itself, Python's start and imports included on both sides; no bound is on it. The memory is the
peak of such a process's resident pages: first sync and nothing to do for up to 100,000 files, and a listing of
1,000,000 objects compared with an equal one without any S3.
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
TASK = """
import json, sys, time, warnings
from collections import defaultdict
from types import SimpleNamespace
# An operator run without Airflow's task runner says so.
warnings.simplefilter("ignore")
import retrain
from airflow.providers.standard.operators.bash import BashOperator
from evergreen.plan import Plan
from evergreen.settings import validate
way, bucket, source, aws = sys.argv[1:]
if way == "ours":
    plan = Plan(
        dag_id="retrain_pets", run_id="r", run_type="manual", started_at="", pipeline_name="pets",
        pipeline=validate({"dataset": {"source": source}}, "x.yaml"), bucket=bucket, role="r",
        training_image="i", inference_image="i",
    )
    instance = SimpleNamespace(xcom_pull=lambda task_ids: plan.to_xcom())
    context = {"ti": instance, "outlet_events": defaultdict(SimpleNamespace)}
    operator = retrain.SyncDatasetOperator(task_id="sync_dataset")
else:
    context = {"ti": SimpleNamespace()}
    command = f"{aws} s3 sync {source} s3://{bucket}/pets --only-show-errors"
    operator = BashOperator(task_id="sync_dataset", bash_command=command, append_env=True)
started = time.perf_counter()
result = operator.execute(context)
seconds = time.perf_counter() - started
print(json.dumps({"seconds": seconds, "sent": result["sent"] if way == "ours" else None}))
"""
# The S3 client is botocore's, which is boto3's without boto3's own import.
OURS = """
import json, os, resource, sys
from pathlib import Path
import botocore.session
from evergreen.transfer import CLIENT_CONFIG, Sync
splits, source, bucket, facts = json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
client = botocore.session.get_session().create_client("s3", config=CLIENT_CONFIG)
with Sync(client, source, splits, bucket, "pets", facts) as sync:
    sync.look()
    sent = sync.send()
    sync.publish(anew=sent > 0)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"sent": sent, "peak_kib": peak}), flush=True)
# As the process of a task ends, without taking the interpreter apart.
os._exit(0)
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
            bench = Bench(folder, cloud, stack.airflow_environment(cloud))
            cold, noop, processes = bench.race()
            memory = {str(files): bench.memory(files) for files in MEMORY_FILES}
        finally:
            stack.down()
    million = _million()
    seconds = {
        what: {way: median(times) for way, times in ways.items()}
        for what, ways in (("cold", cold), ("noop", noop), ("processes", processes))
    }
    ratio = seconds["noop"]["aws"] / seconds["noop"]["ours"]
    peaks = [kinds[kind] for kinds in memory.values() for kind in ("cold_mib", "noop_mib")]
    return {
        "figures": {
            "noop_seconds": {way: round(value, 2) for way, value in seconds["noop"].items()},
            "noop_ratio": round(ratio, 1),
            "noop_seconds_as_processes": {
                way: round(value, 2) for way, value in seconds["processes"].items()
            },
            "noop_ratio_as_processes": round(seconds["processes"]["aws"] / seconds["processes"]["ours"], 1),
            "cold_seconds": {way: round(value, 1) for way, value in seconds["cold"].items()},
            "cold_files_per_second": {way: round(FILES / value) for way, value in seconds["cold"].items()},
            "peak_memory": memory,
            "million_objects": million,
        },
        "conditions": conditions(
            "apache-airflow", "botocore",
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

    def __init__(self, folder: Path, cloud: Cloud, airflow: dict[str, str]) -> None:
        self._folder = folder
        self._s3 = cloud.client("s3")
        # No settings of this machine's user: neither profiles nor other endpoints.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        common = {
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self._environment = kept | common | {
            "AWS_ENDPOINT_URL": cloud.aws,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "PYTHONPATH": str(REPOSITORY / "plugins"),
        }  # fmt: skip
        self._environment.pop("PYTHONDONTWRITEBYTECODE", None)
        paths = os.pathsep.join(str(REPOSITORY / name) for name in ("dags", "plugins"))
        self._airflow = airflow | common | {"PYTHONPATH": paths}

    def race(self) -> tuple[dict[str, list[float]], ...]:
        """Seconds of first syncs and of those with nothing to do, as tasks; and of the latter as processes."""
        source = self._files(FILES)
        cold: dict[str, list[float]] = {"ours": [], "aws": []}
        noop: dict[str, list[float]] = {"ours": [], "aws": []}
        processes: dict[str, list[float]] = {"ours": [], "aws": []}
        for turn in range(COLD_ROUNDS):
            for way in cold:
                cold[way].append(self._task(way, turn, source, sent=FILES))
                print(f"first sync {turn}, {way}: {cold[way][-1]:.1f} s", file=sys.stderr, flush=True)
        self._make("process")
        self._ours(source, "process")
        for turn in range(NOOP_ROUNDS):
            for way in noop:
                noop[way].append(self._task(way, 0, source, sent=0))
                print(f"nothing to do {turn}, {way}: {noop[way][-1]:.2f} s", file=sys.stderr, flush=True)
            for way in processes:
                started = time.perf_counter()
                if way == "ours":
                    self._ours(source, "process")
                else:
                    self._aws(source, _bucket("aws", 0))
                processes[way].append(time.perf_counter() - started)
        shutil.rmtree(source)
        return cold, noop, processes

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

    def _task(self, way: str, turn: int, source: Path, *, sent: int) -> float:
        """Seconds of one task's `execute`."""
        bucket = _bucket(way, turn)
        self._make(bucket)
        command = [sys.executable, "-c", TASK, way, bucket, str(source), str(AWS)]
        said = json.loads(self._run(command, self._airflow).splitlines()[-1])
        assert said["sent"] in {sent, None}, said
        return float(said["seconds"])

    def _make(self, bucket: str) -> None:
        if bucket not in {item["Name"] for item in self._s3.list_buckets()["Buckets"]}:
            self._s3.create_bucket(Bucket=bucket)

    def _ours(self, source: Path, bucket: str) -> dict[str, Any]:
        facts = self._folder / f"{bucket}.sqlite"
        command = [sys.executable, "-c", OURS, json.dumps(SPLITS), str(source), bucket, str(facts)]
        said: dict[str, Any] = json.loads(self._run(command, self._environment))
        return said

    def _aws(self, source: Path, bucket: str) -> None:
        command = [str(AWS), "s3", "sync", str(source), f"s3://{bucket}/pets", "--only-show-errors"]
        self._run(command, self._environment)

    def _run(self, command: list[str], environment: dict[str, str]) -> str:
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

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


def _bucket(way: str, turn: int) -> str:
    return f"{way}-{turn}"


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
