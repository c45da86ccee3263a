"""What the debugger's hook and the profiler cost a training.

    make bench NAME=debugger-overhead

About 6 minutes on 2 cores. Processor time throughout, on one thread; the machine may be shared.

The hook, at the source documents' intervals (every 100th training step, every 10th of an evaluation; weights,
gradients, biases and losses) on a ResNet18 of 64 images of 224 pixels, all of it trained and with a frozen backbone.
A hooked network and an identical one without take turns. The overhead is computed: what a step that saves nothing
takes more, and a save's cost divided by the interval, over a step's time. Both costs are of some milliseconds and do
not depend on the size of a batch, which none of what is saved does, so they are medians over many small steps, where
they can be told from noise; `hooked_step_ms` beside `step_ms` shows how much noise there is at full size.

The sampler at 500 ms: processor time of a process that does nothing else, with and without in turn. The timeline and
torch.profiler: figures only.
"""

import json
import os
import subprocess
from typing import Any

from scripts.bench import conditions
from scripts.local_stack import REPOSITORY

ML = REPOSITORY / "var/venv/ml/bin/python"
HOOK_PERCENT, SAMPLER_PERCENT = 3, 1


def run() -> dict[str, Any]:
    path = ":".join(map(str, (REPOSITORY, REPOSITORY / "ml_code")))
    command = [str(ML), "-W", "ignore", "-m", "benchmarks.ml.debugger_overhead"]
    said = subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": path, "OMP_WAIT_POLICY": "PASSIVE"},
        check=True, stdout=subprocess.PIPE, text=True,
    ).stdout  # fmt: skip
    figures = _rounded(json.loads(said))
    return {
        "figures": figures,
        "conditions": conditions("boto3", batch=64, pixels=224, threads=1),
        "ok": all(of["overhead_percent"] <= HOOK_PERCENT for of in figures["hook"].values())
        and figures["sampler"]["percent_of_a_core"] <= SAMPLER_PERCENT,
    }


def _rounded(figures: Any) -> Any:
    if isinstance(figures, dict):
        return {name: _rounded(value) for name, value in figures.items()}
    return round(figures, 3)
