"""The pipeline file: what can be set, with which bounds, and one sentence for each mistake.

A pipeline is a YAML file in `dags/pipelines/`; only `dataset.source` must be given. The same models bound
the parameters of the trigger form (`params.py`), so that a value has one definition.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    model_validator,
)

from evergreen.compute_settings import Compute
from evergreen.deployment_settings import Deployment
from evergreen.schedule_settings import Monitor, Schedule, as_schedule
from evergreen.settings_base import Settings as Settings

# ml_code/model/architectures.py builds these; a test holds the two lists together.
Architecture = Literal[
    "resnet18", "resnet34", "resnet50", "resnet101", "densenet121", "mobilenet_v3_large", "efficientnet_b0"
]

# AWS's names. ml_code/rules has the rules; a test holds the lists together.
DebugRuleName = Literal[
    "VanishingGradient", "ExplodingTensor", "PoorWeightInitialization", "LossNotDecreasing", "Overfit", "Overtraining",
    "DeadRelu", "SaturatedActivation", "WeightUpdateRatio", "AllZero", "UnchangedTensor", "TensorVariance",
    "ClassImbalance", "Confusion", "StalledTrainingRule", "CheckInputImages",
]  # fmt: skip
ProfilerRuleName = Literal[
    "ProfilerReport", "LowGPUUtilization", "BatchSize", "CPUBottleneck", "IOBottleneck", "Dataloader",
    "GPUMemoryIncrease", "MemoryLeak", "LoadBalancing", "MaxInitializationTime", "StepOutlier", "OverallSystemUsage",
    "OverallFrameworkMetrics",
]  # fmt: skip


class SettingsError(ValueError):
    """A pipeline file or a run parameter is wrong; the message names the setting and what it must be."""


Checked = TypeVar("Checked", bound=Settings)


class Splits(Settings):
    """Names of the three folders below `dataset.source`."""

    train: str = Field(default="train", min_length=1)
    validation: str = Field(default="valid", min_length=1)
    test: str = Field(default="test", min_length=1)

    @model_validator(mode="after")
    def distinct(self) -> Self:
        if len({self.train, self.validation, self.test}) < 3:
            raise ValueError("train, validation and test must be three different folders")
        return self


class Dataset(Settings):
    source: str = Field(
        title="Source",
        description="Folder (relative to the repository, or absolute) or s3:// prefix, with one folder per split "
        "and in it one folder per class.",
        min_length=1,
    )
    splits: Splits = Splits()
    delete_removed: bool = Field(
        default=False,
        title="Delete what the source no longer has",
        description="From the synced copy in S3; versions before this one can then not be trained on again.",
    )
    max_unreadable: float = Field(
        default=0.01,
        title="Unreadable, largest share",
        description="Images that cannot be decoded are set apart and listed in the report; more of them stop the run.",
        ge=0,
        le=1,
    )


class Model(Settings):
    arch: Architecture = Field(default="resnet18", title="Architecture", description="A torchvision network.")
    weights: str = Field(
        default="DEFAULT",
        title="Weights",
        description="'DEFAULT' or another torchvision weights name (fetched once, by a job of its own), 'none' for "
        "random ones, or a state dict: a file (relative to the repository, or absolute) or an s3:// URI.",
        min_length=1,
    )
    tail: Literal["fc", "layer4", "all"] = Field(
        default="fc",
        title="Trainable tail",
        description="What is trained: the new last layer, layer4 and the last layer, or everything. The rest is "
        "frozen, and its output is computed once.",
    )
    image_size: int = Field(
        default=224,
        title="Image size",
        description="Pixels along each side of the network's input.",
        ge=32,
        le=1024,
    )
    views: int = Field(
        default=1,
        title="Views",
        description="Pictures of each training image: its centre and random crops. Each costs one pass through what "
        "is frozen.",
        ge=1,
        le=32,
    )
    flip: bool = Field(
        default=True, title="Flip", description="Mirror every other random crop. Not for pictures of writing."
    )

    @model_validator(mode="after")
    def tail_exists(self) -> Self:
        if self.tail == "layer4" and not self.arch.startswith("resnet"):
            raise ValueError(f"tail 'layer4' needs a ResNet, {self.arch} has no layer4: use 'fc' or 'all'")
        return self


class Range(Settings):
    @model_validator(mode="after")
    def ordered(self) -> Self:
        low, high = self.model_dump().values()
        if low > high:
            raise ValueError(f"min ({low}) is above max ({high})")
        return self


class LearningRate(Range):
    min: float = Field(
        default=0.001, title="Learning rate, lowest", description="Searched on a log scale.", gt=0, le=10
    )
    max: float = Field(
        default=0.1, title="Learning rate, highest", description="Searched on a log scale.", gt=0, le=10
    )


class Epochs(Range):
    min: int = Field(
        default=5, title="Epochs, fewest", description="The best epoch's weights are kept.", ge=1, le=1000
    )
    max: int = Field(
        default=15, title="Epochs, most", description="The best epoch's weights are kept.", ge=1, le=1000
    )


def distinct(values: list[int]) -> list[int]:
    if len(set(values)) < len(values):
        raise ValueError("holds a value twice")
    return values


class Tuning(Settings):
    lr: LearningRate = LearningRate()
    batch_size: Annotated[list[Annotated[int, Field(ge=1, le=4096)]], AfterValidator(distinct)] = Field(
        default=[32, 64, 128],
        title="Batch sizes",
        description="The batch sizes to choose from, as a JSON list.",
        min_length=1,
        max_length=30,
    )
    epochs: Epochs = Epochs()
    strategy: Literal["Bayesian", "Random"] = Field(
        default="Bayesian",
        title="Strategy",
        description="Bayesian learns from the trials before, Random does not.",
    )
    max_jobs: int = Field(default=6, title="Trials", description="Training jobs in all.", ge=1, le=500)
    max_parallel_jobs: int = Field(
        default=2,
        title="Trials at once",
        description="A Bayesian search learns more from fewer at once.",
        ge=1,
        le=100,
    )
    objective: Literal["validation_loss", "validation_accuracy"] = Field(
        default="validation_loss",
        title="Objective",
        description="Measured on the validation split, never on test. The weights kept are those of the epoch that "
        "it names.",
    )
    optimizer: Literal["adamw", "sgd"] = Field(default="sgd", title="Optimizer")
    weight_decay: float = Field(default=1e-4, title="Weight decay", ge=0, le=1)
    warmup_epochs: float = Field(
        default=0,
        title="Warm-up, epochs",
        description="In which the learning rate rises to its value; parts of an epoch too.",
        ge=0,
        lt=1000,
    )
    label_smoothing: float = Field(
        default=0,
        title="Label smoothing",
        description="Share of a label that is given to all classes alike, in training alone.",
        ge=0,
        lt=1,
    )
    class_weights: Literal["none", "balanced"] = Field(
        default="none",
        title="Class weights",
        description="'balanced': in training, the images of a rare class count for more.",
    )
    patience: int = Field(
        default=0,
        title="Patience, epochs",
        description="A training ends when its objective has not been better for so many; 0 is off.",
        ge=0,
        le=1000,
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto",
        title="Precision",
        description="'auto': bfloat16 on GPUs that have it, where more than the last layer is trained.",
    )
    seed: int = Field(
        default=0, title="Seed", description="Of the search and of each training.", ge=0, le=2**31 - 1
    )

    stability_seeds: int = Field(
        default=0,
        title="Further seeds",
        description="The retraining job also repeats the best three trials with so many other seeds each, for the "
        "report to say how much of their order is chance; 0 is off.",
        ge=0,
        le=20,
    )

    @model_validator(mode="after")
    def warmup_within_epochs(self) -> Self:
        if self.warmup_epochs >= self.epochs.min:
            raise ValueError(
                f"warmup_epochs ({self.warmup_epochs:g}) is not below epochs.min ({self.epochs.min})"
            )
        return self

    @model_validator(mode="after")
    def parallel_within_jobs(self) -> Self:
        if self.max_parallel_jobs > self.max_jobs:
            raise ValueError(
                f"max_parallel_jobs ({self.max_parallel_jobs}) is above max_jobs ({self.max_jobs})"
            )
        return self


class Rule(Settings):
    """`parameters` are AWS's for the rule. With policy `fail` a rule that finds an issue, or cannot be evaluated,
    holds the model. At an issue `stop_training` ends the retraining early, and `notify` sends a message by Amazon SNS.
    """

    policy: Literal["fail", "warn", "ignore"] = "warn"
    parameters: dict[str, str] = Field(default={})
    stop_training: bool = False
    notify: list[Annotated[str, Field(pattern=r"^(\S+@\S+\.\S+|\+\d{5,15})$")]] = Field(
        default=[], description="E-mail addresses, and telephone numbers such as +491701234567."
    )


class Debugger(Settings):
    """smdebug in the retraining, and the rules over what it saves."""

    enabled: bool = Field(
        default=True, title="Debugger", description="Save tensors in the retraining and judge them by rules."
    )
    mode: Literal["self", "managed"] = Field(
        default="self",
        title="Rules are evaluated by",
        description="'self': by the assess job. 'managed': by SageMaker beside the training, which AWS offers to "
        "accounts that used Debugger before July 2026.",
    )
    train_save_interval: int = Field(default=5, title="Tensors: every n-th training step", ge=1, le=100_000)
    eval_save_interval: int = Field(default=1, title="Tensors: every n-th evaluation step", ge=1, le=100_000)
    tensorboard: bool = Field(
        default=False,
        title="TensorBoard",
        description="Also write what is saved as TensorBoard's event files, to debug-output/tensorboard.",
    )
    rules: dict[DebugRuleName, Rule] = Field(
        default={
            "VanishingGradient": Rule(policy="fail"),
            "PoorWeightInitialization": Rule(),
            "LossNotDecreasing": Rule(),
            "Overfit": Rule(),
            "Overtraining": Rule(),
        }
    )


class Profiler(Settings):
    """System metrics and step times of the retraining, and the rules over them."""

    interval_ms: Literal[0, 100, 200, 500, 1000, 5000, 60000] = Field(
        default=500,
        title="System metrics, ms",
        description="Sampling interval in the retraining; 0 is off, with all that the profiler does.",
    )
    num_steps: int = Field(
        default=10,
        title="Profiled steps",
        description="The first training steps under torch.profiler, for a table of operators and a trace; 0 is off.",
        ge=0,
        le=1000,
    )
    # It runs all the others.
    rules: dict[ProfilerRuleName, Rule] = Field(default={"ProfilerReport": Rule()})


class Assess(Settings):
    explanations: Literal["none", "summary", "clarify"] = Field(
        default="summary",
        title="Explanations",
        description="What a few answers rest on, and whether that is to be believed. 'clarify' also writes them as "
        "SageMaker Clarify does.",
    )
    int8_max_accuracy_loss: float | None = Field(
        default=None,
        title="8-bit network, largest loss",
        description="Serve the model in 8-bit integers, which is faster, when its accuracy on validation images falls "
        "by no more than this; null is not asked for.",
        ge=0,
        le=1,
    )
    licence: str | None = Field(
        default=None, description="Of model, data and weights, for the model card.", min_length=1
    )
    contact: str | None = Field(
        default=None, description="Whom to ask about the model, for the model card.", min_length=1
    )


def approval(value: Any) -> Any:
    """What `gate.approve` was before it had three values."""
    return {True: "always", False: "never"}[value] if isinstance(value, bool) else value


class Gate(Settings):
    """What a model must be to be deployed; null is not asked for. ml_code/report/verdict.py decides by it."""

    minimum_accuracy: float = Field(
        default=0.5, title="Lowest test accuracy", description="A model below it is held.", ge=0, le=1
    )
    class_floor: float | None = Field(
        default=None,
        title="Lowest recall of a class",
        description="A model that finds a smaller share of any class's test images is held.",
        ge=0,
        le=1,
    )
    champion_margin: float = Field(
        default=0.02,
        title="Champion margin",
        description="How much test accuracy may be lost against the model now serving. A model that may lose "
        "more, with the gate's confidence, is held.",
        ge=0,
        le=1,
    )
    confidence: float = Field(default=0.95, title="Confidence", gt=0.5, lt=1)
    equal: Literal["promote", "hold"] = Field(
        default="promote",
        title="An equal model",
        description="Gains nothing, and the whole interval of its difference to the champion is within the margin.",
    )
    latency_budget_ms: float | None = Field(
        default=None,
        title="Latency budget, ms",
        description="95 of 100 predictions of a single image take no longer, on the assess job's instance.",
        gt=0,
    )
    size_budget_mb: float | None = Field(
        default=None, title="Size budget, MB", description="Of the model archive.", gt=0
    )
    approve: Annotated[Literal["never", "always", "when_unsure"], BeforeValidator(approval)] = Field(
        default="never",
        title="Ask a person",
        description="Wait for an approval in the web UI before deploying. When unsure: the difference to the champion "
        "may be zero, the champion could not be compared, or a rule warned.",
    )


class Slack(Settings):
    conn_id: str = Field(default="slack_api_default", min_length=1)
    channel: str = Field(description="#name or id.", min_length=1)


class Notify(Settings):
    """Whom to tell that a model serves, is held, waits for a person, that requests drift, or that a task failed."""

    sns: str | None = Field(
        default=None,
        description="ARN of an Amazon SNS topic.",
        pattern=r"^arn:[\w-]+:sns:[\w-]+:\d{12}:[\w.-]+$",
    )
    slack: Slack | None = Field(
        default=None, description="Needs apache-airflow-providers-slack, and its connection."
    )
    email: list[Annotated[str, Field(pattern=r"^\S+@\S+\.\S+$")]] = Field(
        default=[],
        description="Addresses; needs apache-airflow-providers-smtp, and the connection smtp_default.",
    )
    deadline_minutes: int | None = Field(
        default=None, description="Also tell of a run that has not ended so long after it was queued.", ge=1
    )


class Pipeline(Settings):
    """One pipeline file."""

    description: str = ""
    schedule: Annotated[Schedule, BeforeValidator(as_schedule)] | None = None
    tags: list[str] = Field(default=[])
    pool: str = Field(
        default="default_pool",
        description="Airflow's pool of the tasks that change the endpoint. Pipelines that share one of a single slot, "
        "deferred tasks included, are deployed one after another. Make it first: a task whose pool is missing "
        "waits for ever.",
        min_length=1,
        max_length=256,
    )
    dataset: Dataset
    model: Model = Model()
    tuning: Tuning = Tuning()
    debugger: Debugger = Debugger()
    profiler: Profiler = Profiler()
    assess: Assess = Assess()
    gate: Gate = Gate()
    deployment: Deployment = Deployment()
    notify: Notify = Notify()
    monitor: Monitor | None = None
    compute: Compute = Compute()

    @model_validator(mode="after")
    def monitor_has_something_to_look_at(self) -> Self:
        capture = self.deployment.data_capture
        if self.monitor and not (capture.initial_sampling_percentage and "Input" in capture.capture_modes):
            raise ValueError(
                "monitor looks at captured requests: set deployment.data_capture.initial_sampling_percentage above 0, "
                "with Input among capture_modes"
            )
        return self


def read(path: Path) -> dict[str, Any]:
    """The pipeline file as plain data.

    :raises SettingsError: when it is no YAML mapping.
    """
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise SettingsError(f"{path.name}: not readable as YAML: {error}") from error
    if not isinstance(document, dict):
        raise SettingsError(f"{path.name}: holds no settings; it needs at least dataset: {{source: FOLDER}}")
    return document


def validate(document: dict[str, Any], where: str) -> Pipeline:
    """:raises SettingsError: one sentence that names every wrong setting."""
    return check(Pipeline, document, where)


def check(model: type[Checked], document: dict[str, Any], where: str) -> Checked:
    """The document as a model; `where` begins the sentence.

    :raises SettingsError: one sentence that names every wrong setting.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        mistakes = [f"{_setting(item['loc'])}: {_mistake(dict(item))}" for item in error.errors()]
        raise SettingsError(f"{where}: {'; '.join(mistakes)}") from error


def _setting(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "the file"


def _mistake(item: dict[str, Any]) -> str:
    message: str = item["msg"].removeprefix("Value error, ")
    match item["type"]:
        case "extra_forbidden":
            return "there is no such setting"
        case "missing":
            return "is missing"
        case "value_error":
            return message
        case _:
            given = repr(item["input"])
            return f"{message[0].lower()}{message[1:]}, but is {given[:80]}"
