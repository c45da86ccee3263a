"""A model archive that the benchmarks serve: 133 classes, random weights, SIZE pixels.

    PYTHONPATH=.:ml_code python -m benchmarks.ml.serving_model ARCH FOLDER SIZE [IMAGES]

With a folder of images it has an int8 network too, whatever its accuracy (a random network has none to lose): what is
printed, JSON, says how many of the images it answers otherwise.
"""

import json
import sys
from pathlib import Path

import torch

from data.preprocessing import Preprocessing
from model import architectures
from model.artifact import load_model, save_model
from model.network import assemble
from serving.backends import INT8
from serving.quantization import quantize

CLASSES = 133


def main(arch: str, folder: str, size: str, images: str = "") -> None:
    torch.manual_seed(0)
    network = assemble(architectures.build(arch), arch, "fc", CLASSES)
    manifest = {
        "arch": arch,
        "tail": "fc",
        "weights": "none",
        "classes": [f"class-{number:03}" for number in range(CLASSES)],
        "preprocessing": Preprocessing(int(size), int(size) * 8 // 7).to_dict(),
        "job": "benchmark",
    }
    save_model(Path(folder), network, manifest)
    if images:
        files = [(file, 0) for file in Path(images).rglob("*.jpg")]
        json.dump(quantize(load_model(Path(folder)), files, Path(folder, INT8), 1.0), sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
