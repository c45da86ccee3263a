"""What tuning jobs decide by rules: pure functions, without a service."""

import math
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_sagemaker.api.protocol import ApiError, Document
from local_sagemaker.jobs.metrics import MetricLog
from local_sagemaker.tuning.completion import Progress
from local_sagemaker.tuning.early_stopping import is_hopeless
from local_sagemaker.tuning.ranges import Range, combinations, parse
from local_sagemaker.tuning.request import check, definitions, turns
from local_sagemaker.tuning.warm_start import check_parents

METRICS = [{"Name": "loss", "Regex": "loss=(.*)"}, {"Name": "error", "Regex": "error=(.*)"}]
RANGES: Document = {
    "ContinuousParameterRanges": [{"Name": "lr", "MinValue": "0.001", "MaxValue": "0.1"}],
    "CategoricalParameterRanges": [{"Name": "opt", "Values": ["sgd", "adam"]}],
}
CATEGORIES: Document = {"CategoricalParameterRanges": RANGES["CategoricalParameterRanges"]}


def tuning_job(name: str = "job", strategy: str = "Bayesian", **changes: Any) -> Document:
    """A CreateHyperParameterTuningJob request; `changes` by the dotted path with __ for dots."""
    job: Document = {
        "HyperParameterTuningJobName": name,
        "HyperParameterTuningJobConfig": {
            "Strategy": strategy,
            "HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": "loss"},
            "ResourceLimits": {"MaxNumberOfTrainingJobs": 4, "MaxParallelTrainingJobs": 2},
            "ParameterRanges": RANGES,
        },
        "TrainingJobDefinition": {
            "AlgorithmSpecification": {"TrainingImage": "image", "MetricDefinitions": METRICS},
            "StaticHyperParameters": {"epochs": "9", "code": "a"},
            "InputDataConfig": [{"ChannelName": "train"}],
        },
    }
    for path, value in changes.items():
        target = job
        *parents, last = path.split("__")
        for parent in parents:
            target = target[parent]
        if value is None:
            del target[last]
        else:
            target[last] = value
    return job


def several(**config: Any) -> Document:
    """A request for two algorithms."""
    job = tuning_job()
    single = job.pop("TrainingJobDefinition")
    job["HyperParameterTuningJobConfig"].pop("ParameterRanges")
    objective = job["HyperParameterTuningJobConfig"].pop("HyperParameterTuningJobObjective")
    job["HyperParameterTuningJobConfig"] |= config
    job["TrainingJobDefinitions"] = [
        {**single, "DefinitionName": name, "TuningObjective": objective, "HyperParameterRanges": ranges}
        for name, ranges in (("first", RANGES), ("second", CATEGORIES))
    ]
    return job


# Ranges


def number_range(kind: str, low: str, high: str, scaling: str = "Auto") -> Range:
    item = {"Name": "x", "MinValue": low, "MaxValue": high, "ScalingType": scaling}
    return parse({f"{kind}ParameterRanges": [item]})[0]


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    kind = draw(st.sampled_from(["Integer", "Continuous"]))
    scaling = draw(st.sampled_from(["Linear", "Logarithmic", "ReverseLogarithmic"]))
    if kind == "Integer":
        scaling = "Linear" if scaling == "ReverseLogarithmic" else scaling
        first = st.integers(1 if scaling == "Logarithmic" else -(10**9), 10**9)
    elif scaling == "Linear":
        first = st.floats(-1e9, 1e9)
    else:
        first = st.floats(1e-9, 0.999999)
    low, high = sorted([draw(first), draw(first)])
    return number_range(kind, repr(low), repr(high), scaling)


@given(ranges(), st.floats(0, 1))
def test_a_searched_number_comes_back_from_the_wire(item: Range, place: float) -> None:
    low, high = item.bounds()
    searched = min(max(low + place * (high - low), low), high)
    text = item.wire(round(searched) if item.kind == "Integer" else searched)
    assert item.contains(text)
    again = item.wire(item.searched(text))
    assert float(again) == pytest.approx(float(text), rel=1e-9, abs=1e-12)
    assert ("." not in text and "e" not in text) if item.kind == "Integer" else repr(float(text)) == text


