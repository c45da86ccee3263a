"""The search of tuning jobs, carried out by Optuna's ask and tell in a process of its own.

    python -m local_sagemaker.tuning.search     # JSON lines: a request on standard input, its answer on standard output

Optuna and numpy take 50 MB and most of a second to import, which a service that waits should not hold. A request is
[search, method, arguments], a method of Search below; `open` and `close` make and forget a search. The answer is
{"answer": …} or {"error": sentence}. The process ends when its standard input does.

Everything proposed follows from the seed, the trial's number and what is known of the trials before it, and from
nothing else: so a search can be made anew from the stored training jobs and goes on as if nothing had happened.

Bayesian is a tree-structured Parzen estimator where AWS has Gaussian processes: the same role, other numbers.
"""

import itertools
import json
import sys
import warnings
import zlib
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial, TrialState, create_trial

from local_sagemaker.tuning.ranges import Range, combinations

# Up to so many combinations those not yet tried are listed, so that none is tried twice.
ENUMERABLE = 10_000
# Hyperband keeps one in so many: the eta of the paper, as usual.
REDUCTION_FACTOR = 3


class Search:
    """Proposes values as they go over the wire: by hyperparameter, all of them strings."""

    def __init__(
        self,
        strategy: str,
        seed: int,
        ranges: list[dict[str, Any]],
        maximize: bool,
        parallel: int,
        resources: list[int] | None,
    ) -> None:
        """`resources` are Hyperband's least and most; None for other strategies."""
        self._strategy, self._seed, self._startup = strategy, seed, max(3, parallel)
        self._ranges = [Range(**{**item, "values": tuple(item["values"])}) for item in ranges]
        self._space = {item.name: _distribution(item) for item in self._ranges}
        self._trials: dict[int, Trial] = {}
        self._reported: dict[int, int] = {}
        self._tried: set[tuple[str, ...]] = set()
        pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
        if resources:
            pruner = optuna.pruners.HyperbandPruner(resources[0], resources[1], REDUCTION_FACTOR)
        self._study = optuna.create_study(
            # Hyperband's brackets follow from the name.
            study_name=str(seed),
            direction="maximize" if maximize else "minimize",
            sampler=optuna.samplers.RandomSampler(),
            pruner=pruner,
        )

    def learn(self, trials: list[tuple[dict[str, str], float]]) -> None:
        """Add what other tuning jobs have found: values, not necessarily of all hyperparameters, and objectives."""
        for values, objective in trials:
            known = [item for item in self._ranges if item.name in values]
            self._study.add_trial(
                create_trial(
                    params={item.name: item.searched(values[item.name]) for item in known},
                    distributions={item.name: self._space[item.name] for item in known},
                    value=objective,
                )
            )

    def ask(self) -> tuple[int, dict[str, str]]:
        """A new trial: its number and values."""
        if self._strategy == "Grid":
            combination = next(itertools.islice(self._combinations(), len(self._tried), None))
            return self._begin(self._fixed(combination))
        number = self._next_number()
        self._study.sampler = self._sampler(number)
        trial = self._study.ask(self._space)
        if self._values(trial) in self._tried and combinations(self._ranges) <= ENUMERABLE:
            others = [values for values in self._combinations() if values not in self._tried]
            if others:
                self._study.tell(trial, state=TrialState.FAIL)
                trial = self._fixed(others[self._seed_of(number) % len(others)])
        return self._begin(trial)

    def restore(self, number: int, values: dict[str, str]) -> None:
        """Bring a trial back that `ask` proposed before."""
        while self._next_number() < number:
            self._study.add_trial(create_trial(state=TrialState.FAIL))
        self._begin(self._fixed(tuple(values[item.name] for item in self._ranges)))

    def report(self, number: int, step: int, value: float) -> bool:
        """Note a trial's objective after its first, second, … epoch; whether Hyperband ends the trial."""
        if step <= self._reported.get(number, 0):
            # Of a training job that takes the place of a lost one.
            return False
        self._reported[number] = step
        trial = self._trials[number]
        trial.report(value, step)
        return trial.should_prune()

    def tell(self, number: int, objective: float | None, pruned: bool) -> None:
        """End a trial. Its objective is None when it has none, or when it was pruned: then its reports count."""
        trial = self._trials.pop(number)
        if pruned:
            self._study.tell(trial, state=TrialState.PRUNED)
        elif objective is None:
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._study.tell(trial, objective)

    def _begin(self, trial: Trial) -> tuple[int, dict[str, str]]:
        values = self._values(trial)
        self._trials[trial.number] = trial
        self._tried.add(values)
        return trial.number, dict(zip((item.name for item in self._ranges), values, strict=True))

    def _values(self, trial: Trial) -> tuple[str, ...]:
        return tuple(item.wire(trial.params[item.name]) for item in self._ranges)

    def _fixed(self, values: tuple[str, ...]) -> Trial:
        """A trial with given values."""
        items = zip(self._ranges, values, strict=True)
        self._study.enqueue_trial({item.name: item.searched(value) for item, value in items})
        # Nothing is left to be sampled.
        self._study.sampler = optuna.samplers.RandomSampler(seed=0)
        return self._study.ask(self._space)

    def _combinations(self) -> "itertools.product[tuple[str, ...]]":
        return itertools.product(*(item.all() for item in self._ranges))

    def _next_number(self) -> int:
        return len(self._study.get_trials(deepcopy=False))

    def _seed_of(self, number: int) -> int:
        return zlib.crc32(f"{self._seed}/{number}".encode())

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        seed = self._seed_of(number)
        if self._strategy == "Random":
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(
            seed=seed, multivariate=True, group=True, constant_liar=True, n_startup_trials=self._startup
        )


def _distribution(item: Range) -> BaseDistribution:
    if item.kind == "Categorical":
        return CategoricalDistribution(item.values)
    low, high = item.bounds()
    logarithmic = item.scaling != "Linear"
    if item.kind == "Integer":
        return IntDistribution(int(low), int(high), log=logarithmic)
    return FloatDistribution(low, high, log=logarithmic)


def main() -> None:
    """Answer requests until there are no more."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Optuna calls the options of the estimator experimental, each time that it is asked for them.
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    searches: dict[str, Search] = {}
    for line in sys.stdin:
        name, method, arguments = json.loads(line)
        answer: Any = None
        try:
            if method == "open":
                searches[name] = Search(*arguments)
            elif method == "close":
                searches.pop(name, None)
            else:
                answer = getattr(searches[name], method)(*arguments)
            reply = {"answer": answer}
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
