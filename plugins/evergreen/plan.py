"""The plan: pipeline file + run parameters → every name and place that the run's tasks share.

It is built once, in the `plan` task, travels as JSON through XCom, and is the only thing that the request
builders (`requests.py`) know of the run.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict

from evergreen import names
from evergreen.cost import Prices
from evergreen.settings import Pipeline


class Plan(BaseModel):
    model_config = ConfigDict(frozen=True)

    dag_id: str
    run_id: str
    run_type: str
    started_at: str
    pipeline_name: str
    pipeline: Pipeline
    force: bool = False
    dry_run: bool = False
    # What the monitor found, when it has triggered the run.
    drift: str | None = None
    bucket: str
    role: str
    training_image: str
    inference_image: str
    # Of processing jobs on instances of another type than the training's.
    feature_image: str | None = None
    assess_image: str | None = None
    # None where dags/ is no git checkout.
    git_revision: str | None = None
    region: str = "us-east-1"
    partition: str = "aws"
    # Whether the connection leads to the local cloud.
    local: bool = False
    prices: Prices = Prices()

    @property
    def by_hand(self) -> bool:
        """Whether a person has asked for the run."""
        return self.run_type == "manual" and self.drift is None

    @property
    def root(self) -> str:
        """Key prefix of everything that belongs to this pipeline."""
        return f"{self.pipeline.compute.prefix}/{self.pipeline_name}"

    @property
    def base_name(self) -> str:
        return names.base(self.pipeline_name)

    @property
    def endpoint_name(self) -> str:
        return names.endpoint(self.pipeline_name)

    @property
    def run_folder(self) -> str:
        return names.run_folder(self.dag_id, self.run_id)

    def uri(self, *parts: str) -> str:
        """`s3://` URI of a place below `root`."""
        return "/".join((f"s3://{self.bucket}", self.root, *parts))

    @property
    def s3_arguments(self) -> dict[str, str]:
        """Of what Airflow's own processes write to S3: the pipeline's key, or none."""
        key = self.pipeline.compute.output_kms_key_id
        return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key} if key else {}

    @property
    def run_uri(self) -> str:
        """Where the run's jobs read and write what is its own."""
        return self.uri("runs", self.run_folder)

    @property
    def report_uri(self) -> str:
        """Where `export_report` publishes the report."""
        return self.uri("reports", self.run_folder)

    def to_xcom(self) -> dict[str, Any]:
        """Plain JSON; the derived URIs are in it because templates and people read them."""
        return {
            **self.model_dump(mode="json"),
            "endpoint_name": self.endpoint_name,
            "run_uri": self.run_uri,
            "report_uri": self.report_uri,
        }