@pytest.mark.parametrize(
    ("kind", "low", "high", "scaling"),
    [
        ("Continuous", "0.001", "0.1", "Logarithmic"),
        ("Continuous", "0.002", "0.1", "Linear"),
        ("Continuous", "0", "100", "Linear"),
        ("Integer", "1", "100", "Logarithmic"),
        ("Integer", "-5", "500", "Linear"),
    ],
)
def test_auto_takes_the_logarithm_from_a_factor_of_100_on(
    kind: str, low: str, high: str, scaling: str
) -> None:
    assert number_range(kind, low, high).scaling == scaling


def test_combinations() -> None:
    categories = parse(CATEGORIES)[0]
    assert combinations([categories, number_range("Integer", "3", "5")]) == 6
    assert combinations([categories, number_range("Continuous", "0", "1")]) == math.inf
    assert number_range("Integer", "3", "5").all() == ["3", "4", "5"]
    assert combinations([number_range("Continuous", "1", "1")]) == 1


@pytest.mark.parametrize(
    ("kind", "low", "high", "scaling", "sentence"),
    [
        ("Integer", "1.5", "2", "Auto", "not an integer"),
        ("Continuous", "a", "2", "Auto", "not a number"),
        ("Continuous", "0", "inf", "Auto", "not a number"),
        ("Continuous", "2", "1", "Auto", "MinValue 2 is greater than MaxValue 1"),
        ("Continuous", "0", "1", "Logarithmic", "above 0"),
        ("Continuous", "0", "1", "ReverseLogarithmic", r"within \[0, 1\)"),
        ("Integer", "0", "0", "ReverseLogarithmic", "continuous"),
    ],
)
def test_ranges_that_make_no_sense(kind: str, low: str, high: str, scaling: str, sentence: str) -> None:
    with pytest.raises(ApiError, match=sentence) as raised:
        number_range(kind, low, high, scaling)
    assert raised.value.code == "ValidationException"


# Early stopping


@pytest.mark.parametrize(
    ("values", "earlier", "stops"),
    [
        ([5.0], [], False),
        ([5.0], [[4.0]], True),
        ([4.0], [[4.0]], False),
        # Running averages up to the second epoch: 2, 3, 9; the third epoch does not count.
        ([0.0, 3.5], [[1.0, 3.0, 100.0], [3.0, 3.0, 0.0], [9.0, 9.0]], True),
        ([9.0, 2.5], [[1.0, 3.0, 100.0], [3.0, 3.0, 0.0], [9.0, 9.0]], False),
        # One with fewer epochs counts with what it has.
        ([9.0, 9.0, 2.5], [[2.0]], True),
    ],
)
def test_the_median_rule(values: list[float], earlier: list[list[float]], stops: bool) -> None:
    assert is_hopeless(values, earlier, maximize=False) is stops
    flipped = [[-value for value in curve] for curve in earlier]
    assert is_hopeless([-value for value in values], flipped, maximize=True) is stops


FINITE = st.floats(-1e6, 1e6)


@given(
    st.lists(FINITE, min_size=1), st.lists(st.lists(FINITE, min_size=1, max_size=5), min_size=1, max_size=6)
)
def test_the_median_rule_spares_the_better_half(values: list[float], earlier: list[list[float]]) -> None:
    averages = [sum(curve[: len(values)]) / len(curve[: len(values)]) for curve in earlier]
    if values[-1] < median(averages) - 1e-3:
        assert not is_hopeless(values, earlier, maximize=False)
    if values[-1] > median(averages) + 1e-3:
        assert is_hopeless(values, earlier, maximize=False)


# Completion


def progress(*values: float | None, maximize: bool = True, dimensions: int = 1) -> Progress:
    found = Progress(maximize, dimensions)
    for value in values:
        found.add(value)
    return found


