"""The monitor's last task. In a module of its own: it brings half of Airflow along, 1.7 s to import."""

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator


class RetrainOnDriftOperator(TriggerDagRunOperator):
    """Triggers the retraining, with what was found as the run's note too."""

    template_fields = (*TriggerDagRunOperator.template_fields, "note")
