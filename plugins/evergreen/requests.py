"""SageMaker requests: pure functions of the plan and of what earlier tasks returned.

Each returns the keyword arguments of one boto3 call, without the job's name (the operator chooses it, since a
retry may need the next one) and with `RoleArn` as the plan has it (the provider expands a name to an ARN).
"""

import json
import math
from typing import Any

from evergreen import compute_requests, debugger
from evergreen.plan import Plan

Request = dict[str, Any]

PROCESSING = "/opt/ml/processing"
CHECKPOINTS = "/opt/ml/checkpoints"
# A container without a network gets its code by a channel; all others fetch it from S3.
CODE_CHANNEL = "/opt/ml/input/data/code"
OBJECTIVES = {"validation_loss": "Minimize", "validation_accuracy": "Maximize"}
# What assess looks at of the training split: as many as it takes of each split.
TRAIN_SAMPLE = 500
STABILITY_TRIALS = 3
_NUMBER = r"([0-9.eE+-]+)"
METRICS = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")


def fetch_weights(plan: Plan, code: dict[str, Any], uri: str) -> Request:
    """CreateProcessingJob: torchvision's weights → S3. The only job that needs a network besides AWS's."""
    model = plan.pipeline.model
    arguments = {"arch": model.arch, "weights": model.weights, "output": f"{PROCESSING}/output"}
    return _processing(plan, code, "fetch_weights.py", arguments, [], {"weights": uri}, isolated=False)


def extract_features(
    plan: Plan,
    dataset: dict[str, Any],
    code: dict[str, Any],
    weights: dict[str, Any] | None,
    manifests: dict[str, str],
    features_uri: str,
) -> Request:
    """CreateProcessingJob: the frozen trunk over images of the train and validation splits, shared among instances.

    :param manifests: of the splits that have images to compute.
    """
    model = plan.pipeline.model
    arguments = {
        "output": f"{PROCESSING}/output",
        "dataset": f"{PROCESSING}/input/dataset/dataset.json",
        "resource-config": "/opt/ml/config/resourceconfig.json",
        "arch": model.arch,
        "weights": model.weights,
        "tail": model.tail,
        "image-size": model.image_size,
        "views": model.views,
        "flip": str(model.flip).lower(),
        "seed": plan.pipeline.tuning.seed,
        "max-unreadable": plan.pipeline.dataset.max_unreadable,
    }
    inputs = [_input("dataset", dataset["dataset_uri"])]
    if weights:
        arguments["weights"] = weights["name"]
        arguments["weights-file"] = f"{PROCESSING}/input/weights/{weights['uri'].rpartition('/')[2]}"
        inputs.append(_input("weights", weights["uri"]))
    for split, manifest in manifests.items():
        arguments[split] = f"{PROCESSING}/input/{split}"
        inputs.append(_input(split, manifest, manifest=True, sharded=True))
    return _processing(
        plan, code, "features.py", arguments, inputs, {"features": features_uri},
        image=plan.feature_image, instance_type=plan.pipeline.compute.for_features,
        instances=plan.pipeline.compute.feature_instance_count, continuous=True,
    )  # fmt: skip


def assess(
    plan: Plan,
    dataset: dict[str, Any],
    code: dict[str, Any],
    training: dict[str, Any],
    champion_archive: str | None,
    context_uri: str,
    train_sample_uri: str,
    platform_outputs: dict[str, str] | None = None,
) -> Request:
    """CreateProcessingJob: rules, test-set evaluation against the champion, report.

    :param champion_archive: None when nothing serves, and when the archive of what serves is gone.
    :param train_sample_uri: the manifest that `train_sample` made.
    :param platform_outputs: `debug-output` and `profiler-output` → where SageMaker put them, in managed mode.
    """
    model_data = training["Training"]["ModelArtifacts"]["S3ModelArtifacts"]
    names = ("model", "training-output", "test", "train-sample")
    arguments = {name: f"{PROCESSING}/input/{name}" for name in names}
    arguments |= {"context": f"{PROCESSING}/input/context/context.json", "output": f"{PROCESSING}/output"}
    inputs = [
        _input("model", model_data),
        _input("training-output", f"{model_data.rpartition('/')[0]}/output.tar.gz"),
        _input("test", dataset["manifests"]["test"], manifest=True),
        _input("train-sample", train_sample_uri, manifest=True),
        _input("context", context_uri),
    ]
    if plan.pipeline.assess.int8_max_accuracy_loss is not None:
        arguments["validation"] = f"{PROCESSING}/input/validation"
        inputs.append(_input("validation", dataset["manifests"]["validation"], manifest=True))
    optional = {"champion": champion_archive} if champion_archive else {}
    for name, uri in {**optional, **(platform_outputs or {})}.items():
        arguments[name] = f"{PROCESSING}/input/{name}"
        inputs.append(_input(name, uri))
    return _processing(
        plan, code, "assess.py", arguments, inputs, {"report": assess_uri(plan)},
        image=plan.assess_image, instance_type=plan.pipeline.compute.for_assessment,
    )  # fmt: skip


