"""Tuning jobs: strategies, early stopping, completion, warm start, several algorithms, and what the lists answer."""

import hashlib
import json
import sqlite3
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from local_sagemaker.processes.runner import box
from tests.local_sagemaker.cloud_client import Cloud, unique, wait
from tests.local_sagemaker.test_tuning import children, describe, request

CONFIG, STATUS = "HyperParameterTuningJobConfig", "HyperParameterTuningJobStatus"
# The value that is tuned is the loss.
SCRIPT = """
import sys
values = dict(zip(sys.argv[1::2], sys.argv[2::2]))
print("loss=" + values["--loss"])
"""
# It takes one moment or another, so that jobs end in one order or another.
SCATTERED = f"import random, time; time.sleep(random.choice([0, 0.1, 0.2])){SCRIPT}"
LOSSES = {"ContinuousParameterRanges": [{"Name": "loss", "MinValue": "0", "MaxValue": "1"}]}


def grid(*losses: str) -> dict[str, Any]:
    return {"CategoricalParameterRanges": [{"Name": "loss", "Values": list(losses)}]}


def limits(jobs: int, parallel: int = 1) -> dict[str, int]:
    return {"MaxNumberOfTrainingJobs": jobs, "MaxParallelTrainingJobs": parallel}


def body(cloud: Cloud, script: str = SCRIPT, **config: Any) -> dict[str, Any]:
    """A request to tune `loss` and nothing else."""
    return request(cloud, script, **{"Strategy": "Random", "ParameterRanges": LOSSES, **config})


def carry_out(cloud: Cloud, made: dict[str, Any]) -> dict[str, Any]:
    cloud.sagemaker.create_hyper_parameter_tuning_job(**made)
    name = made["HyperParameterTuningJobName"]
    return wait(lambda: describe(cloud, name), STATUS)


def run(cloud: Cloud, script: str = SCRIPT, **config: Any) -> dict[str, Any]:
    return carry_out(cloud, body(cloud, script, **config))


def tried(cloud: Cloud, job: dict[str, Any]) -> list[str]:
    return [item["TunedHyperParameters"]["loss"] for item in children(cloud, job)]


def statuses(cloud: Cloud, job: dict[str, Any]) -> list[str]:
    return [item["TrainingJobStatus"] for item in children(cloud, job)]


def stored_trials(cloud: Cloud, job: dict[str, Any]) -> list[dict[str, Any]]:
    """What the service has written down, of which AWS tells nothing."""
    with sqlite3.connect(cloud.state / "documents.sqlite") as database:
        query = "select body from documents where kind = 'HyperParameterTuningJob' and name = ?"
        (text,) = database.execute(query, (job["HyperParameterTuningJobName"],)).fetchone()
    database.close()
    return list(json.loads(text)["Trials"])


# Strategies


@pytest.mark.parametrize("strategy", ["Bayesian", "Random"])
def test_a_seed_repeats_the_search_whichever_job_ends_first(cloud: Cloud, strategy: str) -> None:
    found = [
        tried(
            cloud,
            run(cloud, SCATTERED, Strategy=strategy, RandomSeed=5, ResourceLimits=limits(8, parallel=3)),
        )
        for _ in range(2)
    ]
    assert found[0] == found[1]
    assert len(set(found[0])) == 8
    other = run(cloud, Strategy=strategy, RandomSeed=6, ResourceLimits=limits(1))
    assert tried(cloud, other)[0] not in found[0]


def test_without_a_seed_it_is_another_search(cloud: Cloud) -> None:
    found = [tried(cloud, run(cloud, ResourceLimits=limits(1))) for _ in range(2)]
    assert found[0] != found[1]


THREE_EPOCHS = f"{SCRIPT}{SCRIPT}{SCRIPT}"
ENDLESS = f"{THREE_EPOCHS}import time; sys.stdout.flush(); time.sleep(60)"


