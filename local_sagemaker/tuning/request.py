"""What a CreateHyperParameterTuningJob request asks for, and whether it makes sense."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

from local_sagemaker.api.protocol import ApiError, Document, invalid
from local_sagemaker.api.unsupported import refuse
from local_sagemaker.jobs.toolkit import TUNING_METRIC
from local_sagemaker.tuning.ranges import Range, combinations, parse

UNSUPPORTED = {
    "Autotune": "Autotune",
    "TrainingJobDefinition.HyperParameterTuningResourceConfig": "a choice of instances",
    "TrainingJobDefinitions[].HyperParameterTuningResourceConfig": "a choice of instances",
}
# The quotas that no account can have raised further, from the developer guide's page on resource limits.
MAX_PARALLEL = 100
MAX_METRICS = 20
MAX_JOBS = {"Random": 10_000}
MAX_JOBS_OTHERWISE = 750
# Where Hyperband looks for MaxResource when it is not given, in the API reference's order; and its maximum.
EPOCHS = ("epochs", "numepochs", "n-epochs", "n_epochs", "num_epochs")
MAX_RESOURCE = 20_000
# Members of a training job definition that are not CreateTrainingJob's.
OF_TUNING = {
    "DefinitionName",
    "TuningObjective",
    "HyperParameterRanges",
    "StaticHyperParameters",
    "HyperParameterTuningResourceConfig",
}


@dataclass(frozen=True)
class Definition:
    """One algorithm that is tuned."""

    name: str | None
    objective: Document
    """HyperParameterTuningJobObjective."""
    ranges: list[Range]
    static: dict[str, str]
    request: Document
    """The members for CreateTrainingJob, without hyperparameters and a name."""

    def metric(self) -> Document:
        """The objective's MetricDefinition. Raises ApiError."""
        name = self.objective["MetricName"]
        for item in self.request["AlgorithmSpecification"].get("MetricDefinitions", []):
            if item["Name"] == name:
                return dict(item)
        raise invalid(f"The objective metric {name} is not among the MetricDefinitions")

    def resources(self, config: Document) -> tuple[int, int] | None:
        """Hyperband's MinResource and MaxResource; None with other strategies. Raises ApiError."""
        if config["Strategy"] != "Hyperband":
            return None
        given = config.get("StrategyConfig", {}).get("HyperbandStrategyConfig", {})
        most = given.get("MaxResource") or self._epochs()
        if most is None:
            raise invalid(
                "HyperbandStrategyConfig.MaxResource is required where StaticHyperParameters has none of "
                f"{', '.join(EPOCHS)} with a whole number"
            )
        least = given.get("MinResource", 1)
        if not least < most <= MAX_RESOURCE:
            raise invalid(
                f"HyperbandStrategyConfig: MinResource {least} must be less than MaxResource {most}, and that at most "
                f"{MAX_RESOURCE}"
            )
        return least, most

    def _epochs(self) -> int | None:
        for key in EPOCHS:
            if (text := self.static.get(key, "").strip('"')).isdigit():
                return int(text)
        return None


def definitions(job: Document) -> list[Definition]:
    """The algorithms of a tuning job, with its own objective and ranges where there is one. Raises ApiError."""
    config = job["HyperParameterTuningJobConfig"]
    if "TrainingJobDefinition" in job:
        objective, ranges = config.get("HyperParameterTuningJobObjective"), config.get("ParameterRanges")
        if objective is None:
            raise invalid("HyperParameterTuningJobConfig.HyperParameterTuningJobObjective is required")
        return [_definition(job["TrainingJobDefinition"], objective, ranges or {})]
    found = []
    for item in job["TrainingJobDefinitions"]:
        for member in ("DefinitionName", "TuningObjective", "HyperParameterRanges"):
            if member not in item:
                raise invalid(f"{member} is required in each of TrainingJobDefinitions")
        found.append(_definition(item, item["TuningObjective"], item["HyperParameterRanges"]))
    return found


def _definition(item: Document, objective: Document, ranges: Document) -> Definition:
    return Definition(
        name=item.get("DefinitionName"),
        objective=objective,
        ranges=parse(ranges),
        static=item.get("StaticHyperParameters", {}),
        request={key: value for key, value in item.items() if key not in OF_TUNING},
    )


def check(request: Document) -> list[Definition]:
    """Raises ApiError for what makes no sense or is not done; the definitions.

    With Grid it also sets ResourceLimits.MaxNumberOfTrainingJobs, which SageMaker then works out.
    """
    refuse(request, UNSUPPORTED)
    config = request["HyperParameterTuningJobConfig"]
    _check_number_of_definitions(request)
    found = definitions(request)
    for definition in found:
        _check_definition(definition)
        definition.resources(config)
    if len({definition.objective["Type"] for definition in found}) > 1:
        raise invalid("The TuningObjectives of TrainingJobDefinitions must be of the same Type")
    _check_strategy(config)
    _check_limits(config, found)
    return found


