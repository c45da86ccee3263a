"""The whole loop on this machine: no AWS account, no Docker, no download.

    make demo

writes scikit-learn's digits as image files, starts the local cloud, and runs the DAG `retrain_digits` with
`airflow dags test`: sync, features, 4 trials, retraining under debugger and profiler, report, gate, endpoint.
About 100 s on 2 cores, and 12 s more at the first start. Expect a test accuracy of 0.95 or more. The local cloud
goes on running, so that the endpoint does; `make down` stops it.

It ends with the verdict and writes the same as var/demo/summary.json. Exit status 0: the new model serves.
"""

import argparse
import json
import mimetypes
import os
import re
import shlex
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scripts.local_stack import (
    BUCKET,
    DIGITS,
    REPOSITORY,
    Cloud,
    Stack,
    StackError,
    airflow_command,
    make_digits,
)

STARTED = time.monotonic()
SECONDS_BETWEEN_LINES = 5
NOT_STARTED = "not started"
# A line of one of our operators in the log of `airflow dags test`.
_TASK_SAYS = re.compile(r"\[info\s*\] (.*?) *\[airflow\.task\.operators\.evergreen")
UNFINISHED = (None, "none", "scheduled", "queued", "running", "deferred", "awaiting_input", "up_for_retry")


@dataclass(frozen=True)
class Run:
    """One run of a pipeline's DAG in Airflow's database."""

    database: Path
    dag_id: str
    logical_date: datetime

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=30)) as connection:
            return connection.execute(
                sql, (self.dag_id, self.logical_date.strftime("%Y-%m-%d %H:%M:%S.%f"))
            ).fetchall()

    def run(self) -> tuple[str, str]:
        """(run id, state)"""
        rows = self.query("SELECT run_id, state FROM dag_run WHERE dag_id = ? AND logical_date = ?")
        return rows[0] if rows else ("", NOT_STARTED)

    def tasks(self) -> list[tuple[str, str | None, float | None, float | None]]:
        """(task, state, start, end) with times in seconds since the epoch, in the order of their start."""
        rows = self.query(
            "SELECT t.task_id, t.state, (julianday(t.start_date) - 2440587.5) * 86400, "
            "(julianday(t.end_date) - 2440587.5) * 86400 "
            "FROM task_instance t JOIN dag_run r ON t.run_id = r.run_id AND t.dag_id = r.dag_id "
            "WHERE r.dag_id = ? AND r.logical_date = ? ORDER BY t.start_date"
        )
        return [(str(task), state, start, end) for task, state, start, end in rows]


def demo(stack: Stack, pipeline: str, conf: dict[str, Any]) -> bool:
    """Run the loop once; True when the new model serves."""
    file = stack.dags / f"pipelines/{pipeline}.yaml"
    if file.is_file() and DIGITS in file.read_text():
        say("the dataset: scikit-learn's handwritten digits as image files")
        make_digits()
    say("the local cloud")
    cloud = stack.cloud()
    say(f"SageMaker's API at {cloud.sagemaker}, S3 and the rest at {cloud.aws}")
    environment = stack.airflow_environment(cloud)
    say("Airflow's database")
    stack.migrate(environment)

    run = Run(stack.airflow_home / "airflow.db", f"retrain_{pipeline}", datetime.now(UTC))
    say(f"airflow dags test {run.dag_id}")
    log = stack.log / "demo.log"
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*airflow_command(), "dags", "test", run.dag_id, run.logical_date.isoformat(), "--conf", json.dumps(conf)],
            cwd=REPOSITORY, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
        try:
            follow(process, run, log)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    summary = summarise(stack, cloud, run, pipeline)
    summary["seconds"]["all"] = round(time.monotonic() - started, 1)
    return report(stack, summary, log)


def follow(process: subprocess.Popen[bytes], run: Run, log: Path) -> None:
    """Show each task's end, and every few seconds what runs and for how long."""
    shown: set[str] = set()
    last_line = time.monotonic()
    while True:
        ended = process.poll() is not None
        for task, state, start, end in run.tasks():
            if start and end and task not in shown and state not in UNFINISHED:
                shown.add(task)
                say(f"{task:<28} {state:<8} {end - start:6.1f} s")
                last_line = time.monotonic()
        if ended:
            return
        if time.monotonic() - last_line > SECONDS_BETWEEN_LINES:
            say(f"… {doing(run)}{detail(log)}")
            last_line = time.monotonic()
        time.sleep(0.3)


