"""The program of a model archive: the functions of SageMaker's PyTorch serving contract, ours where it has none.

A program is `inference.py` (SAGEMAKER_PROGRAM) in the archive's code/ folder. It may define any of model_fn, input_fn,
predict_fn and output_fn, or transform_fn in place of the last three, each with a further parameter `context` or
without. What it lacks comes from the `inference.py` beside this package.
"""

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from serving.settings import Settings

Function = Callable[..., Any]
BESIDE = Path(__file__).resolve().parents[1]
FOUR = ("model_fn", "input_fn", "predict_fn", "output_fn")
BATCHED = ("decode_fn", "forward_fn")


class ProgramError(Exception):
    """The program cannot be served; the sentence says why."""


class Program:
    """`model_fn`, …: each takes what the contract says, whether the program's own wants a context or not."""

    model_fn: Function
    input_fn: Function
    predict_fn: Function
    output_fn: Function
    transform_fn: Function | None
    decode_fn: Function | None
    forward_fn: Function | None
    writes_at_once: bool
    """Whether output_fn came with decode_fn and forward_fn, and so does not wait."""

    def __init__(self, settings: Settings) -> None:
        """:raises ProgramError: when the program defines what excludes each other.
        :raises Exception: whatever importing the program raises.
        """
        module = load(settings)
        self.file = module.__file__
        context = SimpleNamespace(
            system_properties={"model_dir": str(settings.model_dir), "gpu_id": _gpu()}, manifest={}
        )
        own = {name for name in (*FOUR, "transform_fn", *BATCHED) if hasattr(module, name)}
        if "transform_fn" in own and own & {"input_fn", "predict_fn", "output_fn"}:
            raise ProgramError(
                f"{module.__file__} defines transform_fn together with {sorted(own & set(FOUR[1:]))}: "
                "transform_fn takes the place of the three"
            )
        self.transform_fn = _with_context(module.transform_fn, context) if "transform_fn" in own else None
        needed = {"model_fn"} if self.transform_fn else set(FOUR)
        # Not imported where nothing of it is needed: an older archive's packages may not be what it imports.
        default = module if needed <= own else _import(BESIDE / "inference.py", "serving_default_inference")
        sources = {name: module if name in own else default for name in FOUR}
        for name, source in sources.items():
            setattr(self, name, _with_context(getattr(source, name, None), context))
        # Who has a predict_fn of his own means it to be called; in its parts only where it has them.
        predicts = sources["predict_fn"]
        parts = [getattr(predicts, name, None) for name in BATCHED]
        self.decode_fn, self.forward_fn = [None, None] if self.transform_fn or None in parts else parts
        self.writes_at_once = self.decode_fn is not None and sources["output_fn"] is predicts


def load(settings: Settings) -> ModuleType:
    """The archive's own program, so that a model is served by the code that it was made with; else ours.

    :raises FileNotFoundError: naming the file that is missing.
    """
    for folder in (settings.code_dir, BESIDE):
        if (file := folder / settings.program).is_file():
            break
    else:
        raise FileNotFoundError(f"there is no {settings.program} in {settings.code_dir} or {BESIDE}")
    # The archive's own data/ and model/ packages, where it has them, are what both programs import.
    sys.path.insert(0, str(folder))
    return _import(file, file.stem)


def _import(file: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _with_context(function: Function | None, context: Any) -> Function | None:
    if function is None or "context" not in inspect.signature(function).parameters:
        return function
    return lambda *arguments: function(*arguments, context=context)


def _gpu() -> int | None:
    torch = sys.modules.get("torch")
    return 0 if torch is not None and torch.cuda.is_available() else None
