"""The pipeline file's `deployment`: how an endpoint is updated, what rolls it back, and what a transform job does.

Names and bounds are SageMaker's, in snake case: DeploymentConfig, DataCaptureConfig, CreateTransformJob.
"""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from evergreen.settings_base import Settings

Policy = Literal["all_at_once", "canary", "linear", "rolling"]
# SageMaker's, of AutoRollbackConfiguration.Alarms and of a transform job's requests at once times their size.
MOST_ALARMS, MOST_PAYLOAD_MB = 10, 100


class CapacitySize(Settings):
    type: Literal["CAPACITY_PERCENT", "INSTANCE_COUNT"] = "CAPACITY_PERCENT"
    value: int = Field(ge=1)

    def percent(self, instance_count: int) -> float:
        return self.value if self.type == "CAPACITY_PERCENT" else 100 * self.value / instance_count


class Alarms(Settings):
    """What has SageMaker roll an update back; null is no alarm. They watch the new fleet alone."""

    invocation_5xx_errors: float | None = Field(
        default=0.01,
        description="Share of its answers that are server errors, above which the update is rolled back.",
        ge=0,
        lt=1,
    )
    model_latency_ms: float | None = Field(
        default=1000,
        description="Mean time of its answers, in milliseconds, above which the update is rolled back.",
        gt=0,
    )
    invalid_answers: int | None = Field(
        default=1,
        description="So many answers to the report's test images that are not those which the model gave offline.",
        ge=1,
    )
    names: list[Annotated[str, Field(min_length=1, max_length=255)]] = Field(
        default=[], description="CloudWatch alarms of your own besides."
    )

    @property
    def count(self) -> int:
        own = (self.invocation_5xx_errors, self.model_latency_ms, self.invalid_answers)
        return len(self.names) + sum(threshold is not None for threshold in own)

    @model_validator(mode="after")
    def few_enough(self) -> Self:
        if self.count > MOST_ALARMS:
            raise ValueError(f"{self.count} alarms are more than the {MOST_ALARMS} that SageMaker takes")
        return self


class DataCapture(Settings):
    """Requests and answers as files below the pipeline's `data-capture/` in the bucket."""

    initial_sampling_percentage: int = Field(
        default=0, description="Of the requests; 0 is off.", ge=0, le=100
    )
    capture_modes: list[Literal["Input", "Output"]] = Field(
        default=["Input", "Output"], min_length=1, max_length=2
    )


class Transform(Settings):
    """The transform job of `batch_predict`. With split_type Line a file holds many images, one a line of JSON with its
    base64, for requests of many; files of the test split are made so. An image cannot be split at its line feeds.
    """

    s3_uri: str | None = Field(
        default=None,
        description="Prefix of images, or of files of JSON lines; without it the test split, whose answers are held "
        "against the report's.",
        pattern=r"^s3://[^/]+/.+",
    )
    split_type: Literal["None", "Line"] = "None"
    batch_strategy: Literal["MultiRecord", "SingleRecord"] = "MultiRecord"
    max_concurrent_transforms: int = Field(default=4, description="Requests at once, of an instance.", ge=1)
    max_payload_in_mb: int = Field(default=6, description="Of one request.", ge=1, le=100)
    assemble_with: Literal["None", "Line"] | None = Field(
        default=None, description="Without it as split_type."
    )
    input_filter: str = Field(default="$", max_length=63)
    output_filter: str = Field(default="$['file','SageMakerOutput']", max_length=63)
    join_source: Literal["Input", "None"] = Field(
        default="Input", description="Put each answer beside its line; with split_type Line."
    )
    instance_type: str | None = Field(
        default=None, description="Without it the one of every job.", pattern=r"^ml\."
    )
    instance_count: int = Field(default=1, ge=1, le=100)
    invocations_timeout_in_seconds: int = Field(default=600, ge=1, le=3600)
    invocations_max_retries: int = Field(default=3, ge=0, le=3)

    @model_validator(mode="after")
    def fits_in_memory(self) -> Self:
        if (size := self.max_concurrent_transforms * self.max_payload_in_mb) > MOST_PAYLOAD_MB:
            raise ValueError(
                f"max_concurrent_transforms times max_payload_in_mb is {size}, and SageMaker takes {MOST_PAYLOAD_MB} "
                "at most"
            )
        return self

    @model_validator(mode="after")
    def answers_have_names(self) -> Self:
        if self.split_type == "Line" and self.join_source == "None" and self.s3_uri is None:
            raise ValueError(
                "join_source None leaves the test split's answers without their files: join the input, or name another "
                "s3_uri"
            )
        return self


