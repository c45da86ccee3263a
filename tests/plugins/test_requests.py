"""The requests are what botocore's service model says they must be, and what the design promises."""

import json
from functools import cache
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator

from evergreen import requests
from evergreen.plan import Plan
from evergreen.settings import validate

DATASET = {
    "version": "v",
    "dataset_uri": "s3://b/dataset.json",
    "uri": "s3://b/d",
    "counts": {"train": {"a": 1}},
    "ignored": [],
    "manifests": {name: f"s3://b/{name}.manifest" for name in ("train", "validation", "test")},
}
WEIGHTS = {"name": "DEFAULT", "uri": "s3://b/w/weights.safetensors"}
CODE = {
    "hash": "h",
    "features_hash": "f",
    "archive": "s3://b/code/sourcedir.tar.gz",
    "source": "s3://b/code/src/",
}
FEATURES = {"uri": "s3://b/features/k", "computed": True}
TUNING = {
    "Tuning": {
        "HyperParameterTuningJobName": "t",
        "BestTrainingJob": {
            "TrainingJobName": "t-1",
            "TunedHyperParameters": {"lr": "0.01", "batch-size": '"64"', "epochs": "9"},
        },
    },
    "TrainingJobs": [],
}
CHAMPION = {"endpoint_config": "c", "model_data": "s3://b/m.tar.gz"}
TRAINING = {"Training": {"ModelArtifacts": {"S3ModelArtifacts": "s3://b/j/output/model.tar.gz"}}}


def plan(**pipeline: Any) -> Plan:
    return Plan(
        dag_id="retrain_digits",
        run_id="manual__2026-11-21T09:46:20+00:00",
        run_type="manual",
        started_at="2026-11-21T09:46:20+00:00",
        pipeline_name="digits",
        pipeline=validate({"dataset": {"source": "x"}, **pipeline}, "x.yaml"),
        bucket="b",
        role="arn:aws:iam::123456789012:role/EvergreenSageMakerRole",
        training_image="1.dkr.ecr.us-east-1.amazonaws.com/pytorch-training:2.10.0-cpu-py313",
        inference_image="1.dkr.ecr.us-east-1.amazonaws.com/pytorch-inference:2.6.0-cpu-py312",
    )


@cache
def service_model(service: str) -> Any:
    return botocore.session.get_session().get_service_model(service)


def valid(operation: str, request: dict[str, Any], service: str = "sagemaker") -> None:
    shape = service_model(service).operation_model(operation).input_shape
    errors = ParamValidator().validate(request, shape)
    assert not errors.has_errors(), errors.generate_report()
    json.dumps(request)


@pytest.mark.parametrize(
    ("operation", "request_"),
    [
        ("CreateProcessingJob", {"ProcessingJobName": "n"}
         | requests.extract_features(plan(), DATASET, CODE, WEIGHTS, DATASET["manifests"], "s3://b/f")),
        ("CreateProcessingJob", {"ProcessingJobName": "n"} | requests.fetch_weights(plan(), CODE, "s3://b/w")),
        ("CreateProcessingJob", {"ProcessingJobName": "n"}
         | requests.assess(plan(), DATASET, CODE, TRAINING, CHAMPION["model_data"], "s3://b/context.json", "s3://b/sample")),
        ("CreateHyperParameterTuningJob", {"HyperParameterTuningJobName": "n"}
         | requests.tune(plan(), DATASET, FEATURES, CODE)),
        ("CreateTrainingJob", {"TrainingJobName": "n"} | requests.retrain(plan(), DATASET, FEATURES, CODE, TUNING)),
        ("CreateTrainingJob", {"TrainingJobName": "n"} | requests.retrain(plan(), DATASET, None, CODE, TUNING)),
    ],
)  # fmt: skip
def test_botocore_accepts_every_request(operation: str, request_: dict[str, Any]) -> None:
    valid(operation, request_)


@pytest.mark.parametrize("features", [FEATURES, None])
def test_no_training_job_sees_the_test_split(features: dict[str, Any] | None) -> None:
    tune = requests.tune(plan(), DATASET, features, CODE)
    retrain = requests.retrain(plan(), DATASET, features, CODE, TUNING)
    assert "test" not in json.dumps(tune["TrainingJobDefinition"]["InputDataConfig"])
    assert "test" not in json.dumps(retrain["InputDataConfig"])
    assert tune["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]["MetricName"].startswith(
        "validation"
    )