def test_not_improving_counts_since_the_last_gain_of_more_than_one_percent() -> None:
    assert progress(100).not_improving == 0
    assert progress(100, 100.5, 101.2).not_improving == 2
    assert progress(100, 99, 102).not_improving == 0
    assert progress(100, 99, None, 98).not_improving == 2
    assert progress(100, 99.5, 98, maximize=False).not_improving == 0
    # Small steps move the best: 101.2 is no gain over 100.9, though it is one over 100.
    assert progress(100, 100.9, 101.2).not_improving == 2
    assert progress(0, 0.001).not_improving == 0


def test_the_criteria() -> None:
    assert progress(0.9).meets({"TargetObjectiveMetricValue": 0.9})
    assert not progress(0.9, maximize=False).meets({"TargetObjectiveMetricValue": 0.8})
    assert not progress(None).meets({"TargetObjectiveMetricValue": 0.0})
    limit = {"BestObjectiveNotImproving": {"MaxNumberOfTrainingJobsNotImproving": 3}}
    assert progress(1, 1, 1, 1).meets(limit)
    assert not progress(1, 1, 1).meets(limit)
    convergence = {"ConvergenceDetected": {"CompleteOnConvergence": "Enabled"}}
    assert progress(*[1.0] * 11).meets(convergence)
    assert not progress(*[1.0] * 10).meets(convergence)
    assert not progress(*[1.0] * 11, dimensions=6).meets(convergence)
    assert not progress(*[1.0] * 11).meets({"ConvergenceDetected": {"CompleteOnConvergence": "Disabled"}})


def test_giving_up() -> None:
    assert progress(None, None, None, None, None).is_hopeless
    assert not progress(None, None, None, None).is_hopeless
    assert not progress(1, None, None, None, None, None).is_hopeless


# The request


CONFIG = "HyperParameterTuningJobConfig"
LIMITS = f"{CONFIG}__ResourceLimits"
HYPERBAND = f"{CONFIG}__StrategyConfig"


def hyperband(**resources: int) -> Document:
    return {"HyperbandStrategyConfig": resources}


@pytest.mark.parametrize(
    ("strategy", "changes", "sentence"),
    [
        ("Random", {LIMITS: {"MaxParallelTrainingJobs": 1}}, "MaxNumberOfTrainingJobs is required"),
        ("Random", {f"{LIMITS}__MaxParallelTrainingJobs": 5}, "must be at most MaxNumberOfTrainingJobs, 4"),
        ("Grid", {}, "categorical ranges only"),
        ("Grid", {f"{CONFIG}__ParameterRanges": CATEGORIES}, "must be the 2 combinations"),
        ("Random", {f"{CONFIG}__ParameterRanges": CATEGORIES}, r"provided ranges \[2.0\].*MaxNumberOfJobs, \[4\]"),
        ("Random", {HYPERBAND: hyperband(MaxResource=9)}, "only be given with the strategy Hyperband"),
        ("Hyperband", {f"{CONFIG}__TrainingJobEarlyStoppingType": "Auto"}, "must be Off with Hyperband"),
        ("Hyperband", {"TrainingJobDefinition__StaticHyperParameters": {}}, "MaxResource is required"),
        ("Hyperband", {HYPERBAND: hyperband(MinResource=9)}, "MinResource 9 must be less than MaxResource 9"),
        ("Hyperband", {HYPERBAND: hyperband(MaxResource=20_001)}, "at most 20000"),
        ("Bayesian", {"TrainingJobDefinition__StaticHyperParameters": {"lr": "1"}}, "both tuned and static: lr"),
        ("Bayesian", {"TrainingJobDefinition__TuningObjective": {}}, "belongs to TrainingJobDefinitions"),
        ("Bayesian", {"TrainingJobDefinitions": [{}]}, "either TrainingJobDefinition or"),
        ("Bayesian", {f"{CONFIG}__HyperParameterTuningJobObjective": None}, "Objective is required"),
        ("Bayesian", {f"{CONFIG}__HyperParameterTuningJobObjective__MetricName": "x"}, "not among the Metric"),
        ("Bayesian", {"Autotune": {"Mode": "Enabled"}}, "does not do Autotune"),
        ("Bayesian", {f"{CONFIG}__ParameterRanges": {"AutoParameters": [{}]}}, "does not do AutoParameters"),
    ],
)  # fmt: skip
def test_requests_that_make_no_sense(strategy: str, changes: Document, sentence: str) -> None:
    with pytest.raises(ApiError, match=sentence) as raised:
        check(tuning_job(strategy=strategy, **changes))
    assert raised.value.code == "ValidationException"


