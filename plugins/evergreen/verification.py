"""The look at an endpoint after its update, whatever has watched it before."""

from typing import TYPE_CHECKING, Any

from evergreen import endpoints, lineage_events, smoke
from evergreen.waiting import WaitsForEndpoint

if TYPE_CHECKING:
    from airflow.sdk import Context


class VerifyEndpointOperator(WaitsForEndpoint):
    """The endpoint has the requested configuration and answers as the model did offline.

    On any doubt the configuration that served before is put back, and the task fails with the reason. Returns what
    serves, what served before, and the smoke test's answers.
    """

    def execute(self, context: "Context") -> dict[str, Any]:
        inputs = self.pull(context)
        plan, config_name, assessment = self.plan, inputs["endpoint_config_name"], inputs["assessment"]
        champion = assessment["champion"]
        predictions: list[dict[str, Any]] = []
        self.reads = (lineage_events.sagemaker(plan, "endpoint", plan.endpoint_name),)
        try:
            live = self.settled()
            doubt = endpoints.mismatch(live, plan.endpoint_name, config_name)
            if doubt is None:
                client = smoke.runtime(self.aws_conn_id, tries=3)
                asked = smoke.questions(self.s3, assessment["uri"])
                doubt, predictions = smoke.test(
                    client, plan.endpoint_name, asked, assessment["model_version"]
                )
        except Exception as error:
            # What could not be looked at is a doubt too.
            self.log.exception("the endpoint could not be verified")
            doubt = f"the endpoint could not be verified: {type(error).__name__}: {error}"
        if doubt is None:
            return {
                "endpoint": plan.endpoint_name,
                "endpoint_config": config_name,
                "before": champion,
                "predictions": predictions,
            }
        raise self.put_back(doubt, champion["endpoint_config"] if champion else None)
