"""Keep an image classifier fresh: one DAG for each pipeline file in dags/pipelines/.

    airflow dags test retrain_digits --conf '{"max_jobs": 2}'

On 2 cores with the local cloud the digits take about 90 s. This file is the picture of the system; what the
tasks do is in plugins/evergreen/.
"""

from pathlib import Path

from airflow.providers.amazon.aws.operators.s3 import S3CopyPrefixOperator
from airflow.sdk import Asset, TaskGroup, TriggerRule, chain, dag, get_parsing_context

from evergreen import pipeline, tasks
from evergreen.batch import BatchPredictOperator
from evergreen.deployment import EndpointConfigOperator, EndpointOperator, ModelOperator
from evergreen.operators import (
    AssessOperator,
    ExtractFeaturesOperator,
    RetrainOperator,
    StageWeightsOperator,
    TuneOperator,
)
from evergreen.registry import ApproveOperator, RegisterOperator
from evergreen.sync import SyncDatasetOperator
from evergreen.verification import VerifyEndpointOperator

# A step runs when some of what it waits for has run and the rest was rightly left out.
AFTER_A_BRANCH = TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS


def retrain_dag(file: Path) -> None:
    """The loop for one pipeline file."""
    name, settings = file.stem, pipeline.load(file)
    updates = pipeline.assets(name)

    @dag(
        dag_id=settings.dag_id,
        description=settings.description,
        schedule=settings.schedule,
        deadline=settings.deadline,
        params=settings.params,
        doc_md=settings.doc_md,
        **settings.arguments,
    )
    def loop() -> None:
        plan = tasks.plan(str(file))
        sync_dataset = SyncDatasetOperator(
            task_id="sync_dataset", outlets=[Asset(name=updates["dataset"], group="evergreen")]
        )
        upload_code = tasks.upload_code()
        material = {"dataset": "sync_dataset", "code": "upload_code"}
        stage_weights = StageWeightsOperator(task_id="stage_weights", inputs={"code": "upload_code"})
        material = {**material, "weights": "stage_weights"}
        extract_features = ExtractFeaturesOperator(task_id="extract_features", inputs=material)
        material = {**material, "features": "extract_features"}
        tune = TuneOperator(task_id="tune", inputs=material)
        material = {**material, "tuning": "tune"}
        retrain = RetrainOperator(task_id="retrain", inputs=material)
        assess = AssessOperator(task_id="assess", inputs={**material, "training": "retrain"})
        export_report = S3CopyPrefixOperator(
            task_id="export_report",
            source_bucket_prefix=assess.output["uri"],
            dest_bucket_prefix=assess.output["report_uri"],
            kms_key_id=assess.output["kms_key_id"],
            outlets=[Asset(name=updates["report"], group="evergreen")],
        )

        gate = tasks.gate.override(on_success_callback=settings.tell["asked"])()
        hold = tasks.hold.override(on_success_callback=settings.tell["held"])()
        decided = {"training": "retrain", "assessment": "assess"}
        register = RegisterOperator(task_id="register", inputs=decided)
        approve = ApproveOperator(
            task_id="approve", subject=f"Deploy the new {name} model?", body=tasks.APPROVAL_BODY
        )

        with TaskGroup("deploy", default_args={"pool": settings.pool}) as deploy:
            model = ModelOperator(task_id="model", inputs=decided, trigger_rule=AFTER_A_BRANCH)
            endpoint_config = EndpointConfigOperator(
                task_id="endpoint_config", inputs={"model_name": "deploy.model", "assessment": "assess"}
            )
            serving = {"endpoint_config_name": "deploy.endpoint_config", "assessment": "assess"}
            chain(model, endpoint_config, EndpointOperator(task_id="endpoint", inputs=serving))
        verify = VerifyEndpointOperator(
            task_id="verify",
            pool=settings.pool,
            inputs=serving,
            on_success_callback=settings.tell["promoted"],
        )
        batch_predict = BatchPredictOperator(
            task_id="batch_predict",
            inputs={"dataset": "sync_dataset", "model_name": "deploy.model", "assessment": "assess"},
        )
        retire = tasks.retire.override(trigger_rule=AFTER_A_BRANCH)()

        chain(
            plan,
            sync_dataset,
            upload_code,
            stage_weights,
            extract_features,
            tune,
            retrain,
            assess,
            export_report,
        )
        chain(export_report, gate)
        chain(gate, [hold, register])
        chain(register, approve, deploy, verify, batch_predict, retire)
        chain(register, deploy)
        chain(verify, retire)

    loop()


# A task's process reads this file too, and needs its own DAG alone.
wanted = get_parsing_context().dag_id
for path in sorted((Path(__file__).parent / "pipelines").glob("*.yaml")):
    if wanted in (None, pipeline.dag_id(path.stem)):
        retrain_dag(path)
