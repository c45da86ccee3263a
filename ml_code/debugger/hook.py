"""smdebug's hook around a training loop that must survive it."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from smdebug import modes
from smdebug.pytorch.hook import Hook
from smdebug.pytorch.singleton_utils import del_hook
from torch import Tensor, nn

END_OF_JOB = "training_job_end.ts"


class TensorHook(Hook):  # type: ignore[misc]  # smdebug has no types
    """smdebug's hook, of which every call from within a forward or backward pass is guarded.

    With its default configuration smdebug swallows its own errors, with any other it raises them into the
    training (core/error_handling_agent.py). Here the first error is printed and kept in `errors`, saving stops,
    and the training goes on.
    """

    errors: list[str]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.errors = []
        super().__init__(*arguments, **named)

    def has_default_configuration(self) -> bool:
        """False, so that errors reach `_guard` and are not logged out of sight."""
        return False

    def forward_pre_hook(self, module: nn.Module, inputs: Any) -> None:
        self._guard(super().forward_pre_hook, module, inputs)

    def forward_hook(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        self._guard(super().forward_hook, module, inputs, outputs)

    def fhook(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        self._guard(super().fhook, module, inputs, outputs)

    def backward_hook(self, tname: str) -> Any:
        save = super().backward_hook(tname)

        def back(grad: Tensor) -> None:
            self._guard(save, grad)

        return back

    @staticmethod
    def _make_numpy_array(tensor_value: Any) -> Any:
        """numpy has no bfloat16, which is what mixed precision computes activations in."""
        if isinstance(tensor_value, Tensor) and tensor_value.dtype == torch.bfloat16:
            tensor_value = tensor_value.float()
        return Hook._make_numpy_array(tensor_value)

    def phase(self, mode: str) -> None:
        """`TRAIN` or `EVAL`: what the next forward passes belong to."""
        self._guard(self.set_mode, getattr(modes, mode))

    def go_on_after(self, training_steps: int, evaluation_steps: int) -> None:
        """Number the next steps as if so many had been seen: those of a training before its interruption."""
        self.mode_steps[modes.TRAIN] = training_steps - 1
        self.mode_steps[modes.EVAL] = evaluation_steps - 1
        self.step = self.mode_steps[modes.GLOBAL] = training_steps + evaluation_steps - 1

    def finish(self) -> None:
        """Writes out what is pending, and the mark by which readers know that no more will come.

        smdebug leaves the mark to the platform where TRAINING_JOB_NAME is set, and only platforms that run
        Debugger write it.
        """
        self._guard(self.close)
        mark = Path(self.out_dir) / END_OF_JOB
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        del_hook()

    def _guard(self, action: Any, *arguments: Any) -> None:
        if self.errors:
            return
        try:
            action(*arguments)
        except Exception as error:  # smdebug's own types and those of all it calls
            self.errors.append(describe(error))
            print(f"debugger hook stopped, training goes on: {self.errors[0]}", flush=True)


def create(config: dict[str, Any], out_dir: Path, module: nn.Module, *criteria: nn.Module) -> TensorHook:
    """The hook of SageMaker's `DebugHookConfig`, registered on `module` and on losses of `torch.nn`.

    Tensors are saved below `out_dir`, which must not exist yet. Names are smdebug's: `Tail_fc.weight`,
    `gradient/Tail_fc.weight`, `CrossEntropyLoss_output_0`, …

    :raises Exception: when the configuration is wrong; the caller decides what that is worth.
    """
    for layer in module.modules():
        if getattr(layer, "inplace", False):
            # smdebug looks after the forward pass, and an in-place ReLU has overwritten its input by then.
            layer.inplace = False  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "debughookconfig.json"
        file.write_text(json.dumps(config | {"LocalPath": str(out_dir)}))
        # smdebug would look through the job's checkpoints at every step and count on from where it saw one change,
        # which is not where the training goes on.
        os.environ["CHECKPOINT_CONFIG_FILE_PATH"] = ""
        hook = TensorHook.create_from_json_file(str(file))
    assert isinstance(hook, TensorHook)
    hook.register_module(module)
    for criterion in criteria:
        hook.register_loss(criterion)
    return hook


def describe(error: BaseException) -> str:
    """`TypeError: unsupported …`, one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