def doing(run: Run) -> str:
    """The running tasks and their times."""
    tasks = run.tasks()
    running = [
        f"{task} for {time.time() - start:.0f} s"
        for task, state, start, _ in tasks
        if state == "running" and start
    ]
    waiting = [f"{task} waits for its next try" for task, state, _, _ in tasks if state == "up_for_retry"]
    begun = any(start for _, _, start, _ in tasks)
    return ", ".join(running + waiting) or ("between two tasks" if begun else "Airflow is starting")


def detail(log: Path) -> str:
    """What the running task said last about its job."""
    said = _TASK_SAYS.findall(log.read_bytes()[-20_000:].decode(errors="replace"))
    return f": {said[-1].strip()[:150]}" if said else ""


def last_error(log: Path) -> str:
    """The last exception that a task ended with."""
    raised = re.findall(r"^(?:\w+\.)*\w+(?:Exception|Error): (.*)$", log.read_text(errors="replace"), re.M)
    return raised[-1] if raised else "its log names no error"


def summarise(stack: Stack, cloud: Cloud, run: Run, pipeline: str) -> dict[str, Any]:
    """The run's outcome, read from where the run has left it."""
    sys.path.insert(0, str(REPOSITORY / "plugins"))
    from evergreen.names import run_folder

    run_id, state = run.run()
    seconds = {
        task: round(end - start, 1)
        for task, task_state, start, end in run.tasks()
        if start and end and task_state != "skipped"
    }
    summary: dict[str, Any] = {
        "dag_id": run.dag_id,
        "run_id": run_id,
        "dag_run_state": state,
        "seconds": seconds,
    }
    s3 = cloud.client("s3")
    prefix = f"evergreen/{pipeline}/reports/{run_folder(run.dag_id, run_id)}"
    folder = stack.var / "demo" / Path(prefix).name
    if not s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/report.json").get("Contents"):
        return summary
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("report.html", "report.json"):
        s3.download_file(BUCKET, f"{prefix}/{name}", str(folder / name))
    document = json.loads((folder / "report.json").read_text())
    # What the page has a link to.
    if page := document["profiler"]["page"]:
        (folder / page).parent.mkdir(parents=True, exist_ok=True)
        s3.download_file(BUCKET, f"{prefix}/{page}", str(folder / page))
    jobs = [
        {key: job[key] for key in ("name", "status", "objective", "hyperparameters")}
        for job in document["tuning"]["jobs"]
    ]
    summary |= {
        "verdict": document["verdict"],
        "tuning": {"name": document["tuning"]["name"], "jobs": jobs, "best": document["tuning"]["best"]},
        "training_job": document["training"]["name"],
        "rules": [{key: rule[key] for key in ("name", "status", "detail")} for rule in document["rules"]],
        "metrics": document["metrics"],
        "report": str(folder / "report.html"),
        "report_uri": f"s3://{BUCKET}/{prefix}/report.html",
    }
    return summary | ask_endpoint(cloud, document["run"]["endpoint"], sample_image(cloud, document, folder))