@pytest.mark.parametrize(
    ("strategy", "jobs", "parallel"), [("Bayesian", 751, 1), ("Random", 10_001, 1), ("Random", 750, 101)]
)
def test_quotas(strategy: str, jobs: int, parallel: int) -> None:
    limits = {"MaxNumberOfTrainingJobs": jobs, "MaxParallelTrainingJobs": parallel}
    with pytest.raises(ApiError) as raised:
        check(tuning_job(strategy=strategy, **{LIMITS: limits}))
    assert raised.value.code == "ResourceLimitExceeded"


def test_hyperband_finds_its_resources() -> None:
    job = tuning_job(strategy="Hyperband")
    assert definitions(job)[0].resources(job[CONFIG]) == (1, 9)
    job = tuning_job(strategy="Hyperband", **{HYPERBAND: hyperband(MinResource=2, MaxResource=30)})
    assert definitions(job)[0].resources(job[CONFIG]) == (2, 30)
    assert definitions(tuning_job())[0].resources(tuning_job()[CONFIG]) is None


def test_grid_works_out_the_number_of_jobs() -> None:
    job = tuning_job(
        strategy="Grid",
        **{f"{CONFIG}__ParameterRanges": CATEGORIES, LIMITS: {"MaxParallelTrainingJobs": 3}},
    )
    check(job)
    assert job[CONFIG]["ResourceLimits"]["MaxNumberOfTrainingJobs"] == 2


def test_several_definitions_take_turns() -> None:
    job = several()
    found = check(job)
    assert [item.name for item in found] == ["first", "second"]
    assert turns(job, found) == [0, 1, 0, 1]
    grid = several(Strategy="Grid", ResourceLimits={"MaxParallelTrainingJobs": 1})
    wide = {"CategoricalParameterRanges": [{"Name": "x", "Values": ["1", "2", "3"]}]}
    grid["TrainingJobDefinitions"][0]["HyperParameterRanges"] = wide
    assert turns(grid, check(grid)) == [0, 1, 0, 1, 0]


def test_several_definitions_that_make_no_sense() -> None:
    with pytest.raises(ApiError, match="available only with a single"):
        check(several(TrainingJobEarlyStoppingType="Auto"))
    with pytest.raises(ApiError, match="have their own"):
        check(several(ParameterRanges=RANGES))
    same = several()
    same["TrainingJobDefinitions"][1]["DefinitionName"] = "first"
    with pytest.raises(ApiError, match="must be distinct"):
        check(same)
    other = several()
    other["TrainingJobDefinitions"][1]["TuningObjective"] = {"Type": "Maximize", "MetricName": "loss"}
    with pytest.raises(ApiError, match="of the same Type"):
        check(other)
    del other["TrainingJobDefinitions"][1]["TuningObjective"]
    with pytest.raises(ApiError, match="TuningObjective is required in each"):
        check(other)


# Warm start


def warm(kind: str = "TransferLearning", parent: Document | None = None, **changes: Any) -> None:
    """Check a tuning job that begins with what one parent found."""
    request = tuning_job("child", **changes)
    request["WarmStartConfig"] = {
        "WarmStartType": kind,
        "ParentHyperParameterTuningJobs": [{"HyperParameterTuningJobName": "parent"}],
    }
    parent = parent or tuning_job("parent")
    ended = {"HyperParameterTuningJobStatus": "Completed", "Trials": [], **parent}
    check_parents(request, check(request)[0], [ended])


