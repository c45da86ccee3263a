"""Look at what the endpoint is asked: one DAG for each pipeline file with a `monitor`.

    airflow dags test monitor_digits

compares the requests that data capture has kept since the last look with the training images of the model that serves,
and triggers the retraining when they part. With digits on 2 cores and the local cloud a look takes about 20 s.
"""

from pathlib import Path

from airflow.sdk import DAG, chain

from evergreen import notifications, pipeline, tasks
from evergreen.monitoring import CompareOperator
from evergreen.schedule_settings import Monitor

DOC = """
Compares the pictures that callers sent to the endpoint with those its model was trained on: brightness, contrast, size,
what the network makes of them, what it answers. The run's tab *Report* has the table and the distributions, the log of
the task `compare` the table. {then}

A run is skipped, and says why, when nothing serves, or when nothing was captured since the last look.
"""
THEN = {
    True: "When they part, the retraining is triggered with the reason as the run's note.",
    False: "When they part, the receivers of `notify` are told; nothing is triggered.",
}


def monitor_dag(file: Path, settings: pipeline.DagSettings, monitor: Monitor) -> None:
    """The monitor of one pipeline file."""

    with DAG(
        dag_id=pipeline.dag_id(file.stem, "monitor"),
        description=f"Does what the endpoint of {file.stem} is asked part from what its model was trained on?",
        schedule=monitor.schedule,
        doc_md=DOC.format(then=THEN[monitor.retrain]),
        **settings.arguments,
    ):
        compare = CompareOperator(
            task_id=notifications.COMPARE,
            inputs={"code": "upload_code"},
            on_success_callback=settings.tell["drifted"],
        )
        chain(tasks.plan(str(file)), tasks.upload_code(), compare)
        if monitor.retrain:
            from evergreen.drift_trigger import RetrainOnDriftOperator

            retrain = RetrainOnDriftOperator(
                task_id="retrain",
                trigger_dag_id=settings.dag_id,
                # A second try finds what the first has triggered.
                trigger_run_id="drift__{{ run_id }}",
                skip_when_already_exists=True,
                fail_when_dag_is_paused=True,
                conf={"drift": "{{ ti.xcom_pull(task_ids='compare')['sentence'] }}"},
                note="Drift: {{ ti.xcom_pull(task_ids='compare')['sentence'] }}",
            )
            chain(compare, tasks.drifted(), retrain)


for path in sorted((Path(__file__).parent / "pipelines").glob("*.yaml")):
    loaded = pipeline.load(path)
    if loaded.monitor:
        monitor_dag(path, loaded, loaded.monitor)
