"""Reading what smdebug saved, through smdebug's own reader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from smdebug import modes
from smdebug.trials import create_trial

from rules.verdict import NotEvaluatedError

Mode = Literal["TRAIN", "EVAL", "GLOBAL"]
Array = npt.NDArray[np.floating[Any]]

# smdebug's own pattern for losses, for outputs whose `losses` collection was renamed.
_LOSS_REGEX = "[Ll]oss_(?!input).*output"


class Point(NamedTuple):
    """One saved scalar. `step` counts the steps of its mode, `global_step` those of all modes."""

    step: int
    global_step: int
    value: float


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

    Raises NotEvaluatedError when there are none: smdebug's own reader would wait for ever.
    """

    def __init__(self, debug_output: Path) -> None:
        if not any(debug_output.glob("collections/*/*_collections.json")):
            raise NotEvaluatedError(
                "the training job saved no tensors; turn the debugger hook on (debug-hook-config)"
            )
        self._trial = create_trial(str(debug_output))
        # The job is over; looking for new files at every read is most of the reader's time.
        self._trial.dynamic_refresh = False

    def names(self, *, collection: str | None = None, regex: str | None = None) -> list[str]:
        """Sorted names of the saved tensors in a collection or matching a pattern."""
        if regex is None and collection not in self._trial.collections():
            return []
        return sorted(self._trial.tensor_names(collection=collection, regex=regex))

    def gradients(self) -> list[str]:
        """Names of gradient tensors, which exist for trainable parameters only."""
        return self.names(collection="gradients") or self.names(regex="^gradient")

    def losses(self, mode: Mode, regex: str | None = None) -> dict[str, list[Point]]:
        """Saved losses of one mode by tensor name (scalars; means where a loss is not reduced)."""
        if regex is not None:
            names = self.names(regex=regex)
        else:
            names = self.names(collection="losses") or self.names(regex=_LOSS_REGEX)
        series = {name: list(self._points(name, mode)) for name in names}
        return {name: points for name, points in series.items() if points}

    def values(self, name: str, mode: Mode, before: int | None = None) -> Iterator[tuple[int, Array]]:
        """Yield (mode-local step, array) of a tensor, for steps < `before` when given."""
        tensor = self._trial.tensor(name)
        for step in sorted(tensor.steps(mode=_smdebug_mode(mode))):
            if before is None or step < before:
                yield step, np.asarray(tensor.value(step, mode=_smdebug_mode(mode)), dtype=np.float64)

    def _points(self, name: str, mode: Mode) -> Iterator[Point]:
        for step, value in self.values(name, mode):
            yield Point(step, self._trial.global_step(_smdebug_mode(mode), step), float(value.mean()))


def _smdebug_mode(mode: Mode) -> Any:
    return modes[mode]


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
