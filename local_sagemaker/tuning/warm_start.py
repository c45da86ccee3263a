"""WarmStartConfig: tuning jobs that begin with what others have found.

The rules are those of the developer guide's "Run a Warm Start Hyperparameter Tuning Job".
"""

from local_sagemaker.api.protocol import Document, invalid
from local_sagemaker.jobs.base import Jobs
from local_sagemaker.tuning.ranges import Range
from local_sagemaker.tuning.request import Definition, check_number_of_jobs, definitions
from local_sagemaker.tuning.summaries import final_value, summaries

# As AWS's error lists them; objective and ranges have rules of their own.
MAY_CHANGE = (
    "algorithmSpecification",
    "inputDataConfig",
    "outputDataConfig",
    "staticHyperParameters",
    "roleArn",
    "resourceConfig",
    "stoppingCondition",
    "vpcConfig",
    "enableManagedSpotTraining",
    "checkpointConfig",
)
MAX_CHANGES = 10


def parent_names(job: Document) -> list[str]:
    parents = job.get("WarmStartConfig", {}).get("ParentHyperParameterTuningJobs", [])
    return [parent["HyperParameterTuningJobName"] for parent in parents]


def is_identical(job: Document) -> bool:
    return bool(job.get("WarmStartConfig", {}).get("WarmStartType") == "IdenticalDataAndAlgorithm")


def check_parents(request: Document, definition: Definition, parents: list[Document]) -> None:
    """Raises ApiError where a tuning job cannot begin with what its parents have found."""
    for parent in parents:
        _check_parent(request, definition, parent)
    config = request["HyperParameterTuningJobConfig"]
    children = sum(len(parent.get("Trials", [])) for parent in parents)
    # "The training jobs launched by every parent job count against the maximum training jobs."
    check_number_of_jobs(config["Strategy"], children + config["ResourceLimits"]["MaxNumberOfTrainingJobs"])


def _check_parent(request: Document, new: Definition, parent: Document) -> None:
    name = parent["HyperParameterTuningJobName"]
    if parent["HyperParameterTuningJobStatus"] not in {"Completed", "Failed", "Stopped"}:
        raise invalid(
            f"The parent tuning job {name} is in status {parent['HyperParameterTuningJobStatus']}; a parent must be "
            "Completed, Failed or Stopped"
        )
    if "TrainingJobDefinitions" in parent:
        raise invalid(f"The parent tuning job {name} has several TrainingJobDefinitions")
    old = definitions(parent)[0]
    if new.objective != old.objective:
        raise invalid(
            f"The objective metric is not that of the parent tuning job {name}; it must be the same"
        )
    old_ranges, new_ranges = _by_name(old.ranges), _by_name(new.ranges)
    if old_ranges.keys() | old.static.keys() != new_ranges.keys() | new.static.keys():
        raise invalid(
            "The set of tunable plus static HyperParameter names is not the same across current and parent tuning "
            "jobs. Please ensure this set is constant when warm starting. Note that previously static HyperParameters "
            "can be tuned in warm start jobs and vice versa."
        )
    for key in sorted(old_ranges.keys() & new_ranges.keys()):
        if old_ranges[key].kind != new_ranges[key].kind:
            raise invalid(
                f"The hyperparameter {key} is {new_ranges[key].kind} and was {old_ranges[key].kind} in the parent "
                f"tuning job {name}; types must not change"
            )
    changes = sum(
        _changes(old_ranges.get(key), old.static.get(key), text) for key, text in new.static.items()
    )
    if changes > MAX_CHANGES:
        raise invalid(
            f"{changes} static hyperparameters or values of them differ from the parent tuning job {name}; at most "
            f"{MAX_CHANGES} may"
        )
    _check_definitions(request["TrainingJobDefinition"], parent["TrainingJobDefinition"])
    if is_identical(request):
        _check_identical(name, new, old)


def _changes(old_range: Range | None, old_value: str | None, value: str) -> int:
    """What counts against the limit for a hyperparameter that is now static: categories count one by one."""
    if old_range:
        return len(old_range.values) or 1
    if old_value == value:
        return 0
    return 1 if _is_number(value) and _is_number(str(old_value)) else 2


def _check_definitions(new: Document, old: Document) -> None:
    fixed = {key[0].upper() + key[1:] for key in MAY_CHANGE}
    if any(new.get(key) != old.get(key) for key in (new.keys() | old.keys()) - fixed):
        raise invalid(
            f"Only the following fields in TrainingJobDefinition are allowed to change: [{', '.join(MAY_CHANGE)}]."
        )


def _check_identical(name: str, new: Definition, old: Definition) -> None:
    if new.request["AlgorithmSpecification"].get("TrainingImage") != old.request[
        "AlgorithmSpecification"
    ].get("TrainingImage"):
        raise invalid(
            f"The training image is not that of the parent tuning job {name}; for another take TransferLearning"
        )
    if new.request.get("InputDataConfig") != old.request.get("InputDataConfig"):
        raise invalid(
            f"The input data is not that of the parent tuning job {name}; for other data take TransferLearning"
        )


def findings(training: Jobs, parent: Document, ranges: list[Range]) -> list[tuple[dict[str, str], float]]:
    """What the parent's own training jobs found: values that lie in the ranges, and objectives."""
    static = definitions(parent)[0].static
    found = []
    for child in summaries(training, parent):
        if child["ObjectiveStatus"] == "Succeeded":
            tried = {**static, **child["TunedHyperParameters"]}
            values = {
                item.name: tried[item.name]
                for item in ranges
                if item.name in tried and item.contains(tried[item.name])
            }
            if values:
                found.append((values, final_value(child)))
    return found


def _by_name(ranges: list[Range]) -> dict[str, Range]:
    return {item.name: item for item in ranges}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
