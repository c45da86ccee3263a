"""What a run's context says of where its model comes from, and what is different from the run before."""

import json
from typing import Any

from airflow.providers.amazon.aws.hooks.s3 import S3Hook

from evergreen import assess_context, lineage
from scripts.local_stack import BUCKET, Cloud
from tests.plugins.test_requests import CODE, TUNING, plan

DATASET: dict[str, Any] = {
    "version": "v2", "uri": "s3://b/d", "counts": {}, "ignored": {}, "doubtful": {}, "duplicates": {},
}  # fmt: skip
TUNED = {
    **TUNING,
    "Tuning": {
        **TUNING["Tuning"],
        "HyperParameterTuningJobConfig": {
            "HyperParameterTuningJobObjective": {"MetricName": "validation_loss", "Type": "Minimize"}
        },
    },
}
TRAINING = {
    "Training": {
        "TrainingJobName": "digits-retrain-0",
        "HyperParameters": {},
        "ResourceConfig": {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1},
    }
}
NONE = (None, "nothing serves, so there is no promoted run to compare with")


def context(planned: Any, previous: Any = NONE, **changes: Any) -> dict[str, Any]:
    given = {
        "dataset": DATASET, "features": None, "code": CODE, "tuning": TUNED, "training": TRAINING, "weights": None,
        "champion": None, "previous": previous,
    }  # fmt: skip
    return assess_context.build(planned, **{**given, **changes})


def test_the_first_run_has_nothing_to_compare_with_and_says_so() -> None:
    found = context(plan())["lineage"]
    assert found["changes"] == {"against": None, "reason": NONE[1], "settings": []}
    assert found["images"]["training"] == plan().training_image
    assert found["dataset_version"] == "v2"


def test_changes_are_those_of_settings_code_data_and_images() -> None:
    before = json.loads(json.dumps(context(plan(), dataset={**DATASET, "version": "v1"})))
    del before["run"]["settings"]["tuning"]["patience"]
    wanted = plan(tuning={"lr": {"min": 0.01}, "batch_size": [8]}, description="Other words.")
    found = context(wanted, (before, None))["lineage"]["changes"]
    assert found["against"]["run_id"] == plan().run_id
    assert found["settings"] == [
        {"setting": "dataset_version", "before": "v1", "now": "v2"},
        {"setting": "tuning.batch_size", "before": [32, 64, 128], "now": [8]},
        {"setting": "tuning.lr.min", "before": 0.001, "now": 0.01},
        {"setting": "tuning.patience", "before": None, "now": 0},
    ]


def test_the_promoted_run_is_the_one_whose_archive_serves(cloud: Cloud) -> None:
    planned = plan().model_copy(update={"bucket": BUCKET})
    s3 = S3Hook(aws_conn_id="aws_default")
    champion = {"model_data": planned.uri("runs", "earlier-1", "jobs", "j", "output", "model.tar.gz")}
    assert lineage.previous(s3, planned, None) == NONE
    found, reason = lineage.previous(s3, planned, champion)
    assert found is None
    assert "has left no s3://evergreen/evergreen/digits/runs/earlier-1/context.json" in str(reason)
    cloud.client("s3").put_object(
        Bucket=BUCKET, Key="evergreen/digits/runs/earlier-1/context.json", Body=json.dumps({"run": 1})
    )
    assert lineage.previous(s3, planned, champion) == ({"run": 1}, None)
    elsewhere, reason = lineage.previous(s3, planned, {"model_data": "s3://other/model.tar.gz"})
    assert elsewhere is None
    assert "not made by a run of this pipeline" in str(reason)


def test_links_lead_to_the_console_on_aws_and_to_our_pages_elsewhere() -> None:
    on_aws = plan().model_copy(update={"region": "eu-west-1"})
    links = context(on_aws)["lineage"]["links"]
    home = "https://eu-west-1.console.aws.amazon.com/sagemaker/home?region=eu-west-1#"
    assert links["training job"] == f"{home}/jobs/digits-retrain-0"
    assert links["tuning job"] == f"{home}/hyper-tuning-jobs/t"
    assert links["endpoint"] == f"{home}/endpoints/evergreen-digits"
    here = context(plan().model_copy(update={"local": True}))["lineage"]["links"]
    assert here["tuning job"].endswith(
        "/evergreen/jobs/retrain_digits/manual__2026-11-21T09%3A46%3A20%2B00%3A00/tune"
    )
