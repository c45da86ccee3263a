"""A network in 8-bit integers: a third of the time on processors with VNNI, if its accuracy allows it.

Static quantisation by ONNX Runtime: activations in uint8, weights in int8, one scale a channel. Weights use 7 of their
8 bits, since without VNNI two products may overflow 16 bits: the answers are the same on every processor.
https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.artifact import LoadedModel, sha256_of, write_json
from model.folding import fold_batch_norms
from serving.backends import INT8_MANIFEST, INT8_NETWORK, OnnxRuntime, export, installed

MOST_CALIBRATED, FEWEST_JUDGED, BATCH = 128, 50, 32
QUANTISED = ["Conv", "Relu", "Add", "MaxPool"]
"""The last layer stays in float32: it takes no time, and small differences of its inputs decide."""

Labelled = Sequence[tuple[Path, int]]


def quantize(model: LoadedModel, images: Labelled, folder: Path, max_accuracy_loss: float) -> dict[str, Any]:
    """Quantise a model, judge it, and write it where the server looks for it if it is good enough.

    Up to 128 of the images, evenly spread, calibrate the activations' ranges; the others judge. 20 s for a ResNet18
    and 500 images of 224 pixels on 2 cores.

    :param images: readable files of the validation split, each with the index of its class.
    :param folder: `int8` below the model archive's root; made only for an accepted network.
    :param max_accuracy_loss: how much accuracy the quantised network may lose, 0.01 being a percentage point.
    :return: accepted, reason, accuracy {float32, int8}, accuracy_loss, max_accuracy_loss, disagreements, images,
        calibration_images, sha256, model_sha256, bytes; what was not measured is None. Also `int8.json` in `folder`.
    """
    images = sorted(images)
    step = max(2, -(-len(images) // MOST_CALIBRATED))
    calibrating, judging = images[::step], [image for i, image in enumerate(images) if i % step]
    result: dict[str, Any] = {
        "accepted": False,
        "reason": "",
        "accuracy": None,
        "accuracy_loss": None,
        "max_accuracy_loss": max_accuracy_loss,
        "disagreements": None,
        "images": len(judging),
        "calibration_images": len(calibrating),
        "sha256": None,
        "model_sha256": model.manifest["sha256"],
        "bytes": None,
    }
    if len(judging) < FEWEST_JUDGED:
        return result | {
            "reason": f"not evaluated: {len(judging)} validation images are left to judge by, "
            f"{FEWEST_JUDGED} are the least"
        }
    quantised = _quantised(model, calibrating)
    network = OnnxRuntime(quantised, [torch.get_num_threads()])
    right = {"float32": 0, "int8": 0}
    disagreements = 0
    for batch, labels in _batches(model, judging):
        answers = {
            "float32": model.predict_proba(batch).argmax(1),
            "int8": network(batch.cpu()).argmax(1),
        }
        disagreements += int((answers["float32"] != answers["int8"]).sum())
        for name, answer in answers.items():
            right[name] += int((answer == labels).sum())
    accuracy = {name: count / len(judging) for name, count in right.items()}
    loss = accuracy["float32"] - accuracy["int8"]
    accepted = loss <= max_accuracy_loss
    result |= {
        "accepted": accepted,
        "reason": f"accuracy on {len(judging)} validation images is {accuracy['int8']:.4f} in int8 and "
        f"{accuracy['float32']:.4f} in float32: a loss of {loss:.4f}, "
        f"{'within' if accepted else 'above'} the bound of {max_accuracy_loss:g}",
        "accuracy": accuracy,
        "accuracy_loss": loss,
        "disagreements": disagreements,
        "bytes": len(quantised),
    }
    if accepted:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / INT8_NETWORK).write_bytes(quantised)
        result["sha256"] = sha256_of(folder / INT8_NETWORK)
        write_json(folder / INT8_MANIFEST, result)
    return result


def _quantised(model: LoadedModel, images: Labelled) -> bytes:
    installed("onnxruntime")
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # it has no types
        def __init__(self) -> None:
            self._batches = ({"images": batch.cpu().numpy()} for batch, _ in _batches(model, images))

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return next(self._batches, None)

    size = model.preprocessing.image_size
    with tempfile.TemporaryDirectory() as folder:
        exported, prepared, quantised = (Path(folder, name) for name in ("exported", "prepared", "quantised"))
        network = fold_batch_norms(model.network).cpu()
        exported.write_bytes(export(network, torch.zeros(1, 3, size, size)))
        # Without it most convolutions stay in float32, their weights unpacked at every call.
        quant_pre_process(str(exported), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared), str(quantised), Reader(), quant_format=quantization.QuantFormat.QDQ, per_channel=True,
            reduce_range=True, activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8, op_types_to_quantize=QUANTISED,
        )  # fmt: skip
        return quantised.read_bytes()


def _batches(model: LoadedModel, images: Labelled) -> Iterator[tuple[Tensor, Tensor]]:
    """Preprocessed float32 [N, 3, S, S] and labels int64 [N]."""
    for first in range(0, len(images), BATCH):
        some = images[first : first + BATCH]
        crops = torch.stack([model.preprocessing.crop(file.read_bytes()) for file, _ in some])
        yield model.preprocessing.normalize(crops), torch.tensor([label for _, label in some])
