"""The ways that `make bench NAME=trunk` compares, measured; prints JSON.

PYTHONPATH=.:ml_code var/venv/ml/bin/python -m benchmarks.ml.trunk
"""

import importlib.util
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor
from torch.nn.functional import cosine_similarity
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional

from data.decoding import decode
from data.preprocessing import Preprocessing
from model import architectures, weights
from model.extraction import Forward

SIZES = {"500x400": (500, 400), "4000x3000": (4000, 3000)}
ARCHITECTURES = ("resnet18", "resnet50")
BATCH, ROUNDS, DECODES = 32, 5, 8

Ways = dict[str, Callable[[], Any]]


def measure() -> dict[str, Any]:
    figures: dict[str, Any] = {
        "decode": {name: _decoding(size) for name, size in SIZES.items()},
        "network": {arch: _network(arch, "cpu") for arch in ARCHITECTURES},
    }
    if torch.cuda.is_available():
        figures["network_gpu"] = {arch: _network(arch, "cuda") for arch in ARCHITECTURES}
    return figures


def _decoding(size: tuple[int, int]) -> dict[str, dict[str, float]]:
    file, preprocessing = io.BytesIO(), Preprocessing(224, 256)
    Image.fromarray(load_sample_image("china.jpg")).resize(size).save(file, "JPEG", quality=90)
    content = file.getvalue()

    def torchvision_io() -> Any:
        pixels = decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), mode=ImageReadMode.RGB)
        return functional.center_crop(functional.resize(pixels, [256], antialias=True), [224, 224])

    ways: Ways = {
        "whole": lambda: preprocessing.crop(decode(content)),
        "ours": lambda: preprocessing.crop(content),
        "half": lambda: preprocessing.crop(decode(content, 256)),
        "torchvision_io": torchvision_io,
    }
    whole = ways["whole"]().float()
    took = _in_turn({name: partial(_repeat, way) for name, way in ways.items()}, "cpu")
    return {
        name: {"ms": took[name] / DECODES, "difference": float((way().float() - whole).abs().mean())}
        for name, way in ways.items()
    }


def _repeat(way: Callable[[], Any]) -> None:
    for _ in range(DECODES):
        way()


def _network(arch: str, device: str) -> dict[str, dict[str, float]]:
    torch.set_num_threads(1)
    trunk, _ = architectures.split(weights.backbone(arch, "none", 0), arch, "fc")
    trunk = trunk.eval().to(device)
    preprocessing = Preprocessing(224, 256)
    views = torch.randint(
        256, (BATCH, 1, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    ours = Forward(trunk, preprocessing, torch.device(device))
    compiled = torch.compile(ours.trunk)

    def images() -> Tensor:
        return preprocessing.normalize(views[:, 0].to(device))

    def eager() -> Any:
        with torch.inference_mode():
            return trunk(images())

    def with_compile() -> Any:
        with torch.inference_mode():
            return compiled(images().to(memory_format=torch.channels_last))

    ways: Ways = {"eager": eager, "ours": lambda: ours(views)[:, 0], "compile": with_compile}
    if device == "cpu" and importlib.util.find_spec("onnxruntime"):
        ways["onnxruntime"] = _onnxruntime(trunk, images)
    expected = eager().cpu()
    took = _in_turn(ways, device)
    return {
        name: {
            "ms": took[name] / BATCH,
            "difference": float(cosine_similarity(way().float().cpu(), expected).min()),
        }
        for name, way in ways.items()
    }


def _onnxruntime(trunk: Any, images: Callable[[], Tensor]) -> Callable[[], Any]:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/trunk.onnx"
        torch.onnx.export(trunk, (images(),), file, dynamo=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: torch.from_numpy(session.run(None, {name: images().numpy()})[0])


def _in_turn(ways: Ways, device: str) -> dict[str, float]:
    """Milliseconds of each, medians; of the processor, or by the clock for a GPU, which is waited for."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    took: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(ROUNDS + 1):
        for name, way in ways.items():
            started = clock()
            way()
            if device == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first round warms up
                took[name].append(1000 * (clock() - started))
    return {name: median(times) for name, times in took.items()}


if __name__ == "__main__":
    json.dump(measure(), sys.stdout)
