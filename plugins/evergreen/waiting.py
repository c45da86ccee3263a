"""Waiting for an endpoint: in the task's process, or deferred, without a worker's slot."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, conf
from airflow.triggers.base import BaseTrigger, TriggerEvent
from botocore.exceptions import ClientError

from evergreen import durable, endpoints
from evergreen.operators import FromPlan

if TYPE_CHECKING:
    from airflow.sdk import Context

# An endpoint that is still being changed after so long is given up on.
LIMIT_S = 3600


class EndpointTrigger(BaseTrigger):
    """Fires when an endpoint is no longer in a state (of `endpoints.state`), or after `at_most` seconds.

    The event is `known`, and as `problem` None or the sentence that nothing has changed. (`airflow dags test` gives a
    deferred task its event and forgets the keywords that it asked for.)
    """

    def __init__(
        self, aws_conn_id: str | None, endpoint_name: str, state: str, at_most: float, known: dict[str, Any]
    ) -> None:
        super().__init__()
        self.aws_conn_id = aws_conn_id
        self.endpoint_name = endpoint_name
        self.state = state
        self.at_most = at_most
        self.known = known

    def serialize(self) -> tuple[str, dict[str, Any]]:
        names = ("aws_conn_id", "endpoint_name", "state", "at_most", "known")
        return f"{__name__}.{type(self).__name__}", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        began = time.monotonic()
        problem: str | None = f"{self.endpoint_name} is still {self.state} after {self.at_most:.0f} s"
        async with await SageMakerHook(aws_conn_id=self.aws_conn_id).get_async_conn() as client:
            while (left := self.at_most - (waited := time.monotonic() - began)) > 0:
                await asyncio.sleep(min(durable.pause(waited), left))
                try:
                    live = await client.describe_endpoint(EndpointName=self.endpoint_name)
                except ClientError as error:
                    if error.response["Error"]["Code"] != "ValidationException":
                        raise
                    live = None
                if endpoints.state(live) != self.state:
                    problem = None
                    break
        yield TriggerEvent({**self.known, "problem": problem})


DEFERRABLE = conf.getboolean("operators", "default_deferrable", fallback=False)


class WaitsForEndpoint(FromPlan):
    """An operator that waits for the plan's endpoint: a deferrable one is begun again when the wait is over."""

    # The operator's that this is mixed into.
    deferrable: bool

    def __init__(self, **kwargs: Any) -> None:
        deferrable = kwargs.pop("deferrable", DEFERRABLE)
        super().__init__(**kwargs)
        self.deferrable = deferrable

    def begin_again(self, context: "Context", event: dict[str, Any]) -> Any:
        """After a deferred wait of `settled`."""
        if event["problem"]:
            raise AirflowException(event["problem"])
        return self.execute(context)

    def settled(self, method: str = "begin_again", **known: Any) -> dict[str, Any] | None:
        """The endpoint when nobody changes it, None when it does not exist.

        :param method: where a deferrable operator comes back after the wait, with `known` in its event.
        """
        if not self.deferrable:
            return endpoints.settle(self.hook, self.plan.endpoint_name, LIMIT_S)
        live = endpoints.describe(self.hook, self.plan.endpoint_name)
        if live and live["EndpointStatus"] in endpoints.CHANGING:
            self.leave(method, live, **known)
        return live

    def leave(self, method: str, live: dict[str, Any], at_most: float = LIMIT_S, **known: Any) -> None:
        """Defer until the endpoint is in another state than `live`, at most so many seconds; then `method` is called.

        :param known: what its event is to hold, as JSON.
        """
        self.defer(
            trigger=EndpointTrigger(
                self.aws_conn_id, self.plan.endpoint_name, endpoints.state(live), at_most, known
            ),
            method_name=method,
            timeout=timedelta(seconds=at_most + LIMIT_S),
        )

    def put_back(self, doubt: str, config: str | None, *, retry: bool = False) -> AirflowException:
        """Have `config` serve again: the exception to raise, for `doubt` and with the sentence that says how it ended.

        :param retry: whether another try of the task may end otherwise.
        """
        if config is None:
            return _failure(f"{doubt}; nothing served before, so there is nothing to put back", retry)
        self.log.error("%s; putting %s back", doubt, config)
        return self._put_back(doubt, config, retry=retry, asked=False)

    def put_back_again(self, context: "Context", event: dict[str, Any]) -> NoReturn:
        """After a deferred wait of `put_back`."""
        self.pull(context)
        raise self._put_back(**event)

    def _put_back(
        self, doubt: str, config: str, *, retry: bool, asked: bool, problem: str | None = None
    ) -> AirflowException:
        """:param asked: whether the endpoint was updated to `config` already."""
        name = self.plan.endpoint_name
        known = {"doubt": doubt, "config": config, "retry": retry}
        try:
            if problem is None:
                live = self.settled("put_back_again", asked=asked, **known)
                if live and not asked and endpoints.mismatch(live, name, config):
                    self.hook.conn.update_endpoint(EndpointName=name, EndpointConfigName=config)
                    live = self.settled("put_back_again", asked=True, **known)
                problem = endpoints.mismatch(live, name, config)
        except (ClientError, AirflowException) as error:
            problem = str(error)
        outcome = f"PUTTING BACK {config} FAILED: {problem}" if problem else f"{config} serves again"
        return _failure(f"{doubt}; {outcome}", retry)


def _failure(sentence: str, retry: bool) -> AirflowException:
    return (AirflowException if retry else AirflowFailException)(sentence)
