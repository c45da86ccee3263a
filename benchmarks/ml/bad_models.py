"""Model archives, good and bad in known ways, with the report's test images and answers; the last line is JSON.

PYTHONPATH=.:ml_code var/venv/ml/bin/python -m benchmarks.ml.bad_models FOLDER DIGITS

An archive is what a training job leaves: ResNet18, 64 pixels, weights drawn from a seed, and the code that serves it.
Each has beside it `assess/` as the assess job writes it, with the answers of the network as it was before the fault.
"""

import json
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import inference
import torch
from train import SERVED

from data.preprocessing import Preprocessing
from model import architectures
from model.artifact import MANIFEST, WEIGHTS, load_model, save_model
from model.network import Network, assemble

CODE = Path(inference.__file__).parent
CLASSES = [str(label) for label in range(10)]
IMAGES = 6
# Of a prediction that takes 20 ms to 30 ms.
SLOW_S = 0.3

RAISES = "def model_fn(model_dir):\n    raise RuntimeError('this model cannot be loaded')\n"
# As a kernel does that runs out of memory.
KILLED = "import os\n\ndef model_fn(model_dir):\n    os.kill(os.getpid(), 9)\n"
SLOW = f"""import time
from inference_before import predict_fn as quick

def predict_fn(images, model):
    time.sleep({SLOW_S})
    return quick(images, model)
"""

LATE_ERROR = """def predict_fn(images, model):
    raise RuntimeError('this model cannot answer')
"""
LATE_NAN = """import torch
from inference_before import predict_fn as right

def predict_fn(images, model):
    prediction = right(images, model)
    prediction.probabilities = torch.full_like(prediction.probabilities, float('nan'))
    return prediction
"""


def network(seed: int, classes: int = len(CLASSES)) -> Network:
    torch.manual_seed(seed)
    return assemble(architectures.build("resnet18"), "resnet18", "fc", classes).eval()


def write(folder: Path, made: Network, name: str) -> None:
    """The unpacked archive."""
    classes = CLASSES[: made.fc.out_features]
    manifest = {
        "arch": "resnet18",
        "tail": "fc",
        "classes": classes,
        "preprocessing": Preprocessing(64, 72).to_dict(),
        "job": name,
    }
    save_model(folder, made, manifest)
    for part in SERVED:
        source, target = CODE / part, folder / "code" / part
        target.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, target)


def replace_program(program: str) -> Callable[[Path], None]:
    def fault(folder: Path) -> None:
        own = folder / "code/inference.py"
        own.rename(own.with_name("inference_before.py"))
        own.write_text(program)

    return fault


def not_a_number(folder: Path) -> None:
    made = network(2)
    with torch.no_grad():
        made.fc.bias[3] = float("nan")
    manifest = json.loads((folder / MANIFEST).read_text())
    save_model(folder, made, {key: value for key, value in manifest.items() if key != "sha256"})


def other_classes(folder: Path) -> None:
    """A network of nine classes, in itself without a fault."""
    manifest = json.loads((folder / MANIFEST).read_text())
    save_model(folder, network(3, 9), {**manifest, "classes": CLASSES[:9]})


def missing_file(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def other_bytes(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS).write_bytes(content)


FAULTS: dict[str, Callable[[Path], None]] = {
    "raises": replace_program(RAISES),
    "raises-later": replace_program(LATE_ERROR),
    "nan": not_a_number,
    "nan-later": replace_program(LATE_NAN),
    "slow": replace_program(SLOW),
    "classes": other_classes,
    "missing": missing_file,
    "hash": other_bytes,
    "killed": replace_program(KILLED),
}


def answers(folder: Path, images: list[Path]) -> list[dict[str, Any]]:
    """smoke.json's rows."""
    model = load_model(folder)
    rows = []
    for number, image in enumerate(images):
        prediction = inference.predict_batch([image.read_bytes()], model)[0]
        probability, best = prediction.probabilities.max(dim=0)
        rows.append(
            {
                "file": f"{number}{image.suffix}",
                "label": image.parent.name,
                "prediction": model.classes[best],
                "probability": float(probability),
            }
        )
    return rows


def archive(
    folder: Path, name: str, seed: int, fault: Callable[[Path], None] | None, images: list[Path]
) -> str:
    """`folder`/NAME/model.tar.gz and assess/smoke/; the version that the archive's answers say."""
    place, unpacked = folder / name, folder / name / "unpacked"
    write(unpacked, network(seed), name)
    rows = answers(unpacked, images)
    smoke = place / "assess/smoke"
    smoke.mkdir(parents=True)
    for row, image in zip(rows, images, strict=True):
        shutil.copyfile(image, smoke / row["file"])
    (smoke / "smoke.json").write_text(json.dumps(rows))
    if fault:
        fault(unpacked)
    version: str = json.loads((unpacked / MANIFEST).read_text())["version"]
    with tarfile.open(place / "model.tar.gz", "w:gz", compresslevel=0) as tar:
        tar.add(unpacked, ".")
    shutil.rmtree(unpacked)
    return version


def main() -> None:
    folder, digits = Path(sys.argv[1]), Path(sys.argv[2])
    wanted = sys.argv[3:] or ["good", "better", *FAULTS]
    images = [sorted((digits / "test" / label).iterdir())[0] for label in CLASSES[:IMAGES]]
    versions = {
        name: archive(folder, name, 1 if name == "good" else 2, FAULTS.get(name), images) for name in wanted
    }
    print(json.dumps(versions))


if __name__ == "__main__":
    main()