def sample_image(cloud: Cloud, document: dict[str, Any], folder: Path) -> Path:
    """The image in the middle of the test split: CLASS/NAME in the dataset's folder, or fetched into `folder`."""
    dataset = document["run"]["settings"]["dataset"]
    prefix = document["dataset"]["uri"].removeprefix(f"s3://{BUCKET}/") + "/test/"
    pages = cloud.client("s3").get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    keys = [item["Key"] for page in pages for item in page["Contents"]]
    key: str = keys[len(keys) // 2]
    name = key.removeprefix(prefix)
    local = REPOSITORY.joinpath(dataset["source"], dataset["splits"]["test"], name)
    if local.is_file():
        return local
    fetched = folder / name
    fetched.parent.mkdir(parents=True, exist_ok=True)
    cloud.client("s3").download_file(BUCKET, key, str(fetched))
    return fetched


def ask_endpoint(cloud: Cloud, name: str, image: Path) -> dict[str, Any]:
    """The endpoint's state, and its answer to an image."""
    found = cloud.client("sagemaker").list_endpoints(NameContains=name)["Endpoints"]
    if not any(endpoint["EndpointName"] == name for endpoint in found):
        return {"endpoint": {"name": name, "status": "NotCreated", "config": None, "url": None}}
    description = cloud.client("sagemaker").describe_endpoint(EndpointName=name)
    answer = json.loads(
        cloud.client("sagemaker-runtime")
        .invoke_endpoint(EndpointName=name, Body=image.read_bytes(), ContentType="image/jpeg")["Body"]
        .read()
    )
    return {
        "endpoint": {
            "name": name,
            "status": description["EndpointStatus"],
            "config": description["EndpointConfigName"],
            "url": f"{cloud.sagemaker}/endpoints/{name}/invocations",
        },
        "prediction": {
            "image": os.path.relpath(image, REPOSITORY),
            "label": answer["label"],
            "probability": answer["probability"],
            "truth": image.parent.name,
            "model_version": answer["model_version"],
        },
    }


def report(stack: Stack, summary: dict[str, Any], log: Path) -> bool:
    path = stack.var / "demo" / "summary.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(summary, indent=2))
    print()
    if "verdict" not in summary:
        state = summary["dag_run_state"]
        what = "did not start" if state == NOT_STARTED else f"ended {state} before there was a report"
        print(f"The run {what}: {last_error(log)}")
        print(f"The whole log is {log}")
        return False
    verdict, metrics, endpoint = summary["verdict"], summary["metrics"], summary["endpoint"]
    low, high = metrics["accuracy_interval"]
    print(f"Verdict        {verdict['decision']}: {' '.join(verdict['reasons'])}")
    print(
        f"Test accuracy  {metrics['accuracy']:.3f} (95 % interval {low:.3f} to {high:.3f}, {metrics['count']} images)"
    )
    for rule in summary["rules"]:
        print(f"Rule           {rule['name']}: {rule['status']}")
    print(f"Endpoint       {endpoint['name']} is {endpoint['status']} on {endpoint['config']}")
    if "prediction" in summary:
        answer = summary["prediction"]
        given = f"{answer['label']} ({answer['probability']:.3f}) to {answer['image']}"
        print(f"               answers {given}, truth {answer['truth']}")
        kind = mimetypes.guess_type(answer["image"])[0] or "application/octet-stream"
        command = [
            "curl",
            "--data-binary",
            f"@{answer['image']}",
            "-H",
            f"Content-Type: {kind}",
            endpoint["url"],
        ]
        print(f"               {shlex.join(command)}")
    print(f"Report         {summary['report']}")
    print(
        "Web UI         make up shows this run, its report and the form for the next; make down stops everything"
    )
    print(f"Took           {summary['seconds']['all']:.0f} s for the run; all of this is in {path}")
    deployed = summary["dag_run_state"] == "success" and verdict["decision"] != "hold"
    if not deployed:
        why = (
            "the gate holds it"
            if verdict["decision"] == "hold"
            else f"the run ended {summary['dag_run_state']}"
        )
        print(f"The new model does not serve: {why}. Log: {log}")
    return deployed and str(endpoint["status"]) == "InService"


def say(text: str) -> None:
    print(f"[{time.monotonic() - STARTED:4.0f} s] {text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the whole loop once on this machine.")
    parser.add_argument("--var", default=REPOSITORY / "var", type=Path, help="folder of everything that runs")
    parser.add_argument(
        "--dags", default=REPOSITORY / "dags", type=Path, help="folder of the DAG and its pipelines/"
    )
    parser.add_argument("--pipeline", default="digits", help="name of a file in dags/pipelines/")
    parser.add_argument("--conf", default={}, type=json.loads, help="run parameters as JSON")
    arguments = parser.parse_args()
    try:
        happened = demo(
            Stack(arguments.var.resolve(), arguments.dags.resolve()), arguments.pipeline, arguments.conf
        )
    except StackError as error:
        sys.exit(f"error: {error}")
    sys.exit(0 if happened else 1)


if __name__ == "__main__":
    main()
