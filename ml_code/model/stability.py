"""The best trials again, with other seeds: how much of their order is chance."""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from model.hyperparameters import Hyperparameters
from model.optimization import build_criterion
from model.split import Split
from model.training import Trainer, TrainingError
from profiler.step_clock import StepClock


def repeat_trials(
    tail: nn.Module,
    train: Split,
    validation: Split,
    settings: Hyperparameters,
    prepare: Callable[[Tensor], Tensor],
    classes: int,
    device: torch.device,
) -> dict[str, Any]:
    """`stability.json`: for each of `settings.stability`'s trials the objective's best value with each further seed.

    Every training begins with a copy of `tail` and no debugger; the seed decides the order of the images, their views
    and dropout. Prints a line for each. A training that diverges has None for its value.
    """
    asked = settings.stability or {}
    seeds = [settings.seed + number for number in range(1, asked["seeds"] + 1)]
    trials = []
    for trial in asked["trials"]:
        values = []
        for seed in seeds:
            again = _with(settings, trial, seed)
            criterion = build_criterion(again, train.labels, classes)
            trainer = Trainer(copy.deepcopy(tail), criterion, again, device, StepClock(device))
            trainer.prepare = prepare
            values.append(_objective(trainer, train, validation, again.objective))
            print(f"stability trial={trial['name']} seed={seed} {again.objective}={values[-1]}", flush=True)
        trials.append({"name": trial["name"], "values": values})
    return {"objective": settings.objective, "seeds": seeds, "trials": trials}


def _with(settings: Hyperparameters, trial: Mapping[str, Any], seed: int) -> Hyperparameters:
    return dataclasses.replace(
        settings,
        lr=float(trial["lr"]),
        batch_size=int(trial["batch-size"]),
        epochs=int(trial["epochs"]),
        seed=seed,
    )


def _objective(trainer: Trainer, train: Split, validation: Split, name: str) -> float | None:
    try:
        return round(float(trainer.fit(train, validation, lambda epoch: None)[name]), 6)
    except TrainingError:
        return None
