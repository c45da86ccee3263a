"""The task of the DAG `rollback`."""

from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException
from airflow.sdk import BaseOperator

from evergreen import endpoints, names, rollback
from evergreen.waiting import DEFERRABLE, LIMIT_S, EndpointTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context


class RollBackOperator(BaseOperator):
    """Put back what served before, as the run's parameters `pipeline` and `endpoint_config` say.

    Returns the sentence that says what serves now.
    """

    def __init__(
        self, *, aws_conn_id: str = "aws_default", deferrable: bool = DEFERRABLE, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.aws_conn_id = aws_conn_id
        self.deferrable = deferrable

    def execute(self, context: "Context") -> str:
        given = context["params"]
        name, to = names.endpoint(given["pipeline"]), given["endpoint_config"] or None
        return self._carry_out(lambda: rollback.begin(self.aws_conn_id, name, to))

    def go_on(self, context: "Context", event: dict[str, Any]) -> str:
        """After a deferred wait."""
        if event["problem"]:
            raise AirflowException(event["problem"])
        waiting = rollback.Waiting(**event["waiting"])
        return self._carry_out(lambda: rollback.go_on(self.aws_conn_id, waiting))

    def _carry_out(self, step: Callable[[], rollback.Waiting | str]) -> str:
        try:
            outcome = step()
            while isinstance(outcome, rollback.Waiting):
                self._wait(outcome)
                outcome = rollback.go_on(self.aws_conn_id, outcome)
        except rollback.RollbackError as error:
            raise AirflowFailException(str(error)) from error
        self.log.info("%s", outcome)
        return outcome

    def _wait(self, waiting: rollback.Waiting) -> None:
        hook, name = SageMakerHook(aws_conn_id=self.aws_conn_id), waiting.endpoint_name
        live = endpoints.describe(hook, name)
        if self.deferrable and live and live["EndpointStatus"] in endpoints.CHANGING:
            known = {"waiting": asdict(waiting)}
            self.defer(
                trigger=EndpointTrigger(self.aws_conn_id, name, endpoints.state(live), LIMIT_S, known),
                method_name="go_on",
                timeout=timedelta(seconds=2 * LIMIT_S),
            )
        endpoints.settle(hook, name, LIMIT_S)
