"""The part of botocore's service model that the service needs, kept as a file.

    python -m local_sagemaker.api.shapes SERVICE FILE OPERATION…

The full model of SageMaker is some 100 MB of Python objects, and a process does not give back what they leave of
its heap; so a process of its own reduces it, and the service and its later starts read the result.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import botocore
from botocore.loaders import Loader
from botocore.model import ServiceModel


def load(service: str, operations: frozenset[str], folder: Path) -> tuple[ServiceModel, frozenset[str]]:
    """The model reduced to some operations, and the names of all operations that the service has on AWS.

    Kept in a folder under botocore's version and the operations; what was kept for others is removed.
    """
    made_of = [botocore.__version__, sorted(operations), Path(__file__).read_text()]
    key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]
    file = folder / f"{service}-{key}.json"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f"{service}-????????????????.json"):
            old.unlink()
        subprocess.run(
            [sys.executable, "-m", __name__, service, file, *sorted(operations)],
            cwd=Path(__file__).parents[2],
            check=True,
        )
    content = json.loads(file.read_bytes())
    return ServiceModel(content["model"], service), frozenset(content["known"])


def _main(service: str, file: Path, operations: list[str]) -> None:
    full = Loader().load_service_model(service, "service-2")
    content = {"known": sorted(full["operations"]), "model": _reduced(full, operations)}
    unfinished = file.with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps(content))
    unfinished.replace(file)


def _reduced(full: dict[str, Any], operations: list[str]) -> dict[str, Any]:
    """Some operations and the shapes that they reach, without documentation and errors."""
    shapes: dict[str, Any] = {}

    def reach(name: str) -> None:
        if name in shapes:
            return
        shape = {key: value for key, value in full["shapes"][name].items() if key != "documentation"}
        shapes[name] = shape
        references = [
            *shape.get("members", {}).values(),
            shape.get("member"),
            shape.get("key"),
            shape.get("value"),
        ]
        for reference in references:
            if isinstance(reference, dict):
                reference.pop("documentation", None)
                reach(reference["shape"])

    kept = {}
    for name in operations:
        described = full["operations"][name]
        kept[name] = {key: described[key] for key in described.keys() & {"name", "http", "input", "output"}}
        for side in kept[name].keys() & {"input", "output"}:
            kept[name][side] = {"shape": kept[name][side]["shape"]}
            reach(kept[name][side]["shape"])
    return {"metadata": full["metadata"], "operations": kept, "shapes": shapes}


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