def test_the_best_three_trials_are_repeated_where_the_pipeline_asks() -> None:
    trials = [
        {
            "name": f"t-{number}",
            "objective": value,
            "hyperparameters": {"lr": "0.1", "batch-size": '"64"', "epochs": "9"},
        }
        for number, value in enumerate((0.4, None, 0.1, 0.3, 0.2))
    ]
    tuning = {**TUNING, "TrainingJobs": trials}
    assert "stability" not in requests.retrain(plan(), DATASET, FEATURES, CODE, tuning)["HyperParameters"]
    asked = requests.retrain(plan(tuning={"stability_seeds": 4}), DATASET, FEATURES, CODE, tuning)
    given = json.loads(asked["HyperParameters"]["stability"])
    assert given["seeds"] == 4
    assert [trial["name"] for trial in given["trials"]] == ["t-2", "t-4", "t-3"]
    assert given["trials"][0]["batch-size"] == "64"


def test_the_sample_of_training_images_is_spread_over_all_of_them() -> None:
    files = [f"{number % 7}/{number}.jpg" for number in range(1257)]
    prefix, *sample = requests.train_sample([{"prefix": "s3://b/d/train/"}, *files])
    assert prefix == {"prefix": "s3://b/d/train/"}
    assert sample == files[::3]
    assert requests.train_sample([prefix, *files[:4]])[1:] == files[:4]


def test_the_learning_rate_is_searched_on_a_log_scale() -> None:
    ranges = requests.tune(plan(), DATASET, FEATURES, CODE)["HyperParameterTuningJobConfig"][
        "ParameterRanges"
    ]
    assert ranges["ContinuousParameterRanges"][0]["ScalingType"] == "Logarithmic"


def test_the_best_trials_values_come_without_sagemakers_quotes() -> None:
    assert requests.best_hyperparameters(TUNING["Tuning"]) == {
        "lr": "0.01",
        "batch-size": "64",
        "epochs": "9",
    }
    with pytest.raises(ValueError, match="no trial reported its objective"):
        requests.best_hyperparameters({"HyperParameterTuningJobName": "t"})


def test_debugger_and_profiler_are_on_the_retraining_alone() -> None:
    static = requests.tune(plan(), DATASET, FEATURES, CODE)["TrainingJobDefinition"]["StaticHyperParameters"]
    hyperparameters = requests.retrain(plan(), DATASET, FEATURES, CODE, TUNING)["HyperParameters"]
    assert not {"debug-hook-config", "profiler-interval-ms"} & set(static)
    assert hyperparameters["profiler-interval-ms"] == "500"
    config = json.loads(hyperparameters["debug-hook-config"])
    assert config["HookParameters"] == {"train.save_interval": "100", "eval.save_interval": "10"}
    names = {collection["CollectionName"] for collection in config["CollectionConfigurations"]}
    assert {"weights", "gradients", "biases", "losses"} <= names
    off = requests.retrain(plan(debugger={"enabled": False}), DATASET, FEATURES, CODE, TUNING)
    assert "debug-hook-config" not in off["HyperParameters"]


def test_the_retraining_alone_has_checkpoints_and_several_instances() -> None:
    several = plan(compute={"training_instance_count": 3})
    trial = requests.tune(several, DATASET, FEATURES, CODE)["TrainingJobDefinition"]
    retraining = requests.retrain(several, DATASET, FEATURES, CODE, TUNING)
    assert trial["ResourceConfig"]["InstanceCount"] == 1
    assert retraining["ResourceConfig"]["InstanceCount"] == 3
    assert "CheckpointConfig" not in trial
    folder = retraining["CheckpointConfig"]["LocalPath"]
    assert retraining["Environment"] == {"SM_CHECKPOINT_DIR": folder}
    assert retraining["CheckpointConfig"]["S3Uri"].startswith(f"{several.run_uri}/")


def test_every_setting_of_the_training_reaches_it() -> None:
    tuning = {"warmup_epochs": 0.5, "label_smoothing": 0.1, "class_weights": "balanced", "patience": 3,
              "precision": "bf16", "objective": "validation_accuracy", "optimizer": "adamw"}  # fmt: skip
    changed = plan(tuning=tuning)
    for hyperparameters in (
        requests.tune(changed, DATASET, FEATURES, CODE)["TrainingJobDefinition"]["StaticHyperParameters"],
        requests.retrain(changed, DATASET, FEATURES, CODE, TUNING)["HyperParameters"],
    ):
        assert {name: str(value) for name, value in tuning.items()}.items() <= {
            name.replace("-", "_"): value for name, value in hyperparameters.items()
        }.items()


def test_hyperparameters_fit_sagemakers_limit_of_2500_characters() -> None:
    hyperparameters = requests.retrain(plan(), DATASET, FEATURES, CODE, TUNING)["HyperParameters"]
    assert max(len(value) for value in hyperparameters.values()) <= 2500
    assert all(isinstance(value, str) for value in hyperparameters.values())