class Deployment(Settings):
    instance_type: str = Field(default="ml.m5.large", pattern=r"^ml\.")
    instance_count: int = Field(default=1, ge=1, le=100)
    policy: Policy = Field(
        default="canary",
        title="Update policy",
        description="How requests move to the new model: all at once, a canary's share first, in steps, or instance by "
        "instance. The first deployment has nothing to move from.",
    )
    canary_size: CapacitySize = CapacitySize(value=10)
    linear_step_size: CapacitySize = CapacitySize(value=25)
    maximum_batch_size: CapacitySize = CapacitySize(value=25)
    rollback_maximum_batch_size: CapacitySize | None = None
    wait_interval_in_seconds: int = Field(
        default=120,
        title="Wait, s",
        description="After the canary, each step or batch, and at the end: so long the alarms watch.",
        ge=0,
        le=3600,
    )
    termination_wait_in_seconds: int = Field(
        default=0, description="Before the old fleet is ended; not with policy rolling.", ge=0, le=3600
    )
    maximum_execution_timeout_in_seconds: int | None = Field(default=None, ge=600, le=28800)
    alarms: Alarms = Alarms()
    data_capture: DataCapture = DataCapture()
    environment: dict[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")], str] = Field(
        default={},
        description="Variables of the serving container, such as SERVING_LOG_FORMAT: json; the table of them is in "
        "ml_code/serving/server.py.",
        max_length=90,
    )
    batch_predict: bool = Field(
        default=False,
        title="Batch prediction",
        description="Also run a transform job, over the test split unless deployment.transform says otherwise.",
    )
    transform: Transform = Transform()
    keep: int = Field(
        default=3,
        title="Models to keep",
        description="Older models and endpoint configurations are deleted.",
        ge=2,
        le=100,
    )

    @property
    def bakes(self) -> bool:
        """Whether an update has a time in which an alarm can roll it back."""
        return self.wait_interval_in_seconds > 0 and self.alarms.count > 0

    @property
    def waiting_seconds(self) -> int:
        """For which an update waits in all."""
        match self.policy:
            case "all_at_once":
                steps = 1
            case "canary":
                steps = 2
            case "linear":
                steps = math.ceil(100 / self.linear_step_size.percent(self.instance_count))
            case "rolling":
                steps = math.ceil(100 / self.maximum_batch_size.percent(self.instance_count))
        ending = 0 if self.policy == "rolling" else self.termination_wait_in_seconds
        return steps * self.wait_interval_in_seconds + ending

    @model_validator(mode="after")
    def sizes_are_sagemakers(self) -> Self:
        size, low, high = {
            "all_at_once": (None, 0, 0),
            "canary": ("canary_size", 0, 50),
            "linear": ("linear_step_size", 10, 50),
            "rolling": ("maximum_batch_size", 5, 50),
        }[self.policy]
        sizes = [(size, low, high)] if size else []
        if self.policy == "rolling" and self.rollback_maximum_batch_size:
            sizes.append(("rollback_maximum_batch_size", 5, 100))
        for name, least, most in sizes:
            percent = getattr(self, name).percent(self.instance_count)
            if not least <= percent <= most:
                raise ValueError(
                    f"{name} is {percent:g} % of {self.instance_count} instances, not the {least} to {most} % that "
                    "SageMaker takes"
                )
        return self

    @model_validator(mode="after")
    def something_watches(self) -> Self:
        if self.policy != "all_at_once" and not self.alarms.count:
            raise ValueError(
                f"policy {self.policy} has nothing to wait for without an alarm: set one in alarms, or the policy "
                "all_at_once"
            )
        return self

    @model_validator(mode="after")
    def time_enough(self) -> Self:
        limit = self.maximum_execution_timeout_in_seconds
        if limit is not None and limit <= self.waiting_seconds:
            raise ValueError(
                f"maximum_execution_timeout_in_seconds ({limit}) is not above the {self.waiting_seconds} s that the "
                "update waits"
            )
        return self