def monitor(
    plan: Plan, code: dict[str, Any], model_data: str, snapshot_uri: str, capture_uri: str, output_uri: str
) -> Request:
    """CreateProcessingJob: captured requests against the training snapshot of the model that serves.

    :param capture_uri: a manifest of data capture's files.
    """
    settings = plan.pipeline.monitor
    assert settings
    arguments: dict[str, Any] = {
        name: f"{PROCESSING}/input/{name}" for name in ("model", "snapshot", "capture")
    }
    arguments |= {
        "output": f"{PROCESSING}/output",
        "psi-limit": settings.psi_limit,
        "minimum-images": settings.minimum_images,
    }
    inputs = [
        _input("model", model_data),
        _input("snapshot", snapshot_uri),
        _input("capture", capture_uri, manifest=True),
    ]
    return _processing(
        plan, code, "monitor.py", arguments, inputs, {"drift": output_uri},
        image=plan.assess_image, instance_type=plan.pipeline.compute.for_assessment,
    )  # fmt: skip


def train_sample(manifest: list[Any]) -> list[Any]:
    """A ManifestFile of at most 500 of another's files, evenly: what the test split is compared with."""
    prefix, *files = manifest
    step = max(1, math.ceil(len(files) / TRAIN_SAMPLE))
    return [prefix, *files[::step]]


def assess_uri(plan: Plan) -> str:
    return f"{plan.run_uri}/assess"


def tune(
    plan: Plan,
    dataset: dict[str, Any],
    features: dict[str, Any] | None,
    code: dict[str, Any],
    weights: dict[str, Any] | None = None,
) -> Request:
    """CreateHyperParameterTuningJob. Its channels hold the train and validation splits, never test."""
    tuning = plan.pipeline.tuning
    ranges = {
        "ContinuousParameterRanges": [
            {
                "Name": "lr",
                "MinValue": repr(tuning.lr.min),
                "MaxValue": repr(tuning.lr.max),
                "ScalingType": "Logarithmic",
            }
        ],
        "IntegerParameterRanges": [
            {
                "Name": "epochs",
                "MinValue": str(tuning.epochs.min),
                "MaxValue": str(tuning.epochs.max),
                "ScalingType": "Auto",
            }
        ],
        "CategoricalParameterRanges": [{"Name": "batch-size", "Values": [str(n) for n in tuning.batch_size]}],
    }
    return {
        "HyperParameterTuningJobConfig": {
            "Strategy": tuning.strategy,
            "HyperParameterTuningJobObjective": {
                "Type": OBJECTIVES[tuning.objective],
                "MetricName": tuning.objective,
            },
            "ResourceLimits": {
                "MaxNumberOfTrainingJobs": tuning.max_jobs,
                "MaxParallelTrainingJobs": tuning.max_parallel_jobs,
            },
            "ParameterRanges": ranges,
            "TrainingJobEarlyStoppingType": "Off",
            "RandomSeed": tuning.seed,
        },
        "TrainingJobDefinition": {
            "StaticHyperParameters": _static_hyperparameters(plan, code, weights),
            **_training(plan, dataset, features, code, weights),
        },
        "Tags": tags(plan),
    }