def test_hyperband_stops_the_worse_ones_early_and_all_at_the_end(cloud: Cloud) -> None:
    """Three epochs at most. Scripts that would go on for a minute are ended by the tuning job, and those that end
    at once make no difference to the search."""
    resources = {"HyperbandStrategyConfig": {"MinResource": 1, "MaxResource": 3}}
    found = []
    for script in (ENDLESS, THREE_EPOCHS):
        job = run(
            cloud,
            script,
            Strategy="Hyperband",
            StrategyConfig=resources,
            RandomSeed=1,
            ResourceLimits=limits(5),
        )
        assert job[STATUS] == "Completed"
        assert job["ObjectiveStatusCounters"]["Succeeded"] == 5
        if script == ENDLESS:
            assert job["TrainingJobStatusCounters"]["Stopped"] == 5
        for item in children(cloud, job):
            value = item["FinalHyperParameterTuningJobObjectiveMetric"]["Value"]
            assert value == pytest.approx(float(item["TunedHyperParameters"]["loss"]))
        trials = stored_trials(cloud, job)
        found.append([(trial["TunedHyperParameters"], trial["StoppedAt"]) for trial in trials])
    assert found[0] == found[1]
    assert {epoch for _, epoch in found[0]} == {1, 3}


def test_early_stopping(cloud: Cloud) -> None:
    """The second is worse than the median of one, the third better: it completes, like the first."""
    script = f"{SCRIPT}{SCRIPT}import time; sys.stdout.flush(); values['--loss'] > '5' and time.sleep(60)"
    job = run(
        cloud,
        script,
        Strategy="Grid",
        ParameterRanges=grid("5", "9", "1"),
        TrainingJobEarlyStoppingType="Auto",
        ResourceLimits={"MaxParallelTrainingJobs": 1},
    )
    assert statuses(cloud, job) == ["Completed", "Stopped", "Completed"]
    stopped = children(cloud, job, StatusEquals="Stopped")[0]
    assert stopped["ObjectiveStatus"] == "Succeeded"
    assert stopped["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] == 9
    assert stored_trials(cloud, job)[1]["StoppedAt"] == 1
    assert job["TrainingJobStatusCounters"]["Stopped"] == 1
    assert job["BestTrainingJob"]["TunedHyperParameters"] == {"loss": "1"}


# Completion


def test_the_target_ends_it(cloud: Cloud) -> None:
    job = run(
        cloud,
        Strategy="Grid",
        ParameterRanges=grid("5", "4", "3", "2"),
        TuningJobCompletionCriteria={"TargetObjectiveMetricValue": 4},
        ResourceLimits={"MaxParallelTrainingJobs": 1},
    )
    assert job[STATUS] == "Completed"
    assert tried(cloud, job) == ["5", "4"]
    assert job[CONFIG]["ResourceLimits"]["MaxNumberOfTrainingJobs"] == 4


def test_no_improvement_ends_it(cloud: Cloud) -> None:
    criteria = {"BestObjectiveNotImproving": {"MaxNumberOfTrainingJobsNotImproving": 3}}
    job = run(cloud, "print('loss=1')", TuningJobCompletionCriteria=criteria, ResourceLimits=limits(20))
    assert job[STATUS] == "Completed"
    assert job["TrainingJobStatusCounters"]["Completed"] == 4
    assert job["TuningJobCompletionDetails"] == {"NumberOfTrainingJobsObjectiveNotImproving": 3}


def test_convergence_ends_it(cloud: Cloud) -> None:
    criteria = {"ConvergenceDetected": {"CompleteOnConvergence": "Enabled"}}
    job = run(
        cloud, "print('loss=1')", TuningJobCompletionCriteria=criteria, ResourceLimits=limits(30, parallel=2)
    )
    assert job[STATUS] == "Completed"
    assert 11 <= sum(job["TrainingJobStatusCounters"].values()) <= 13
    details = job["TuningJobCompletionDetails"]
    assert job["CreationTime"] < details["ConvergenceDetectedTime"] < job["HyperParameterTuningEndTime"]


def test_too_many_jobs_are_refused(cloud: Cloud) -> None:
    with pytest.raises(ClientError) as raised:
        run(cloud, ResourceLimits=limits(10_001))
    assert raised.value.response["Error"]["Code"] == "ResourceLimitExceeded"


# Lost training jobs


def lose(cloud: Cloud, tuning_job: str, count: int) -> None:
    """Let the first training jobs of a tuning job fail inside the service: a folder lies where a file would go."""
    for number in range(1, count + 1):
        suffix = hashlib.sha256(f"{tuning_job}/{number}".encode()).hexdigest()[:8]
        state: Any = SimpleNamespace(state=cloud.state)
        where = box(state, "TrainingJob", f"{tuning_job}-{number:03d}-{suffix}")
        (where.ml / "input/config/hyperparameters.json").mkdir(parents=True)


def test_lost_training_jobs_are_tried_again_with_the_same_values(cloud: Cloud) -> None:
    made = body(cloud, ResourceLimits=limits(2))
    lose(cloud, made["HyperParameterTuningJobName"], 2)
    job = carry_out(cloud, made)
    assert job[STATUS] == "Completed"
    assert statuses(cloud, job) == ["Failed", "Failed", "Completed", "Completed"]
    values = tried(cloud, job)
    assert values[0] == values[1] == values[2] != values[3]
    assert job["TrainingJobStatusCounters"] == {
        "Completed": 2,
        "InProgress": 0,
        "RetryableError": 2,
        "NonRetryableError": 0,
        "Stopped": 0,
    }


def test_but_not_for_ever(cloud: Cloud) -> None:
    made = body(cloud, ResourceLimits=limits(1))
    lose(cloud, made["HyperParameterTuningJobName"], 5)
    job = carry_out(cloud, made)
    assert job[STATUS] == "Failed"
    assert job["FailureReason"].startswith("No training job succeeded after 1 attempts")
    assert job["TrainingJobStatusCounters"]["RetryableError"] == 4
    assert job["ObjectiveStatusCounters"]["Failed"] == 4


def test_what_fails_by_its_own_fault_is_not_tried_again(cloud: Cloud) -> None:
    job = run(cloud, "raise SystemExit(3)", ResourceLimits=limits(2, parallel=2))
    assert job["TrainingJobStatusCounters"]["NonRetryableError"] == 2
    assert len(set(tried(cloud, job))) == 2


# Several algorithms


def test_several_algorithms(cloud: Cloud) -> None:
    made = body(cloud, ResourceLimits=limits(5, parallel=2))
    del made[CONFIG]["ParameterRanges"]
    objective = made[CONFIG].pop("HyperParameterTuningJobObjective")
    single = made.pop("TrainingJobDefinition")
    error = {"Name": "error", "Regex": "loss=(.*)"}
    other = {**single["AlgorithmSpecification"], "MetricDefinitions": [error]}
    made["TrainingJobDefinitions"] = [
        {
            **single,
            "DefinitionName": "first",
            "TuningObjective": objective,
            "HyperParameterRanges": {
                "ContinuousParameterRanges": [{"Name": "loss", "MinValue": "1", "MaxValue": "2"}]
            },
        },
        {
            **single,
            "DefinitionName": "second",
            "TuningObjective": {**objective, "MetricName": "error"},
            "AlgorithmSpecification": other,
            "HyperParameterRanges": {
                "IntegerParameterRanges": [{"Name": "loss", "MinValue": "3", "MaxValue": "30"}]
            },
        },
    ]
    job = carry_out(cloud, made)
    jobs = children(cloud, job)
    assert [item["TrainingJobDefinitionName"] for item in jobs] == [
        "first",
        "second",
        "first",
        "second",
        "first",
    ]
    metrics = [item["FinalHyperParameterTuningJobObjectiveMetric"]["MetricName"] for item in jobs]
    assert metrics == ["loss", "error", "loss", "error", "loss"]
    assert job["BestTrainingJob"]["TrainingJobDefinitionName"] == "first"
    assert [item["DefinitionName"] for item in job["TrainingJobDefinitions"]] == ["first", "second"]


# Warm start


def test_warm_start(cloud: Cloud) -> None:
    made = body(
        cloud, Strategy="Grid", ParameterRanges=grid("7", "2"), ResourceLimits={"MaxParallelTrainingJobs": 2}
    )
    parent = carry_out(cloud, made)
    assert "OverallBestTrainingJob" not in parent
    parents = [{"HyperParameterTuningJobName": parent["HyperParameterTuningJobName"]}]
    for kind in ("IdenticalDataAndAlgorithm", "TransferLearning"):
        child = json.loads(json.dumps(made))
        child["HyperParameterTuningJobName"] = unique("warm")
        child["WarmStartConfig"] = {"WarmStartType": kind, "ParentHyperParameterTuningJobs": parents}
        child[CONFIG] |= {
            "Strategy": "Bayesian",
            "ParameterRanges": grid("3", "4"),
            "ResourceLimits": limits(2),
        }
        job = carry_out(cloud, child)
        assert job[STATUS] == "Completed"
        assert job["BestTrainingJob"]["TunedHyperParameters"] == {"loss": "3"}
        if kind == "TransferLearning":
            assert "OverallBestTrainingJob" not in job
        else:
            assert job["OverallBestTrainingJob"] == parent["BestTrainingJob"]
            assert job["OverallBestTrainingJob"]["TuningJobName"] == parent["HyperParameterTuningJobName"]
        assert job["WarmStartConfig"] == child["WarmStartConfig"]


# What the operations answer


def test_the_training_jobs_get_what_the_definition_has(cloud: Cloud) -> None:
    made = body(cloud, ResourceLimits=limits(1))
    made["Tags"] = [{"Key": "team", "Value": "blue"}]
    made["TrainingJobDefinition"] |= {
        "RetryStrategy": {"MaximumRetryAttempts": 2},
        "Environment": {"COLOUR": "green"},
    }
    job = carry_out(cloud, made)
    child = children(cloud, job)[0]
    training = cloud.sagemaker.describe_training_job(TrainingJobName=child["TrainingJobName"])
    assert training["RetryStrategy"] == {"MaximumRetryAttempts": 2}
    assert training["Environment"] == {"COLOUR": "green"}
    tags = cloud.sagemaker.list_tags(ResourceArn=child["TrainingJobArn"])["Tags"]
    assert tags == made["Tags"]
    assert child["TuningJobName"] == job["HyperParameterTuningJobName"]
    assert "TrainingJobDefinitionName" not in child
    seconds = (job["HyperParameterTuningEndTime"] - job["CreationTime"]).total_seconds()
    assert job["ConsumedResources"]["RuntimeInSeconds"] == int(seconds)


def test_an_image_may_have_metrics_of_its_own(cloud: Cloud) -> None:
    made = body(cloud, ResourceLimits=limits(1))
    made["TrainingJobDefinition"]["AlgorithmSpecification"] = {
        "TrainingImage": "test/measured:1",
        "TrainingInputMode": "File",
    }
    job = carry_out(cloud, made)
    assert job["ObjectiveStatusCounters"]["Succeeded"] == 1
    metrics = job["TrainingJobDefinition"]["AlgorithmSpecification"]["MetricDefinitions"]
    assert [item["Name"] for item in metrics] == ["loss"]


def test_the_lists(cloud: Cloud) -> None:
    losses = [str(number) for number in range(12)]
    script = f"{SCRIPT}if values['--loss'] == '11': raise SystemExit(1)"
    job = run(
        cloud,
        script,
        Strategy="Grid",
        ParameterRanges=grid(*losses),
        ResourceLimits={"MaxParallelTrainingJobs": 2},
    )
    # Ten to a page, by name.
    names = [item["TrainingJobName"] for item in children(cloud, job)]
    assert len(names) == 10
    assert names == sorted(names)
    assert len(children(cloud, job, MaxResults=100)) == 12
    worst = children(cloud, job, SortBy="FinalObjectiveMetricValue", SortOrder="Descending", MaxResults=100)
    values = [item["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] for item in worst]
    assert values == [float(number) for number in reversed(range(11))]
    failed = children(cloud, job, StatusEquals="Failed")
    assert [item["ObjectiveStatus"] for item in failed] == ["Failed"]
    assert children(cloud, job, SortBy="Status", SortOrder="Descending")[0]["TrainingJobStatus"] == "Failed"
    latest = children(cloud, job, SortBy="CreationTime", SortOrder="Descending")
    assert latest[0]["CreationTime"] >= latest[-1]["CreationTime"]

    name = job["HyperParameterTuningJobName"]
    found = cloud.sagemaker.list_hyper_parameter_tuning_jobs(NameContains=name, StatusEquals="Completed")
    summary = next(
        item
        for item in found["HyperParameterTuningJobSummaries"]
        if item["HyperParameterTuningJobName"] == name
    )
    assert summary["Strategy"] == "Grid"
    assert summary["TrainingJobStatusCounters"]["NonRetryableError"] == 1
    assert summary["ObjectiveStatusCounters"] == {"Succeeded": 11, "Pending": 0, "Failed": 1}
    assert summary["HyperParameterTuningEndTime"] == job["HyperParameterTuningEndTime"]
    assert summary["ResourceLimits"]["MaxNumberOfTrainingJobs"] == 12
    arguments = {"NameContains": name, "StatusEquals": "Failed"}
    assert not cloud.sagemaker.list_hyper_parameter_tuning_jobs(**arguments)[
        "HyperParameterTuningJobSummaries"
    ]