DEFINITION = "TrainingJobDefinition"
STATIC = f"{DEFINITION}__StaticHyperParameters"


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("IdenticalDataAndAlgorithm", {}),
        ("TransferLearning", {f"{DEFINITION}__InputDataConfig": [{"ChannelName": "other"}]}),
        ("TransferLearning", {f"{DEFINITION}__AlgorithmSpecification__TrainingImage": "image:2"}),
        ("IdenticalDataAndAlgorithm", {STATIC: {"epochs": "12", "code": "b"}}),
        # One was tuned and is static now.
        (
            "TransferLearning",
            {f"{CONFIG}__ParameterRanges": {**RANGES, "CategoricalParameterRanges": []},
             STATIC: {"epochs": "9", "code": "a", "opt": "sgd"}},
        ),
    ],
)  # fmt: skip
def test_warm_starts_that_are_allowed(kind: str, changes: Document) -> None:
    warm(kind, **changes)


@pytest.mark.parametrize(
    ("kind", "changes", "sentence"),
    [
        ("TransferLearning", {STATIC: {"epochs": "9"}}, "The set of tunable plus static"),
        (
            "TransferLearning",
            {f"{CONFIG}__HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": "error"}},
            "objective metric is not that of the parent",
        ),
        (
            "TransferLearning",
            {f"{CONFIG}__ParameterRanges": {
                **CATEGORIES, "IntegerParameterRanges": [{"Name": "lr", "MinValue": "1", "MaxValue": "9"}]}},
            "lr is Integer and was Continuous",
        ),
        ("TransferLearning", {f"{DEFINITION}__Environment": {"A": "b"}}, "Only the following fields"),
        (
            "IdenticalDataAndAlgorithm",
            {f"{DEFINITION}__AlgorithmSpecification__TrainingImage": "image:2"},
            "training image is not that",
        ),
        (
            "IdenticalDataAndAlgorithm",
            {f"{DEFINITION}__InputDataConfig": [{"ChannelName": "other"}]},
            "input data is not that",
        ),
    ],
)  # fmt: skip
def test_warm_starts_that_are_not(kind: str, changes: Document, sentence: str) -> None:
    with pytest.raises(ApiError, match=sentence):
        warm(kind, **changes)


def test_a_warm_start_may_change_ten_things() -> None:
    words = {f"word{number}": "x" for number in range(5)}
    parent = tuning_job("parent", **{STATIC: {**words, "number": "1"}})
    changed = dict.fromkeys(words, "y")
    # Two for each changed word.
    warm(parent=parent, **{STATIC: {**changed, "number": "1"}})
    with pytest.raises(ApiError, match=r"^11 static hyperparameters"):
        warm(parent=parent, **{STATIC: {**changed, "number": "2"}})


def test_parents_must_have_ended() -> None:
    with pytest.raises(ApiError, match="is in status Stopping"):
        warm(parent={**tuning_job("parent"), "HyperParameterTuningJobStatus": "Stopping"})


def test_the_parents_jobs_count_against_the_quota() -> None:
    parent = {**tuning_job("parent"), "Trials": [{}] * 747}
    with pytest.raises(ApiError) as raised:
        warm(parent=parent)
    assert raised.value.code == "ResourceLimitExceeded"


# The log


@given(st.lists(st.sampled_from(["loss=1.5\n", "x\n", "loss=nan\n", "lo", "ss=2\n", "loss=\n", "é\r\n"])))
def test_a_growing_log_gives_each_value_once(pieces: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        definition = {"Name": "loss", "Regex": r"loss=([0-9.a-z]*)"}
        growing = MetricLog(path, definition)
        found = growing.read()
        for piece in pieces:
            with path.open("a", newline="") as file:
                file.write(piece)
            found += growing.read()
        found += growing.read(ended=True)
        assert found == MetricLog(path, definition).read(ended=True)
        assert set(found) <= {1.5, 2.0}
        assert found.count(1.5) == "".join(pieces).count("loss=1.5\n")