def retrain(
    plan: Plan,
    dataset: dict[str, Any],
    features: dict[str, Any] | None,
    code: dict[str, Any],
    tuning: dict[str, Any],
    weights: dict[str, Any] | None = None,
) -> Request:
    """CreateTrainingJob with the best trial's hyperparameters, debugger hook and profiler on.

    What `debugger.managed` adds takes the job's name. Every try of a run has the same place for its checkpoints, so
    that the job which replaces one that failed goes on where that one was.
    """
    compute = plan.pipeline.compute
    request = _training(plan, dataset, features, code, weights, compute.training_instance_count)
    request["ResourceConfig"] |= compute_requests.warm_pool(compute)
    return {
        "HyperParameters": _static_hyperparameters(plan, code, weights)
        | best_hyperparameters(tuning["Tuning"])
        | stability(plan, tuning)
        | debugger.hyperparameters(plan),
        **request,
        "CheckpointConfig": {"S3Uri": f"{plan.run_uri}/checkpoints", "LocalPath": CHECKPOINTS},
        # Of SageMaker's own failures; the same job goes on from its last checkpoint.
        "RetryStrategy": {"MaximumRetryAttempts": 2},
        # The toolkit in AWS's images has no variable for it.
        "Environment": {"SM_CHECKPOINT_DIR": CHECKPOINTS},
        "Tags": tags(plan),
    }


def stability(plan: Plan, tuning: dict[str, Any]) -> dict[str, str]:
    """The hyperparameter that has train.py repeat the best three trials, or none."""
    seeds = plan.pipeline.tuning.stability_seeds
    if not seeds:
        return {}
    sign = 1 if OBJECTIVES[plan.pipeline.tuning.objective] == "Minimize" else -1
    ended = [trial for trial in tuning["TrainingJobs"] if trial["objective"] is not None]
    trials = [
        {
            "name": trial["name"],
            **{name: value.strip('"') for name, value in trial["hyperparameters"].items()},
        }
        for trial in sorted(ended, key=lambda trial: sign * float(trial["objective"]))[:STABILITY_TRIALS]
    ]
    return {"stability": json.dumps({"seeds": seeds, "trials": trials}, separators=(",", ":"))}


def best_hyperparameters(tuning: dict[str, Any]) -> dict[str, str]:
    """Tuned values of a tuning job's best trial, as train.py takes them.

    SageMaker returns categorical values in quotes ('"64"') when the tuner was given JSON strings.

    :raises ValueError: when no trial reported the objective.
    """
    best = tuning.get("BestTrainingJob")
    if not best:
        raise ValueError(
            f"tuning job {tuning['HyperParameterTuningJobName']} has no best training job: no trial reported its "
            "objective; see the trials' logs"
        )
    return {name: value.strip('"') for name, value in best["TunedHyperParameters"].items()}


def tags(plan: Plan) -> list[dict[str, str]]:
    return [*lasting_tags(plan), {"Key": "evergreen:run", "Value": plan.run_folder}]


def lasting_tags(plan: Plan) -> list[dict[str, str]]:
    """Of what later runs go on using."""
    own = {"evergreen:pipeline": plan.pipeline_name}
    return [{"Key": key, "Value": value} for key, value in (own | plan.pipeline.compute.tags).items()]


def _static_hyperparameters(
    plan: Plan, code: dict[str, Any], weights: dict[str, Any] | None
) -> dict[str, str]:
    tuning, network = plan.pipeline.tuning, plan.pipeline.model
    isolated = plan.pipeline.compute.enable_network_isolation
    return {
        "sagemaker_program": "train.py",
        "sagemaker_submit_directory": f"{CODE_CHANNEL}/sourcedir.tar.gz" if isolated else code["archive"],
        "arch": network.arch,
        "tail": network.tail,
        "weights": weights["name"] if weights else network.weights,
        "image-size": str(network.image_size),
        "views": str(network.views),
        "flip": str(network.flip).lower(),
        "max-unreadable": repr(plan.pipeline.dataset.max_unreadable),
        "optimizer": tuning.optimizer,
        "weight-decay": repr(tuning.weight_decay),
        "warmup-epochs": repr(tuning.warmup_epochs),
        "label-smoothing": repr(tuning.label_smoothing),
        "class-weights": tuning.class_weights,
        "patience": str(tuning.patience),
        "objective": tuning.objective,
        "precision": tuning.precision,
        "seed": str(tuning.seed),
    }


