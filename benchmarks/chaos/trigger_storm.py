"""20 announcements of new data in a row, the newest last: which model serves in the end, and what that took.

    make chaos NAME=trigger-storm

About 6 minutes on 2 cores. In a stack of its own a pipeline that is started by an asset; each event comes with a
further training image, most of them while a run goes on. One run at a time looks at the data that is there when it
begins, and a run that finds nothing new ends there. In the end the endpoint must serve the model of all images, no
update of it may have begun before the one before had ended, and every run must have succeeded.
"""

import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

from benchmarks.servers.airflow import Airflow, few_digits, make_pipelines, short_pipeline
from scripts.bench import conditions
from scripts.local_stack import BUCKET, Cloud, Stack, make_digits

EVENTS, PAUSE_S, QUIET_S, LIMIT_S = 20, 3, 60, 1800
CLASSES, IMAGES = 10, {"train": 5, "valid": 2, "test": 2}
PIPELINE, ASSET = "storm", "new_pictures"
DAG = f"retrain_{PIPELINE}"
SETTINGS = {"AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE": "True"}


def run() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = few_digits(folder / "digits", IMAGES)
        # With so few test images the better of two models is chance.
        gate = {"minimum_accuracy": 0, "champion_margin": 1}
        document = short_pipeline(dataset, schedule={"asset": ASSET}, gate=gate)
        make_pipelines(folder / "dags", {PIPELINE: document})
        stack = Stack(folder / "var", folder / "dags")
        try:
            airflow = Airflow(stack, SETTINGS)
            airflow.start(1)
            began = time.monotonic()
            _storm(dataset, airflow)
            runs = _ended(airflow)
            figures = {
                "events": EVENTS,
                "runs": len(runs),
                "states": sorted({run["state"] for run in runs}),
                "seconds": round(time.monotonic() - began),
                **_outcome(stack.cloud()),
                "overlapping_updates": _overlapping(airflow, runs),
            }
        finally:
            stack.down()
    return {
        "figures": figures,
        "conditions": conditions("apache-airflow"),
        "ok": figures["states"] == ["success"]
        and figures["images_of_what_serves"] == CLASSES * IMAGES["train"] + EVENTS
        and figures["overlapping_updates"] == 0,
    }


def _storm(dataset: Path, airflow: Airflow) -> None:
    further = sorted((make_digits() / "train" / "0").iterdir())[IMAGES["train"] :][:EVENTS]
    (asset,) = airflow.ask(f"/assets?name_pattern={ASSET}")["assets"]
    for image in further:
        shutil.copy(image, dataset / "train" / "0")
        airflow.ask("/assets/events", {"asset_id": asset["id"], "extra": {}})
        time.sleep(PAUSE_S)


def _ended(airflow: Airflow) -> list[dict[str, Any]]:
    """The runs, when none is left to do and none has come for a while: events of a run's time make one after it.

    :raises TimeoutError: when there still are some after `LIMIT_S`.
    """
    began = changed = time.monotonic()
    shown: Counter[str] = Counter()
    while True:
        runs: list[dict[str, Any]] = airflow.ask(f"/dags/{DAG}/dagRuns?limit=100&order_by=start_date")[
            "dag_runs"
        ]
        states, now = Counter(run["state"] for run in runs), time.monotonic()
        if states != shown:
            shown, changed = states, now
            print(f"{now - began:4.0f} s: runs {dict(states)}", file=sys.stderr, flush=True)
        if now - changed > QUIET_S and set(states) <= {"success", "failed"}:
            return runs
        if now - began > LIMIT_S:
            raise TimeoutError(f"after {LIMIT_S} s the runs are {dict(states)}")
        time.sleep(2)


def _outcome(cloud: Cloud) -> dict[str, int]:
    """How many trainings there were, and how many images the model was trained on that serves."""
    sagemaker, s3 = cloud.client("sagemaker"), cloud.client("s3")
    config = sagemaker.describe_endpoint(EndpointName=f"evergreen-{PIPELINE}")["EndpointConfigName"]
    (variant,) = sagemaker.describe_endpoint_config(EndpointConfigName=config)["ProductionVariants"]
    model = sagemaker.describe_model(ModelName=variant["ModelName"])["PrimaryContainer"]["ModelDataUrl"]
    # The archive of a run's model lies in the run's folder.
    run = model.removeprefix(f"s3://{BUCKET}/").partition("/jobs/")[0]
    context = json.loads(s3.get_object(Bucket=BUCKET, Key=f"{run}/context.json")["Body"].read())
    trainings = sagemaker.list_training_jobs(NameContains="-retrain-")["TrainingJobSummaries"]
    return {
        "trainings": len(trainings),
        "images_of_what_serves": sum(context["dataset"]["splits"]["train"].values()),
    }


def _overlapping(airflow: Airflow, runs: list[dict[str, Any]]) -> int:
    """How many tasks that change the endpoint began before the one before had ended."""
    paths = [f"/dags/{DAG}/dagRuns/{quote(run['dag_run_id'])}/taskInstances/deploy.endpoint" for run in runs]
    tasks = [task for task in map(airflow.ask, paths) if task["state"] == "success"]
    spans = sorted((task["start_date"], task["end_date"]) for task in tasks)
    return sum(later[0] < earlier[1] for earlier, later in pairwise(spans))
