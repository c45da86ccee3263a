"""smdebug's hook around a training loop that must survive it."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from smdebug import modes
from smdebug.core.hook_utils import get_tensorboard_dir
from smdebug.pytorch.hook import Hook
from smdebug.pytorch.singleton_utils import del_hook
from torch import Tensor, nn

END_OF_JOB = "training_job_end.ts"
BATCH_COLLECTIONS = {"input_image": r"^input_image$", "predictions": r"^predictions$", "labels": r"^labels$"}
"""Collections for which the hook saves a tensor of the same name: the tail's input as it is, logits [B, C] and
labels [B]. A configured `include_regex` takes its place."""


class TensorHook(Hook):  # type: ignore[misc]  # smdebug has no types
    """smdebug's hook, of which every call from within a forward or backward pass is guarded.

    With its default configuration smdebug swallows its own errors, with any other it raises them into the
    training (core/error_handling_agent.py). Here the first error is printed and kept in `errors`, saving stops,
    and the training goes on.
    """

    errors: list[str]
    batch: dict[nn.Module, dict[str, int]]
    """Module to the names under which its inputs are saved, and which of them."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.errors, self.batch = [], {}
        super().__init__(*arguments, **named)

    def has_default_configuration(self) -> bool:
        """False, so that errors reach `_guard` and are not logged out of sight."""
        return False

    def forward_pre_hook(self, module: nn.Module, inputs: Any) -> None:
        self._guard(super().forward_pre_hook, module, inputs)

    def forward_hook(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        # Most steps save nothing, and a network has hundreds of modules. The hook before the network's forward pass
        # has found out which collections this step saves.
        if self._collections_to_save_for_step:
            self._guard(self._save, module, inputs, outputs)

    def _save(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        super().forward_hook(module, inputs, outputs)
        for name, index in self.batch.get(module, {}).items():
            self._save_for_tensor(name, inputs[index])

    def fhook(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        self._guard(super().fhook, module, inputs, outputs)

    def backward_hook(self, tname: str) -> Any:
        save = super().backward_hook(tname)

        def back(grad: Tensor) -> None:
            if self._collections_to_save_for_step:
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

    def flush(self) -> None:
        """Lets readers see the last step, which smdebug would write out when the next one begins."""
        self._guard(self._close_writers)

    def finish(self) -> None:
        """Writes out what is pending, and the mark by which readers know that no more will come.

        smdebug leaves the mark to the platform where TRAINING_JOB_NAME is set, and only platforms that run
        Debugger write it.
        """
        self._guard(self.close)
        try:
            mark = Path(self.out_dir) / END_OF_JOB
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        except OSError as error:
            self._stop(error)
        del_hook()

    def _guard(self, action: Any, *arguments: Any) -> None:
        if self.errors:
            return
        try:
            action(*arguments)
        except Exception as error:  # smdebug's own types and those of all it calls
            self._stop(error)

    def _stop(self, error: Exception) -> None:
        self.errors.append(describe(error))
        print(f"debugger hook stopped, training goes on: {self.errors[-1]}", flush=True)


def create(
    config: dict[str, Any],
    out_dir: Path,
    module: nn.Module,
    *criteria: nn.Module,
    tensorboard: Path | None = None,
) -> TensorHook:
    """The hook of SageMaker's `DebugHookConfig`, registered on `module` and on losses of `torch.nn`.

    Tensors are saved below `out_dir`. Names are smdebug's: `Tail_fc.weight`, `gradient/Tail_fc.weight`,
    `CrossEntropyLoss_output_0`, …; BATCH_COLLECTIONS has those that it does not have.

    :param tensorboard: for TensorBoard's event files, from SageMaker's `TensorBoardOutputConfig`. Without it
        `HookParameters` may ask for them: `export_tensorboard`, and `tensorboard_dir` where not below `out_dir`.
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
    hook.tensorboard_dir = str(tensorboard) if tensorboard else _tensorboard(config, out_dir)
    hook.register_module(module)
    for criterion in criteria:
        hook.register_loss(criterion)
    _save_batches(hook, module, criteria)
    return hook


def _tensorboard(config: dict[str, Any], out_dir: Path) -> str | None:
    """What smdebug makes of the parameters; in a job of SageMaker it goes by the platform's file alone."""
    parameters = config.get("HookParameters") or {}
    wanted = str(parameters.get("export_tensorboard", False)).lower() == "true"
    folder: str | None = get_tensorboard_dir(wanted, parameters.get("tensorboard_dir"), str(out_dir))
    return folder


def _save_batches(hook: TensorHook, module: nn.Module, criteria: tuple[nn.Module, ...]) -> None:
    """Lets the collections of BATCH_COLLECTIONS have their tensors, of those that the configuration names."""
    named = set()
    for name, pattern in BATCH_COLLECTIONS.items():
        if name in hook.include_collections and not (collection := hook.get_collection(name)).include_regex:
            collection.include(pattern)
            named.add(name)
    if "input_image" in named:
        hook.batch[module] = {"input_image": 0}
    given = {name: index for index, name in enumerate(("predictions", "labels")) if name in named}
    hook.batch |= dict.fromkeys(criteria, given)


def describe(error: BaseException) -> str:
    """`TypeError: unsupported …`, one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