def _training(
    plan: Plan,
    dataset: dict[str, Any],
    features: dict[str, Any] | None,
    code: dict[str, Any],
    weights: dict[str, Any] | None,
    instances: int = 1,
) -> Request:
    """What a tuning job's TrainingJobDefinition and a training job have in common."""
    compute = plan.pipeline.compute
    if features:
        channels = [
            _channel(name, f"{features['uri']}/{name}/", "S3Prefix")
            for name in ("train", "validation", "trunk")
        ]
    else:
        channels = [
            _channel(split, dataset["manifests"][split], "ManifestFile") for split in ("train", "validation")
        ]
        if weights:
            channels.append(_channel("weights", weights["uri"], "S3Prefix"))
    if compute.enable_network_isolation:
        channels.append(_channel("code", code["archive"], "S3Prefix"))
    return {
        "AlgorithmSpecification": {
            "TrainingImage": plan.training_image,
            "TrainingInputMode": "File",
            "MetricDefinitions": [{"Name": name, "Regex": rf"\b{name}={_NUMBER}"} for name in METRICS],
        },
        "RoleArn": plan.role,
        "InputDataConfig": channels,
        "OutputDataConfig": {
            "S3OutputPath": f"{plan.run_uri}/jobs",
            **compute_requests.output_key(compute),
        },
        "ResourceConfig": compute_requests.cluster(compute, compute.for_training, instances),
        **compute_requests.training_time(compute),
        **compute_requests.network(compute),
    }


def _channel(name: str, uri: str, data_type: str) -> dict[str, Any]:
    source = {"S3DataType": data_type, "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}}


def _processing(
    plan: Plan,
    code: dict[str, Any],
    script: str,
    arguments: dict[str, Any],
    inputs: list[dict[str, Any]],
    outputs: dict[str, str],
    *,
    image: str | None = None,
    instance_type: str | None = None,
    instances: int = 1,
    continuous: bool = False,
    isolated: bool = True,
) -> Request:
    """:param continuous: upload files as they appear, so that a job which fails leaves what it has done.
    :param isolated: False for a job that needs a network, whatever the settings say.
    """
    compute = plan.pipeline.compute
    network = compute_requests.network(compute, isolated=isolated)
    return {
        "AppSpecification": {
            "ImageUri": image or plan.training_image,
            "ContainerEntrypoint": ["python3", f"{PROCESSING}/input/code/processing.py", script],
            "ContainerArguments": [
                text for name, value in arguments.items() for text in (f"--{name}", str(value))
            ],
        },
        "ProcessingInputs": [_input("code", code["source"]), *inputs],
        "ProcessingOutputConfig": {
            "Outputs": [
                {
                    "OutputName": name,
                    "S3Output": {
                        "S3Uri": uri,
                        "LocalPath": f"{PROCESSING}/output",
                        "S3UploadMode": "Continuous" if continuous else "EndOfJob",
                    },
                }
                for name, uri in outputs.items()
            ],
            **compute_requests.output_key(compute),
        },
        "ProcessingResources": {
            "ClusterConfig": compute_requests.cluster(
                compute, instance_type or compute.instance_type, instances
            )
        },
        **({"NetworkConfig": network} if network else {}),
        "RoleArn": plan.role,
        "StoppingCondition": {"MaxRuntimeInSeconds": compute.max_runtime_seconds},
        "Tags": tags(plan),
    }


def _input(name: str, uri: str, *, manifest: bool = False, sharded: bool = False) -> dict[str, Any]:
    return {
        "InputName": name,
        "S3Input": {
            "S3Uri": uri,
            "LocalPath": f"{PROCESSING}/input/{name}",
            "S3DataType": "ManifestFile" if manifest else "S3Prefix",
            "S3InputMode": "File",
            "S3DataDistributionType": "ShardedByS3Key" if sharded else "FullyReplicated",
        },
    }
