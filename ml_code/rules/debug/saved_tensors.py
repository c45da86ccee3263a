"""Reading what smdebug saved, through smdebug's own reader."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from smdebug import modes
from smdebug.core.access_layer.utils import END_OF_JOB_FILENAME
from smdebug.core.index_reader import LocalIndexReader
from smdebug.core.reductions import REDUCTIONS_PREFIX, reverse_reduction_tensor_name
from smdebug.exceptions import TensorUnavailableForStep
from smdebug.trials import create_trial

from rules.verdict import NotEvaluatedError

Mode = Literal["TRAIN", "EVAL", "PREDICT", "GLOBAL"]
Reduction = Literal["mean", "abs_mean", "variance"]
Array = npt.NDArray[np.floating[Any]]

_REDUCTIONS: dict[Reduction, Callable[[Array], np.floating[Any]]] = {
    "mean": np.mean,
    "abs_mean": lambda value: np.abs(value).mean(),
    "variance": np.var,
}

# smdebug's own pattern for losses, for outputs whose `losses` collection was renamed.
LOSS_REGEX = "[Ll]oss_(?!input).*output"


class Point(NamedTuple):
    """One saved scalar. `step` counts the steps of its mode, `global_step` those of all modes."""

    step: int
    global_step: int
    value: float


class Saved(NamedTuple):
    """One saved tensor. `step` counts the steps of its mode, `global_step` those of all modes."""

    mode: Mode
    step: int
    global_step: int
    value: Array


class EvaluationPass(NamedTuple):
    """The EVAL batches between two stretches of training, averaged.

    `step` is the mode-local step of the last saved batch, `train_steps` the number of training
    steps taken before the pass, `value` the mean loss of the pass's saved batches.
    """

    step: int
    train_steps: int
    value: float


class SavedTensors:
    """The tensors below one `debug-output` folder.

    TRAIN steps are those saved without any mode (GLOBAL) where the script never called `set_mode`. Where several
    workers saved a tensor, the first one's is read.

    Raises NotEvaluatedError when there are none: smdebug's own reader would wait for ever.
    """

    def __init__(self, debug_output: Path) -> None:
        if not any(debug_output.glob("collections/*/*_collections.json")):
            raise NotEvaluatedError(
                "the training job saved no tensors; turn the debugger hook on (debug-hook-config)"
            )
        self.folder = debug_output
        self._trial = create_trial(str(debug_output))
        # Looking for new files at every read is most of the reader's time; a running job's rules make a new one.
        self._trial.dynamic_refresh = False
        if not self._trial.tensor_names():
            raise NotEvaluatedError("the debugger hook was on, and no tensor has been saved yet")
        self._has_modes = any(self._trial.steps(mode=modes[name]) for name in ("TRAIN", "EVAL", "PREDICT"))

    def names(self, *, collection: str | None = None, regex: str | None = None) -> list[str]:
        """Sorted names of the saved tensors in a collection or matching a pattern; all of them without either."""
        if collection is not None and collection not in self._trial.collections():
            return []
        return sorted(self._trial.tensor_names(collection=collection, regex=regex))

    def select(self, collection_names: str | None, tensor_regex: str | None) -> list[str]:
        """AWS's `collection_names` and `tensor_regex`, comma-separated: the union of both, all tensors without."""
        if collection_names is None and tensor_regex is None:
            return self.names()
        chosen = {name for one in _split(collection_names) for name in self.names(collection=one)}
        chosen |= {name for one in _split(tensor_regex) for name in self.names(regex=one)}
        if not chosen:
            asked = " or ".join(
                f"{key} {value!r}"
                for key, value in (("collection_names", collection_names), ("tensor_regex", tensor_regex))
                if value is not None
            )
            raise NotEvaluatedError(
                f"no saved tensor is in {asked}; save such a collection (CollectionConfigurations, with "
                f"include_regex). There are {_some(self.names())}"
            )
        return sorted(chosen)

    def gradients(self) -> list[str]:
        """Names of gradient tensors, which exist for trainable parameters only."""
        return self.names(collection="gradients") or self.names(regex="^gradient")

    def losses(self, mode: Mode, names: Sequence[str] | None = None) -> dict[str, list[Point]]:
        """Saved losses of one mode by tensor name (scalars; means where a loss is not reduced)."""
        if names is None:
            names = self.names(collection="losses") or self.names(regex=LOSS_REGEX)
        series = {name: list(self._points(name, mode)) for name in names}
        return {name: points for name, points in series.items() if points}

    def modes_of(self, name: str) -> list[Mode]:
        """The modes that a tensor was saved in."""
        there: tuple[Mode, ...] = ("TRAIN", "EVAL", "PREDICT")
        return [mode for mode in there if self.steps(name, mode)]

    def steps(self, name: str, mode: Mode, before: int | None = None) -> list[int]:
        """The mode-local steps that a tensor was saved at, those < `before` when given."""
        steps = sorted(self._trial.tensor(name).steps(mode=self._mode(mode)))
        return [step for step in steps if before is None or step < before]

    def saved(self, name: str) -> Iterator[Saved]:
        """Every saved value of a tensor, in the order of training."""
        steps = [
            (self.global_step(mode, step), mode, step)
            for mode in self.modes_of(name)
            for step in self.steps(name, mode)
        ]
        for global_step, mode, step in sorted(steps):
            yield Saved(mode, step, global_step, self._value(name, mode, step))

    def values(self, name: str, mode: Mode, before: int | None = None) -> Iterator[tuple[int, Array]]:
        """Yield (mode-local step, array) of a tensor, for steps < `before` when given.

        Raises NotEvaluatedError for a tensor of which only reductions were saved.
        """
        for step in self.steps(name, mode, before):
            yield step, self._value(name, mode, step)

    def statistic(
        self, name: str, mode: Mode, reduction: Reduction, before: int | None = None
    ) -> Iterator[tuple[int, float]]:
        """Yield (mode-local step, one of smdebug's reductions), computed, or as saved where the tensor was not.

        Raises NotEvaluatedError where neither the tensor nor this reduction was saved.
        """
        for step in self.steps(name, mode, before):
            if (value := self._raw(name, mode, step)) is not None:
                yield step, float(_REDUCTIONS[reduction](value))
                continue
            try:
                saved = self._trial.tensor(name).reduction_value(
                    step,
                    reduction.removeprefix("abs_"),
                    mode=self._mode(mode),
                    abs=reduction.startswith("abs_"),
                )
            except TensorUnavailableForStep:
                raise NotEvaluatedError(
                    f"{name} was saved as reductions, {reduction} not among them; add it to the collection's "
                    "`reductions`, or leave them out to save the tensor itself"
                ) from None
            yield step, float(saved)

    def values_or_reductions(self, name: str) -> Iterator[tuple[Mode, int, int, Array]]:
        """Yield (mode, mode-local step, global step, array): the tensor, or what reductions were saved of it."""
        for mode in self.modes_of(name):
            for step in self.steps(name, mode):
                value = self._raw(name, mode, step)
                if value is None:
                    reductions = self._trial.tensor(name).reduction_values(step, mode=self._mode(mode))
                    value = np.array(list(reductions.values()), dtype=np.float64)
                yield mode, step, self.global_step(mode, step), value

    def order(self, global_step: int) -> list[str]:
        """The tensors saved at a step in the order in which they were: parameters, then the forward pass, then the
        backward pass."""
        # A reader of its own: smdebug's reads each index file once.
        reader = LocalIndexReader(str(self.folder))
        found, _ = reader.load_tensor_data_from_index_files(range_steps=(global_step, global_step + 1))
        return [
            reverse_reduction_tensor_name(name)[0] if name.startswith(REDUCTIONS_PREFIX) else name
            for name in found
        ]

    def global_step(self, mode: Mode, step: int) -> int:
        """The step counted over all modes."""
        return int(self._trial.global_step(self._mode(mode), step))

    def save_times(self) -> list[tuple[int, float]]:
        """(global step, seconds since 1970) of each event file, oldest first."""
        files = self.folder.glob("events/*/*.tfevents")
        return sorted(
            ((int(file.parent.name), file.stat().st_mtime) for file in files), key=lambda one: one[1]
        )

    def has_ended(self) -> bool:
        """Whether the job is over, as smdebug's hook or the platform marks it."""
        return (self.folder / str(END_OF_JOB_FILENAME)).exists()

    def _points(self, name: str, mode: Mode) -> Iterator[Point]:
        for step, value in self.statistic(name, mode, "mean"):
            yield Point(step, self.global_step(mode, step), value)

    def _value(self, name: str, mode: Mode, step: int) -> Array:
        value = self._raw(name, mode, step)
        if value is None:
            raise NotEvaluatedError(
                f"{name} was saved as reductions only, and the rule needs the tensor: leave `reductions` out of its "
                "collection, or give the script's ReductionConfig save_raw_tensor=True"
            )
        return value

    def _raw(self, name: str, mode: Mode, step: int) -> Array | None:
        try:
            value = self._trial.tensor(name).value(step, mode=self._mode(mode))
        except TensorUnavailableForStep as error:
            if not error.has_reductions:
                raise  # the file is lost
            return None
        return np.asarray(value, dtype=np.float64)

    def _mode(self, mode: Mode) -> Any:
        return modes["GLOBAL" if mode == "TRAIN" and not self._has_modes else mode]


def _split(text: str | None) -> list[str]:
    return [one.strip() for one in (text or "").split(",") if one.strip()]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def evaluation_passes(points: Sequence[Point]) -> list[EvaluationPass]:
    """Average EVAL losses over each pass through the validation data.

    A step counts in its mode and globally, so `global_step - step` is the number of training steps
    taken so far: constant within a pass and larger in the next one.
    """
    passes: dict[int, list[Point]] = {}
    for point in points:
        passes.setdefault(point.global_step - point.step, []).append(point)
    return [
        EvaluationPass(batches[-1].step, train_steps, float(np.mean([batch.value for batch in batches])))
        for train_steps, batches in sorted(passes.items())
    ]
