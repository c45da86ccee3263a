"""The pipeline file's `compute`: what the jobs run on, where, with whose keys and in which network.

Names follow SageMaker's API, in snake case; what each request gets of them is in `compute_requests.py`.
"""

from typing import Annotated, Self

from pydantic import Field, model_validator

from evergreen.settings_base import Settings

# What AWS writes on resources itself, and what we do.
RESERVED_TAGS = ("aws:", "evergreen:")
# Of the 50 that a resource may have, less ours.
MOST_TAGS = 45

InstanceType = Annotated[str, Field(pattern=r"^ml\.")]
# A key's id, ARN or alias.
KmsKey = Annotated[str, Field(pattern=r"^[a-zA-Z0-9:/_-]+$", max_length=2048)]
TagText = Annotated[str, Field(pattern=r"^[\w .:/=+@-]+$")]


class VpcConfig(Settings):
    """The network that the jobs and the endpoint are in. docs/aws.md says what it must have a way to."""

    subnets: list[Annotated[str, Field(pattern=r"^subnet-[0-9a-z]+$")]] = Field(min_length=1, max_length=16)
    security_group_ids: list[Annotated[str, Field(pattern=r"^sg-[0-9a-z]+$")]] = Field(
        min_length=1, max_length=5
    )


class Compute(Settings):
    """What the jobs run on. `role` is the SageMaker execution role: a name or an ARN."""

    role: str = Field(default="EvergreenSageMakerRole", min_length=1)
    bucket: str | None = Field(
        default=None, description="Default: service_config.s3.bucket_name of the connection."
    )
    prefix: str = Field(default="evergreen", pattern=r"^[A-Za-z0-9][A-Za-z0-9/_.-]*[A-Za-z0-9]$")
    instance_type: InstanceType = Field(
        default="ml.m5.xlarge",
        title="Instance type",
        description="Of every job that has none of its own. The endpoint's is deployment.instance_type.",
    )
    training_instance_type: InstanceType | None = Field(
        default=None, description="Of the trials and the retraining."
    )
    feature_instance_type: InstanceType | None = Field(
        default=None, description="Of the pass through what is frozen."
    )
    assess_instance_type: InstanceType | None = Field(
        default=None, description="Of the assessment; the report's latencies are measured on it."
    )
    training_instance_count: int = Field(
        default=1,
        title="Instances for training",
        description="Of the retraining: they share each batch. Trials take one each.",
        ge=1,
        le=100,
    )
    feature_instance_count: int = Field(
        default=1,
        title="Instances for features",
        description="Share the pass through what is frozen among them.",
        ge=1,
        le=100,
    )
    volume_size_gb: int = Field(default=30, ge=1, le=16384)
    max_runtime_seconds: int = Field(
        default=3600,
        title="Time limit, s",
        description="Of each job; it is stopped after it.",
        ge=60,
        le=432_000,
    )
    use_spot_instances: bool = Field(
        default=False,
        title="Spot instances",
        description="For the trials and the retraining, which goes on from its checkpoints after an interruption.",
    )
    max_wait_seconds: int | None = Field(
        default=None,
        description="With spot instances: of each of those jobs, the wait for capacity and the run together.",
        ge=60,
        le=432_000 + 86_400,
    )
    keep_alive_period_seconds: int = Field(
        default=0,
        description="Of the retraining's instances, paid for, for a job like it to start on at once: a warm pool. "
        "SageMaker reuses the instances of a tuning job's trials by itself.",
        ge=0,
        le=21_600,
    )
    volume_kms_key_id: KmsKey | None = Field(
        default=None,
        description="Encrypts the volumes of jobs and endpoint. Not for types with a local disk (ml.g5.…, ml.m5d.…), "
        "which encrypt it themselves.",
    )
    output_kms_key_id: KmsKey | None = Field(
        default=None, description="Encrypts what jobs, endpoint and Airflow write to S3."
    )
    vpc_config: VpcConfig | None = None
    enable_network_isolation: bool = Field(
        default=False,
        description="No network for the containers. The images must then hold what ml_code/requirements*.txt name.",
    )
    encrypt_inter_container_traffic: bool = Field(
        default=False, description="Between the instances of one job; it makes them slower."
    )
    tags: dict[Annotated[TagText, Field(max_length=128)], Annotated[TagText, Field(max_length=256)]] = Field(
        default={},
        description="On everything that is made, besides evergreen:pipeline and evergreen:run.",
        max_length=MOST_TAGS,
    )
    pytorch_training_version: str = "2.10.0"
    pytorch_inference_version: str = "2.6.0"
    training_image: str | None = Field(default=None, description="Instead of AWS's PyTorch training image.")
    inference_image: str | None = Field(default=None, description="Instead of AWS's PyTorch inference image.")

    @property
    def time_limit_seconds(self) -> int:
        """Of a job, with the wait for spot instances."""
        return self.max_wait_seconds or self.max_runtime_seconds

    @property
    def for_training(self) -> str:
        """Instance type of the trials and the retraining."""
        return self.training_instance_type or self.instance_type

    @property
    def for_features(self) -> str:
        return self.feature_instance_type or self.instance_type

    @property
    def for_assessment(self) -> str:
        return self.assess_instance_type or self.instance_type

    @model_validator(mode="after")
    def spot_has_a_wait(self) -> Self:
        if self.use_spot_instances and (self.max_wait_seconds or 0) < self.max_runtime_seconds:
            raise ValueError(
                f"use_spot_instances needs max_wait_seconds, of at least max_runtime_seconds "
                f"({self.max_runtime_seconds}): the wait for capacity and the run together"
            )
        if self.max_wait_seconds is not None and not self.use_spot_instances:
            raise ValueError(
                "max_wait_seconds is for spot instances: set use_spot_instances, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def spot_keeps_nothing_warm(self) -> Self:
        if self.use_spot_instances and self.keep_alive_period_seconds:
            raise ValueError(
                "keep_alive_period_seconds and use_spot_instances exclude each other: SageMaker keeps no spot "
                "instances warm"
            )
        return self

    @model_validator(mode="after")
    def isolation_has_its_own_images(self) -> Self:
        if self.enable_network_isolation and not (self.training_image and self.inference_image):
            raise ValueError(
                "enable_network_isolation needs training_image and inference_image: AWS's images lack what "
                "ml_code/requirements.txt names, and without a network nothing is installed"
            )
        return self

    @model_validator(mode="after")
    def tags_are_free(self) -> Self:
        for key in self.tags:
            if key.lower().startswith(RESERVED_TAGS):
                raise ValueError(f"tags: {key} begins with {' or '.join(RESERVED_TAGS)}, which are not yours")
        return self
