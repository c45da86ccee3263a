"""10,000 malformed requests and 100,000 good ones, mixed, against our server: nothing but 4xx, and flat memory.

    make bench NAME=malformed

About 6 minutes on 2 cores. A ResNet18 at 32 pixels. A tenth of all goes out first, so that what is allocated once is
there. What the bodies are: benchmarks/ml/malformed.py.
"""

import json
import os
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from benchmarks.servers.ways import ML, ml_path, ours
from scripts.bench import conditions
from scripts.local_stack import REPOSITORY

MALFORMED, GOOD = 10_000, 100_000
MIB = 1 << 20


def run() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {**os.environ, "PYTHONPATH": ml_path()}

        def ml(*arguments: str) -> str:
            command = [str(ML), "-W", "ignore", "-m", *arguments]
            done = subprocess.run(
                command, cwd=REPOSITORY, env=environment, check=True, stdout=subprocess.PIPE, text=True
            )
            return done.stdout

        ml("benchmarks.ml.serving_model", "resnet18", str(folder / "model"), "32")
        ml("benchmarks.ml.photographs", str(folder / "photographs"), "0", "0", "8")
        image = str(next((folder / "photographs").rglob("*.jpg")))
        with ours(folder / "model", "float32", folder) as server:
            address = server.url.removeprefix("http://").partition("/")[0]
            process = psutil.Process(server.pid)
            ml("benchmarks.ml.malformed", address, image, str(MALFORMED // 10), str(GOOD // 10))
            before = process.memory_info().rss
            said = json.loads(ml("benchmarks.ml.malformed", address, image, str(MALFORMED), str(GOOD)))
            after = process.memory_info().rss
            healthy = server.healthy()
    statuses: Counter[str] = Counter()
    for key, count in said.items():
        statuses[key.partition(" ")[2]] += count
    growth = after / before - 1
    return {
        "figures": {
            "requests": sum(said.values()),
            "statuses": dict(sorted(statuses.items())),
            "by_kind": said,
            "memory_mib": [round(before / MIB, 1), round(after / MIB, 1)],
            "growth": round(growth, 4),
            "healthy": healthy,
        },
        "conditions": conditions(),
        "ok": healthy
        and growth <= 0.05
        and said["good 200"] == GOOD
        and not any(status.startswith("5") for status in statuses),
    }
