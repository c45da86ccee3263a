"""Tuning jobs: a search over training jobs that really run."""

import re
import time
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local_sagemaker.cloud_client import Cloud, unique, wait

SCRIPT = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float)
parser.add_argument("--units", type=int)
parser.add_argument("--optimizer")
parser.add_argument("--fixed")
options = parser.parse_args()
assert options.fixed == "yes"
print(f"loss={(options.lr - 0.01) ** 2 + options.units / 1000:.6f}")
"""
RANGES = {
    "ContinuousParameterRanges": [
        {"Name": "lr", "MinValue": "0.0001", "MaxValue": "0.1", "ScalingType": "Logarithmic"}
    ],
    "IntegerParameterRanges": [{"Name": "units", "MinValue": "1", "MaxValue": "64", "ScalingType": "Auto"}],
    "CategoricalParameterRanges": [{"Name": "optimizer", "Values": ["sgd", "adam"]}],
}


def request(cloud: Cloud, script: str = SCRIPT, **config: Any) -> dict[str, Any]:
    training = cloud.training_request(script, HyperParameters={"fixed": "yes"})
    training["StaticHyperParameters"] = training.pop("HyperParameters")
    del training["TrainingJobName"]
    return {
        "HyperParameterTuningJobName": unique("tune"),
        "HyperParameterTuningJobConfig": {
            "Strategy": "Bayesian",
            "HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": "loss"},
            "ResourceLimits": {"MaxNumberOfTrainingJobs": 6, "MaxParallelTrainingJobs": 2},
            "ParameterRanges": RANGES,
            **config,
        },
        "TrainingJobDefinition": training,
    }


def describe(cloud: Cloud, name: str) -> dict[str, Any]:
    return dict(cloud.sagemaker.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name))


def tune(cloud: Cloud, script: str = SCRIPT, **config: Any) -> dict[str, Any]:
    body = request(cloud, script, **config)
    cloud.sagemaker.create_hyper_parameter_tuning_job(**body)
    name = body["HyperParameterTuningJobName"]
    return wait(lambda: describe(cloud, name), "HyperParameterTuningJobStatus")


def children(cloud: Cloud, job: dict[str, Any], **arguments: Any) -> list[dict[str, Any]]:
    name = job["HyperParameterTuningJobName"]
    answer = cloud.sagemaker.list_training_jobs_for_hyper_parameter_tuning_job(
        HyperParameterTuningJobName=name, **arguments
    )
    return list(answer["TrainingJobSummaries"])


def test_six_trials_two_at_a_time(cloud: Cloud) -> None:
    job = tune(cloud)
    name = job["HyperParameterTuningJobName"]
    assert job["HyperParameterTuningJobStatus"] == "Completed"
    assert job["TrainingJobStatusCounters"]["Completed"] == 6
    assert job["ObjectiveStatusCounters"] == {"Succeeded": 6, "Pending": 0, "Failed": 0}
    jobs = children(cloud, job, SortBy="FinalObjectiveMetricValue")
    values = [item["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] for item in jobs]
    assert values == sorted(values)
    assert job["BestTrainingJob"]["TrainingJobName"] == jobs[0]["TrainingJobName"]
    assert job["BestTrainingJob"]["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] == values[0]
    assert job["BestTrainingJob"]["TunedHyperParameters"].keys() == {"lr", "units", "optimizer"}
    spans = sorted((item["TrainingStartTime"], item["TrainingEndTime"]) for item in jobs)
    at_once = [sum(start <= moment < end for start, end in spans) for moment, _ in spans]
    assert max(at_once) <= 2
    for number, item in enumerate(children(cloud, job), 1):
        assert re.fullmatch(rf"{name}-{number:03d}-[0-9a-f]{{8}}", item["TrainingJobName"])
        training = cloud.sagemaker.describe_training_job(TrainingJobName=item["TrainingJobName"])
        assert training["TuningJobArn"] == job["HyperParameterTuningJobArn"]
        assert training["HyperParameters"]["_tuning_objective_metric"] == "loss"
        assert 0.0001 <= float(training["HyperParameters"]["lr"]) <= 0.1
        assert 1 <= int(training["HyperParameters"]["units"]) <= 64


def test_a_grid_is_walked_once(cloud: Cloud) -> None:
    ranges = {
        "CategoricalParameterRanges": [
            {"Name": "optimizer", "Values": ["sgd", "adam"]},
            {"Name": "units", "Values": ["1", "2"]},
            {"Name": "lr", "Values": ["0.1"]},
        ]
    }
    job = tune(cloud, Strategy="Grid", ParameterRanges=ranges, ResourceLimits={"MaxParallelTrainingJobs": 2})
    tried = {tuple(sorted(item["TunedHyperParameters"].values())) for item in children(cloud, job)}
    assert job["TrainingJobStatusCounters"]["Completed"] == len(tried) == 4


def test_when_all_fail_it_gives_up(cloud: Cloud) -> None:
    limits = {"MaxNumberOfTrainingJobs": 20, "MaxParallelTrainingJobs": 2}
    job = tune(cloud, "raise SystemExit('planted')", ResourceLimits=limits)
    assert job["HyperParameterTuningJobStatus"] == "Failed"
    assert job["FailureReason"].startswith("No training job succeeded after ")
    assert "BestTrainingJob" not in job
    assert job["ObjectiveStatusCounters"]["Succeeded"] == 0
    assert 5 <= len(children(cloud, job)) <= 7


def test_a_job_without_the_metric_does_not_count(cloud: Cloud) -> None:
    limits = {"MaxNumberOfTrainingJobs": 2, "MaxParallelTrainingJobs": 1}
    job = tune(cloud, "print('nothing')", ResourceLimits=limits)
    assert job["HyperParameterTuningJobStatus"] == "Failed"
    assert job["TrainingJobStatusCounters"]["Completed"] == 2
    assert job["ObjectiveStatusCounters"]["Failed"] == 2


def test_stop(cloud: Cloud) -> None:
    body = request(cloud, "import time; print('loss=1', flush=True); time.sleep(60)")
    cloud.sagemaker.create_hyper_parameter_tuning_job(**body)
    name = body["HyperParameterTuningJobName"]
    time.sleep(0.5)
    cloud.sagemaker.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    job = wait(lambda: describe(cloud, name), "HyperParameterTuningJobStatus")
    assert job["HyperParameterTuningJobStatus"] == "Stopped"
    assert job["TrainingJobStatusCounters"]["Stopped"] == 2


def _changed(path: str, value: Any) -> Any:
    return pytest.param(path, value, id=path.rpartition(".")[2])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        _changed("HyperParameterTuningJobConfig.ResourceLimits", {"MaxParallelTrainingJobs": 1}),
        _changed(
            "HyperParameterTuningJobConfig.ParameterRanges",
            {"ContinuousParameterRanges": [{"Name": "lr", "MinValue": "0.1", "MaxValue": "0.01"}]},
        ),
        _changed(
            "HyperParameterTuningJobConfig.HyperParameterTuningJobObjective",
            {"Type": "Minimize", "MetricName": "absent"},
        ),
        _changed("TrainingJobDefinition.StaticHyperParameters", {"lr": "1"}),
        _changed(
            "WarmStartConfig",
            {
                "ParentHyperParameterTuningJobs": [{"HyperParameterTuningJobName": "parent"}],
                "WarmStartType": "IdenticalDataAndAlgorithm",
            },
        ),
        _changed("HyperParameterTuningJobName", "a" * 33),
    ],
)
def test_what_makes_no_sense_or_is_not_done_is_refused(cloud: Cloud, path: str, value: Any) -> None:
    body = request(cloud)
    *parents, last = path.split(".")
    target = body
    for parent in parents:
        target = target[parent]
    target[last] = value
    with pytest.raises(ClientError) as raised:
        cloud.sagemaker.create_hyper_parameter_tuning_job(**body)
    assert raised.value.response["Error"]["Code"] == "ValidationException"
