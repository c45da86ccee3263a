"""What the DAG file costs the DAG processor, which imports it again and again.

    make bench NAME=dag-import

About 60 s on 2 cores. Three fresh processes take turns: `import airflow.sdk` alone; the DAG file on top of it; and
the DAG file with the sagemaker SDK at the top, as AWS's examples have it. The figures are medians of the seconds on
top of `import airflow.sdk`.
"""

import os
import subprocess
import sys
import tempfile
from statistics import median
from typing import Any

from scripts.bench import conditions
from scripts.local_stack import REPOSITORY

ROUNDS = 7
LIMIT_SECONDS = 0.5
WAYS = {
    "ours": "import retrain",
    "naive": "import sagemaker.core.image_uris, sagemaker.core.debugger, retrain",
}
PROGRAM = """
import sys, time
import airflow.sdk
sys.path[:0] = ["dags", "plugins"]
wall, cpu = time.perf_counter(), time.process_time()
{imports}
print(time.perf_counter() - wall, time.process_time() - cpu)
"""


def run() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "AIRFLOW_HOME": home, "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
        times: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for turn in range(ROUNDS + 1):
            for way, imports in WAYS.items():
                done = subprocess.run(
                    [sys.executable, "-c", PROGRAM.format(imports=imports)],
                    cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True,
                )  # fmt: skip
                wall, cpu = map(float, done.stdout.splitlines()[-1].split())
                print(f"round {turn} {way}: {wall:.2f} s wall, {cpu:.2f} s CPU", file=sys.stderr)
                # The first round fills the page cache and writes the .pyc files.
                if turn:
                    times[way].append((wall, cpu))
    ours, naive = (median(wall for wall, _ in times[way]) for way in WAYS)
    return {
        "figures": {
            "seconds": round(ours, 3),
            "cpu_seconds": round(median(cpu for _, cpu in times["ours"]), 3),
            "naive_seconds": round(naive, 3),
            "ratio": round(naive / ours, 1),
        },
        "conditions": conditions("apache-airflow", "sagemaker", rounds=ROUNDS),
        "ok": ours <= LIMIT_SECONDS,
    }