def _check_number_of_definitions(request: Document) -> None:
    several = request.get("TrainingJobDefinitions")
    if bool(several) == ("TrainingJobDefinition" in request):
        raise invalid("Give either TrainingJobDefinition or TrainingJobDefinitions")
    config = request["HyperParameterTuningJobConfig"]
    if not several:
        for member in ("TuningObjective", "HyperParameterRanges"):
            if member in request["TrainingJobDefinition"]:
                raise invalid(f"{member} belongs to TrainingJobDefinitions, not to TrainingJobDefinition")
        return
    for member in ("HyperParameterTuningJobObjective", "ParameterRanges"):
        if member in config:
            raise invalid(f"{member} cannot be given with TrainingJobDefinitions, which have their own")
    # "Warm start and early stopping are available only when tuning a single algorithm" (developer guide).
    if "WarmStartConfig" in request or config.get("TrainingJobEarlyStoppingType") == "Auto":
        raise invalid("Warm start and early stopping are available only with a single TrainingJobDefinition")
    names = [item.get("DefinitionName") for item in several]
    if len(set(names)) < len(names):
        raise invalid("The DefinitionNames of TrainingJobDefinitions must be distinct")


def _check_definition(definition: Definition) -> None:
    definition.metric()
    tuned = {item.name for item in definition.ranges}
    if both := tuned & definition.static.keys():
        raise invalid(f"These hyperparameters are both tuned and static: {', '.join(sorted(both))}")
    metrics = definition.request["AlgorithmSpecification"]["MetricDefinitions"]
    _check_quota("Number of metrics defined per hyperparameter tuning job", MAX_METRICS, len(metrics))


def _check_strategy(config: Document) -> None:
    strategy = config["Strategy"]
    if strategy != "Hyperband" and config.get("StrategyConfig", {}).get("HyperbandStrategyConfig"):
        raise invalid("HyperbandStrategyConfig can only be given with the strategy Hyperband")
    if strategy == "Hyperband" and config.get("TrainingJobEarlyStoppingType") == "Auto":
        raise invalid(
            "TrainingJobEarlyStoppingType must be Off with Hyperband, which stops training jobs itself"
        )


def _check_limits(config: Document, found: list[Definition]) -> None:
    limits, grid = config["ResourceLimits"], config["Strategy"] == "Grid"
    total = sum(combinations(definition.ranges) for definition in found)
    if grid:
        if any(item.kind != "Categorical" for definition in found for item in definition.ranges):
            raise invalid("Grid search is for categorical ranges only")
        if limits.get("MaxNumberOfTrainingJobs", total) != total:
            raise invalid(f"With Grid, MaxNumberOfTrainingJobs must be the {total} combinations, or left out")
    elif "MaxNumberOfTrainingJobs" not in limits:
        raise invalid("ResourceLimits.MaxNumberOfTrainingJobs is required")
    jobs, parallel = limits.get("MaxNumberOfTrainingJobs"), limits["MaxParallelTrainingJobs"]
    if jobs is not None and parallel > jobs:
        raise invalid(f"MaxParallelTrainingJobs, {parallel}, must be at most MaxNumberOfTrainingJobs, {jobs}")
    jobs = limits["MaxNumberOfTrainingJobs"] = int(total) if grid else jobs
    check_number_of_jobs(config["Strategy"], jobs)
    _check_quota("Number of parallel training jobs per hyperparameter tuning job", MAX_PARALLEL, parallel)
    if total < jobs:
        raise invalid(
            "You don't have enough combinations of hyperparameter ranges. The total number of hyperparameter "
            f"combinations for the provided ranges [{float(total)}] must be equal or greater than the value of "
            f"MaxNumberOfJobs, [{jobs}]. Provide additional ranges."
        )


def check_number_of_jobs(strategy: str, jobs: int) -> None:
    """Raises ApiError (ResourceLimitExceeded) for more training jobs than a tuning job can have."""
    quota = f"[{strategy}] Number of training jobs per hyperparameter tuning job"
    _check_quota(quota, MAX_JOBS.get(strategy, MAX_JOBS_OTHERWISE), jobs)


def _check_quota(name: str, limit: int, wanted: int) -> None:
    if wanted > limit:
        raise ApiError(
            "ResourceLimitExceeded",
            f"The account-level service limit '{name}' is {limit}, with current utilization of 0 and a request delta "
            f"of {wanted}.",
        )


def turns(job: Document, found: list[Definition]) -> list[int]:
    """Which definition each trial is of: one after the other, in Grid until its combinations have been tried."""
    config = job["HyperParameterTuningJobConfig"]
    grid = config["Strategy"] == "Grid"

    def rounds() -> Iterator[int]:
        for number in count():
            for index, definition in enumerate(found):
                if not grid or number < combinations(definition.ranges):
                    yield index

    return list(islice(rounds(), config["ResourceLimits"]["MaxNumberOfTrainingJobs"]))


def child_request(job: Document, definition: Definition, name: str, tuned: dict[str, str]) -> Document:
    """CreateTrainingJob for a trial, tagged like the tuning job."""
    request: dict[str, Any] = {**definition.request, "TrainingJobName": name}
    request["HyperParameters"] = {
        **definition.static,
        **tuned,
        # As on AWS: the script may want to know.
        TUNING_METRIC: definition.objective["MetricName"],
    }
    if "Tags" in job:
        request["Tags"] = job["Tags"]
    return request
