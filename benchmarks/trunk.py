"""Ways to decode a photograph and to run a frozen ResNet over it: what each costs, and what it changes.

    make bench NAME=trunk

About 4 minutes on 2 cores; the first time it fetches ONNX Runtime into a folder of its own. Processor milliseconds an
image, medians over rounds in which the ways take turns. `difference` is against the first way: for decoding the mean
difference of a pixel in grey levels, for the network the smallest cosine between its features and eager float32's. A
GPU, where there is one, has its ways too, by the clock.

What features.py does is marked `ours`. It decodes with Pillow, a JPEG at the smallest scale that leaves twice the
pixels that are kept (draft mode): twelve megapixels take a quarter of the time, and no pixel differs by more than 5
grey levels; torchvision's decoder is twice as fast at 500 x 400, which is a thirtieth of what a ResNet18 takes. The
network runs with batch norms folded and channels last: the faster engines are within a tenth of it, and would be one
more dependency of the training image, or compile for longer than a small dataset takes.
"""

import json
import os
import subprocess
from typing import Any

from scripts.bench import conditions, uv
from scripts.local_stack import REPOSITORY

ML = REPOSITORY / "var/venv/ml/bin/python"
ONNX = REPOSITORY / "var/venv/onnx"


def run() -> dict[str, Any]:
    if not ONNX.exists():
        subprocess.run(
            [uv(), "pip", "install", "-q", "--python", str(ML), "--target", str(ONNX), "onnxruntime", "onnx"],
            check=True,
        )
    path = ":".join(map(str, (REPOSITORY, REPOSITORY / "ml_code", ONNX)))
    command = [str(ML), "-W", "ignore", "-m", "benchmarks.ml.trunk"]
    said = subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": path, "OMP_WAIT_POLICY": "PASSIVE"},
        check=True, stdout=subprocess.PIPE, text=True,
    ).stdout  # fmt: skip
    figures = json.loads(said)
    cosines = [way["difference"] for of in figures["network"].values() for way in of.values()]
    return {
        "figures": figures,
        "conditions": conditions("boto3", batch=32, rounds=5),
        "ok": all(of["ours"]["ms"] < of["eager"]["ms"] for of in figures["network"].values())
        and min(cosines) > 0.999,
    }
