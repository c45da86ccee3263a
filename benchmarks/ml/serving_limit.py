"""What decoding and a forward pass take by themselves, in the server's own functions and backends.

    PYTHONPATH=.:ml_code python -m benchmarks.ml.serving_limit MODEL IMAGE

For every line on stdin one of JSON on stdout: backend, decode_cpu_ms, forward_cpu_ms (of an image, with one thread,
the lower of batches of 1 and of 8: the least that the machine can do it for), forward_ms (by the clock, one image, all
threads).
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import inference
import torch

from serving.backends import choose
from serving.settings import Settings

REPEATS = 7


def main(model_dir: str, image: str) -> None:
    content, threads = Path(image).read_bytes(), torch.get_num_threads()
    model = inference.model_fn(model_dir)
    crop = inference.decode_fn(content, model)
    names = Settings.backends
    example = model.preprocessing.normalize(crop[None])
    choice = choose(model.network, example, names, Path(model_dir), (1, threads))
    model = dataclasses.replace(model, network=choice.backend)  # type: ignore[arg-type]  # it is called, no more

    def forward(images: int) -> Any:
        return inference.forward_fn(crop[None].expand(images, -1, -1, -1), model)

    for _ in sys.stdin:
        torch.set_num_threads(threads)
        wide = _median(time.perf_counter, lambda: forward(1))
        torch.set_num_threads(1)
        said = {
            "backend": choice.name,
            "decode_cpu_ms": _median(time.process_time, lambda: inference.decode_fn(content, model)),
            "forward_cpu_ms": min(
                _median(time.process_time, lambda number=number: forward(number)) / number  # type: ignore[misc]
                for number in (1, 8)
            ),
            "forward_ms": wide,
        }
        print(json.dumps(said), flush=True)


def _median(clock: Callable[[], float], what: Callable[[], Any]) -> float:
    what()
    took = []
    for _ in range(REPEATS):
        started = clock()
        what()
        took.append(1000 * (clock() - started))
    return median(took)


if __name__ == "__main__":
    main(*sys.argv[1:])
