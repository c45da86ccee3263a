"""`sagemaker` 3.27: its trainer, tuner, processor, transformer, resources and analytics, as its users write them."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from sagemaker.core import image_uris
from sagemaker.core.analytics import TrainingJobAnalytics
from sagemaker.core.parameter import CategoricalParameter, ContinuousParameter
from sagemaker.core.processing import ScriptProcessor
from sagemaker.core.resources import Endpoint, EndpointConfig, Model
from sagemaker.core.shapes import (
    ContainerDefinition,
    ProcessingInput,
    ProcessingOutput,
    ProcessingS3Input,
    ProcessingS3Output,
    ProductionVariant,
)
from sagemaker.core.training.configs import Compute, InputData, SourceCode
from sagemaker.core.transformer import Transformer
from sagemaker.core.utils.exceptions import FailedStatusError
from sagemaker.train import ModelTrainer
from sagemaker.train.tuner import HyperparameterTuner

from tests.local_sagemaker.cloud_client import PLAIN, REPOSITORY, ROLE, Cloud, archive, unique

SCRIPT = """
import json, os, sys
from pathlib import Path

hyperparameters = json.loads(os.environ["SM_HPS"])
print("given", json.dumps(hyperparameters, sort_keys=True))
print("found", sorted(path.name for path in Path("/opt/ml/input/data/train").iterdir()))
if "fail" in hyperparameters:
    sys.exit("planted failure")
