"""All that watches a training: the profiler, the debugger's hook, and the rules that may stop it."""

import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import packages

from model.distributed import Group
from model.extraction import device
from model.hyperparameters import Hyperparameters
from model.training import Trainer
from profiler import platform_config
from profiler.job import JobProfiler

if TYPE_CHECKING:
    from debugger.hook import TensorHook
    from debugger.stopping import StopRules


CODE = Path(__file__).resolve().parents[1]


class Watch:
    """For the length of a `with` block; `attach` when there is a trainer, `finish` when it has ended.

    Only the first process of a group is watched, and none of what watches is worth a training: what fails is
    printed and comes back from `finish`.

    :raises ValueError: when the profiler's interval is none, or a file of the platform's no JSON object.
    """

    def __init__(self, settings: Hyperparameters, output: Path, group: Group) -> None:
        self._settings, self._output, self._group = settings, output, group
        steps = settings.profiler_num_steps
        asked = (
            platform_config.profiling(output, settings.profiler_interval_ms, steps) if group.first else None
        )
        folder, interval = (asked.folder, asked.interval) if asked else (None, 0)
        self._profiler = JobProfiler(folder, interval, steps, device())
        self.clock = self._profiler.clock
        self._hook: TensorHook | None = None
        self._stop_rules: StopRules | None = None
        self._hook_errors: list[str] = []
        self._stopped_by: dict[str, str] | None = None

    def __enter__(self) -> Self:
        self._profiler.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._profiler.__exit__(kind, error, trace)

    def attach(self, trainer: Trainer, training_steps: int, evaluation_steps: int) -> None:
        """Before the first step; both numbers are those of steps before an interruption.

        :raises ValueError: when `stop-rules` names no rule, or there is nothing that it could look at.
        """
        if self._group.first:
            self._attach_hook(trainer)
            self._attach_rules()
        for numbered in (self._hook, self._profiler):
            if numbered:
                numbered.go_on_after(training_steps, evaluation_steps)
        if self._settings.stop_rules:
            trainer.should_stop = self._should_stop

    def finish(self) -> dict[str, Any]:
        """history.json's `hook_errors`, the profiler's with a prefix, and `stopped_by`."""
        if self._hook:
            self._hook.finish()
            self._hook_errors += self._hook.errors
        self._profiler.finish_steps()
        errors = [*self._hook_errors, *self._profiler.errors]
        return {"hook_errors": errors, "stopped_by": self._stopped_by}

    def _attach_hook(self, trainer: Trainer) -> None:
        try:
            out_dir = self._output / "debug-output"
            config = self._settings.debug_hook_config
            if config is None:
                asked = platform_config.debug_hook()
                if asked is None:
                    return
                config, out_dir = asked
            packages.install_bare(CODE)
            # smdebug would run parts of the platform's file as Python, and write a second timeline beside ours.
            os.environ["SMPROFILER_CONFIG_PATH"] = ""
            from debugger import hook as debugger  # smdebug takes most of a second: tuning jobs do without

            criteria = (trainer.criterion, trainer.validation_criterion)
            board = platform_config.tensorboard()
            self._hook = debugger.create(config, out_dir, trainer.tail, *criteria, tensorboard=board)
            trainer.on_phase = self._hook.phase
        except Exception as error:  # a training is worth more than its hook
            self._hook_errors.append(f"no debugger hook: {type(error).__name__}: {error}")
            print(self._hook_errors[-1], flush=True)

    def _attach_rules(self) -> None:
        if self._settings.stop_rules is None:
            return
        if self._hook:
            from debugger.stopping import StopRules

            self._stop_rules = StopRules(self._settings.stop_rules, self._hook)
        elif not self._hook_errors:
            raise ValueError("hyperparameter stop-rules needs saved tensors: give debug-hook-config too")

    def _should_stop(self) -> bool:
        self._stopped_by = self._group.from_first(self._stop_rules() if self._stop_rules else None)
        if not self._stopped_by:
            return False
        sentence = f"rule {self._stopped_by['rule']} found an issue: {self._stopped_by['detail'].rstrip('.')}"
        print(f"{sentence}; the training stops, as its action asks", flush=True)
        return True
