"""SageMaker's hyperparameter ranges and strategies, carried out by Optuna's ask and tell.

Bayesian is a tree-structured Parzen estimator where AWS has Gaussian processes: the same role, other numbers.
"""

import itertools
import warnings
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial, TrialState

from local_sagemaker.protocol import Document, invalid

STRATEGIES = ("Bayesian", "Random", "Grid")
# Auto takes the logarithm where a range spans this factor or more.
LOG_FROM = 100


class Search:
    """Proposes values. Not thread-safe: a tuning job's own thread uses it."""

    def __init__(self, config: Document) -> None:
        """`config` is HyperParameterTuningJobConfig. Raises ApiError for ranges that make no sense."""
        ranges = config.get("ParameterRanges", {})
        self._reversed: set[str] = set()
        self._space = self._distributions(ranges)
        self._grid = config["Strategy"] == "Grid"
        maximize = config["HyperParameterTuningJobObjective"]["Type"] == "Maximize"
        self._study = optuna.create_study(
            direction="maximize" if maximize else "minimize", sampler=_sampler(config)
        )
        if self._grid:
            self._enqueue_grid(config, ranges)

    def ask(self) -> tuple[Trial, dict[str, str]]:
        """A trial, and its values as the strings that go over the wire."""
        trial = self._study.ask(self._space)
        values = {
            name: str(1 - value) if name in self._reversed else str(value)
            for name, value in trial.params.items()
        }
        return trial, values

    def tell(self, trial: Trial, objective: float | None) -> None:
        """Report a trial's objective, None when it has none."""
        if objective is None:
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._study.tell(trial, objective)

    def _distributions(self, ranges: Document) -> dict[str, BaseDistribution]:
        if ranges.get("AutoParameters"):
            raise invalid("local_sagemaker does not do AutoParameters; give ranges")
        space: dict[str, BaseDistribution] = {}
        for kind in ("ContinuousParameterRanges", "IntegerParameterRanges", "CategoricalParameterRanges"):
            for item in ranges.get(kind, []):
                if item["Name"] in space:
                    raise invalid(f"The hyperparameter {item['Name']} has more than one range")
                space[item["Name"]] = self._distribution(kind, item)
        if not space:
            raise invalid("ParameterRanges has no hyperparameter to tune")
        return space

    def _distribution(self, kind: str, item: Document) -> BaseDistribution:
        if kind == "CategoricalParameterRanges":
            if len(set(item["Values"])) < len(item["Values"]):
                raise invalid(f"The values of hyperparameter {item['Name']} are not distinct")
            return CategoricalDistribution(item["Values"])
        integer = kind == "IntegerParameterRanges"
        low, high = (_number(item, end, integer) for end in ("MinValue", "MaxValue"))
        scaling = item.get("ScalingType", "Auto")
        if scaling == "ReverseLogarithmic":
            if integer or not 0 <= low <= high < 1:
                raise invalid(f"{item['Name']}: ReverseLogarithmic is for continuous ranges within [0, 1)")
            self._reversed.add(item["Name"])
            return FloatDistribution(1 - high, 1 - low, log=True)
        if scaling == "Logarithmic" and low <= 0:
            raise invalid(f"{item['Name']}: Logarithmic is for ranges above 0")
        log = scaling == "Logarithmic" or (scaling == "Auto" and low > 0 and high / low >= LOG_FROM)
        return (
            IntDistribution(int(low), int(high), log=log)
            if integer
            else FloatDistribution(low, high, log=log)
        )

    def _enqueue_grid(self, config: Document, ranges: Document) -> None:
        """Not Optuna's GridSampler: with ask and tell it raises when the grid is exhausted."""
        if set(ranges) - {"CategoricalParameterRanges"} and any(
            ranges.get(kind) for kind in ("ContinuousParameterRanges", "IntegerParameterRanges")
        ):
            raise invalid("Grid search is for categorical ranges only")
        items = ranges["CategoricalParameterRanges"]
        grid = list(itertools.product(*(item["Values"] for item in items)))
        if config["ResourceLimits"].get("MaxNumberOfTrainingJobs", len(grid)) != len(grid):
            raise invalid(
                f"With Grid, MaxNumberOfTrainingJobs must be the {len(grid)} combinations, or left out"
            )
        config["ResourceLimits"]["MaxNumberOfTrainingJobs"] = len(grid)
        for values in grid:
            self._study.enqueue_trial(dict(zip((item["Name"] for item in items), values, strict=True)))


def _number(item: Document, end: str, integer: bool) -> float:
    try:
        value = int(item[end]) if integer else float(item[end])
    except ValueError as error:
        kind = "an integer" if integer else "a number"
        raise invalid(f"{end} {item[end]!r} of hyperparameter {item['Name']} is not {kind}") from error
    if end == "MaxValue" and value < float(item["MinValue"]):
        raise invalid(
            f"The range of hyperparameter {item['Name']} is invalid: MinValue {item['MinValue']} is greater than "
            f"MaxValue {item['MaxValue']}"
        )
    return value


def _sampler(config: Document) -> Any:
    seed = config.get("RandomSeed")
    if config["Strategy"] == "Random":
        return optuna.samplers.RandomSampler(seed=seed)
    parallel = config["ResourceLimits"]["MaxParallelTrainingJobs"]
    with warnings.catch_warnings():
        # Optuna calls these options experimental, each time that it is asked for them.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed, multivariate=True, group=True, constant_liar=True, n_startup_trials=max(3, parallel)
        )