print(f"loss={hyperparameters.get('rate', 0)}")
Path(os.environ["SM_MODEL_DIR"], "weights.txt").write_text("trained")
"""


@pytest.fixture
def data(cloud: Cloud) -> list[InputData]:
    """A channel of one object."""
    uri = cloud.put(f"{unique('sdk')}/train/a.txt", "a")
    return [InputData(channel_name="train", data_source=uri.removesuffix("a.txt"))]


def trainer(folder: Path, **hyperparameters: Any) -> ModelTrainer:
    (folder / "train.py").write_text(SCRIPT)
    return ModelTrainer(
        training_image=PLAIN,
        role=ROLE,
        source_code=SourceCode(source_dir=str(folder), entry_script="train.py"),
        compute=Compute(instance_type="ml.m5.large", instance_count=1),
        hyperparameters=hyperparameters,
        base_job_name=unique("sdk"),
    )


def test_train(cloud: Cloud, data: list[InputData], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    model = trainer(tmp_path, rate=0.1, name="x y")
    model.train(input_data_config=data, wait=True, logs=True)
    job = model._latest_training_job
    assert job.training_job_status == "Completed"
    assert cloud.unpack(job.model_artifacts.s3_model_artifacts) == {"weights.txt": b"trained"}
    assert 'given {"name": "x y", "rate": 0.1}' in caplog.text
    assert "found ['a.txt']" in caplog.text


def test_a_failure_is_told(cloud: Cloud, data: list[InputData], tmp_path: Path) -> None:
    model = trainer(tmp_path, fail=1)
    # The reason is what the SDK's own driver says of the script that it runs.
    with pytest.raises(FailedStatusError, match=r"AlgorithmError: (.|\n)*exit code: 1"):
        model.train(input_data_config=data, wait=True, logs=False)
    assert "planted failure" in cloud.log("TrainingJobs", model._latest_training_job.training_job_name)


def test_tune(data: list[InputData], tmp_path: Path) -> None:
    ranges = {
        "rate": ContinuousParameter(0.001, 1.0, "Logarithmic"),
        "kind": CategoricalParameter(["a", "b"]),
    }
    tuner = HyperparameterTuner(
        trainer(tmp_path),
        "loss",
        ranges,
        metric_definitions=[{"Name": "loss", "Regex": r"loss=(\S+)"}],
        objective_type="Minimize",
        max_jobs=3,
        max_parallel_jobs=2,
    )
    tuner.tune(inputs=data, wait=True)
    assert tuner.describe().hyper_parameter_tuning_job_status == "Completed"
    frame = tuner.analytics().dataframe()
    assert list(frame["TrainingJobStatus"]) == ["Completed"] * 3
    assert list(frame["FinalObjectiveValue"]) == pytest.approx(list(frame["rate"]))
    best = frame.loc[frame["FinalObjectiveValue"].idxmin(), "TrainingJobName"]
    assert tuner.best_training_job() == best
    values = TrainingJobAnalytics(best).dataframe()
    assert list(values["metric_name"]) == ["loss"]
    assert list(values["value"]) == pytest.approx([frame["FinalObjectiveValue"].min()])


def test_process(cloud: Cloud, tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(
        "import pathlib, sys\n"
        "text = pathlib.Path('/opt/ml/processing/in/a.txt').read_text()\n"
        "pathlib.Path('/opt/ml/processing/out/b.txt').write_text(text + sys.argv[1])\n"
    )
    source = cloud.put(f"{unique('sdk')}/in/a.txt", "one ").removesuffix("a.txt")
    target = source.replace("/in/", "/out")
    processor = ScriptProcessor(
        role=ROLE, image_uri=PLAIN, command=["python3"], instance_count=1, instance_type="ml.m5.large"
    )
    s3_input = ProcessingS3Input(
        s3_uri=source, local_path="/opt/ml/processing/in", s3_data_type="S3Prefix", s3_input_mode="File"
    )
    s3_output = ProcessingS3Output(
        s3_uri=target, local_path="/opt/ml/processing/out", s3_upload_mode="EndOfJob"
    )
    processor.run(
        code=str(tmp_path / "run.py"),
        inputs=[ProcessingInput(input_name="in", s3_input=s3_input)],
        outputs=[ProcessingOutput(output_name="out", s3_output=s3_output)],
        arguments=["two"],
        logs=False,
    )
    assert cloud.read(f"{target}/b.txt") == b"one two"


@pytest.fixture(scope="module")
def model(cloud: Cloud) -> str:
    """A model that adds up rows, see record_server.py."""
    uri = cloud.put(f"{unique('sdk')}/model.tar.gz", archive({"nothing.txt": ""}))
    container = ContainerDefinition(image="test/records:1", model_data_url=uri)
    created = Model.create(model_name=unique("sdk"), primary_container=container, execution_role_arn=ROLE)
    assert created
    return str(created.model_name)


def test_transform(cloud: Cloud, model: str) -> None:
    uri = cloud.put(f"{unique('sdk')}/in/rows.csv", "7,1,2\n8,3,4\n")
    target = uri.replace("/in/rows.csv", "/out")
    transformer = Transformer(
        model, 1, "ml.m5.large", strategy="SingleRecord", assemble_with="Line", output_path=target, accept="text/csv"
    )  # fmt: skip
    transformer.transform(
        uri, content_type="text/csv", split_type="Line", input_filter="$[1:]", output_filter="$[0,-2]",
        join_source="Input", wait=True, logs=False,
    )  # fmt: skip
    assert cloud.read(f"{target}/rows.csv.out") == b"7,3\n8,7\n"


@pytest.mark.usefixtures("cloud")
def test_deploy(model: str) -> None:
    name = unique("sdk")
    variant = ProductionVariant(
        variant_name="v1", model_name=model, initial_instance_count=1, instance_type="ml.m5.large"
    )
    EndpointConfig.create(endpoint_config_name=name, production_variants=[variant])
    endpoint = Endpoint.create(endpoint_name=name, endpoint_config_name=name)
    assert endpoint
    endpoint.wait_for_status("InService", poll=1)
    answer = endpoint.invoke(body="1,2\n3,4", content_type="text/csv")
    assert answer
    assert answer.body.read() == b"3,2\n7,2"
    endpoint.delete()


@pytest.mark.parametrize("scope", ["training", "inference"])
def test_the_images_that_the_sdk_names_are_known(scope: str) -> None:
    uri = image_uris.retrieve(
        "pytorch", "us-east-1", version="2.10" if scope == "training" else "2.6",
        instance_type="ml.m5.large", image_scope=scope,
    )  # fmt: skip
    rows = yaml.safe_load((REPOSITORY / "local_sagemaker/images.yaml").read_text())
    row = next(row for row in rows if re.fullmatch(row["pattern"], uri))
    assert row["python"] == "../var/venv/ml/bin/python"
