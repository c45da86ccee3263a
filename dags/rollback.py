"""Put back what served before, by the trigger form: which pipeline, and if need be which configuration.

    airflow dags test rollback --conf '{"pipeline": "digits"}'

`make rollback` does the same without Airflow.
"""

from datetime import UTC, datetime
from pathlib import Path

from airflow.sdk import DAG, Param

from evergreen.rollback_operator import RollBackOperator

PIPELINES = sorted(path.stem for path in (Path(__file__).parent / "pipelines").glob("*.yaml"))


with DAG(
    dag_id="rollback",
    description="Put back what served before.",
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    params={
        # Without a default: whoever triggers it has to say which.
        "pipeline": Param(
            type="string",
            enum=PIPELINES,
            title="Pipeline",
            description="Whose endpoint goes back to the configuration that served before.",
        ),
        "endpoint_config": Param(
            None,
            type=["null", "string"],
            title="Endpoint configuration",
            description="Another one than that, by its name.",
        ),
    },
    doc_md=__doc__,
    tags=["evergreen"],
    max_active_runs=1,
):
    RollBackOperator(task_id="roll_back")
