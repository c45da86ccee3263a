"""The operators that deploy a model: the provider's, extended to be safe to retry and to watch what they do.

An update is watched from two sides. SageMaker's alarms look at the new fleet's errors and times; the operator sends the
report's test images to the endpoint and counts what is answered wrongly into a metric with an alarm of its own. Either
has SageMaker roll the update back, which the provider's operator takes for success, and these for failure.
"""

import time
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
from airflow.providers.amazon.aws.operators.sagemaker import (
    SageMakerEndpointConfigOperator,
    SageMakerEndpointOperator,
    SageMakerModelOperator,
    serialize,
)
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException
from botocore.exceptions import BotoCoreError, ClientError

from evergreen import alarms, deployment_requests, durable, endpoints, lineage_events, names, smoke
from evergreen.operators import FromPlan
from evergreen.waiting import WaitsForEndpoint

if TYPE_CHECKING:
    from airflow.sdk import Context

# An update may take so long besides what its policy waits.
START_LIMIT_S = 3600
# Between two looks at the answers; with a process of its own for each of them when the task is deferred.
PAUSE_S, DEFERRED_PAUSE_S = 2, 10
# In the reasons of failures that SageMaker may not have the next time.
TRANSIENT = ("capacity", "internalservererror", "internal error")
# Of the wrong answers, how many are told.
MOST_TOLD = 3


class ModelOperator(FromPlan, SageMakerModelOperator):
    """CreateModel, unless a model of this archive exists. Returns the model's name."""

    def execute(self, context: "Context") -> str:
        model_data, plan = deployment_requests.archive(**self.pull(context)), self.plan
        # A variable more is another model, as SageMaker counts them.
        variables = sorted(plan.pipeline.deployment.environment.items())
        name = names.resource(plan.base_name, model_data, plan.inference_image, *variables)
        self.reads, self.writes = (model_data,), (lineage_events.sagemaker(plan, "model", name),)
        if _exists(self.hook.describe_model, name):
            self.log.info("model %s exists", name)
        else:
            self.config = {"ModelName": name, **deployment_requests.model(plan, model_data)}
            super().execute(context)
        return name


class EndpointConfigOperator(FromPlan, SageMakerEndpointConfigOperator):
    """CreateEndpointConfig, unless one of this model and these settings exists. Returns its name."""

    def execute(self, context: "Context") -> str:
        inputs = self.pull(context)
        plan, model_name, champion = self.plan, inputs["model_name"], inputs["assessment"]["champion"]
        request = deployment_requests.endpoint_config(plan, model_name, champion)
        # Not of the tags: a retry, or a run that deploys the same again, finds it.
        settings = {key: value for key, value in request.items() if key != "Tags"}
        name = names.resource(plan.base_name, model_name, settings)
        self.reads = (lineage_events.sagemaker(plan, "model", model_name),)
        self.writes = (lineage_events.sagemaker(plan, "endpoint-config", name),)
        if _exists(self.hook.describe_endpoint_config, name):
            self.log.info("endpoint configuration %s exists", name)
            if champion and champion["endpoint_config"] != name:
                # What it followed when it was made may be long gone.
                arn = self.hook.describe_endpoint_config(name)["EndpointConfigArn"]
                before = {"Key": deployment_requests.BEFORE_TAG, "Value": champion["endpoint_config"]}
                self.hook.conn.add_tags(ResourceArn=arn, Tags=[before])
        else:
            self.config = {"EndpointConfigName": name, **request}
            super().execute(context)
        return name


@dataclass
class Change:
    """A creation or an update of the endpoint that is under way; a deferred task takes it along as JSON."""

    config: str
    before: str | None
    """The configuration that served before it."""
    began: float
    """In seconds since the epoch, as `limit`."""
    limit: float
    old_versions: list[str | None] = field(default_factory=list)
    """Model versions that answered before it; with `answerable`, the test images that were answered."""
    answerable: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    """A sentence for each of the first wrong answers."""


class EndpointOperator(WaitsForEndpoint, SageMakerEndpointOperator):
    """Create or update the endpoint by the pipeline's policy; nothing to do when it already has the configuration.

    Returns the provider's `{"EndpointConfig", "Endpoint"}`. Fails with SageMaker's reason, the first wrong answers and
    the log's last line when the endpoint does not end with the configuration; what served before then serves. Fails
    before it changes anything when something else serves than what the model was compared with.
    """

    def execute(self, context: "Context") -> dict[str, Any]:
        inputs = self.pull(context)
        plan, config_name = self.plan, inputs["endpoint_config_name"]
        self.assessment = inputs["assessment"]
        live = endpoints.describe(self.hook, plan.endpoint_name)
        if live and endpoints.changes_to(live) == config_name:
            self.log.info("%s is %s: following it", plan.endpoint_name, endpoints.state(live))
            return self._follow(self._change(live, config_name))
        live = self.settled()
        if live and live["EndpointStatus"] == "Failed":
            self.log.warning(
                "%s is Failed (%s): creating it anew", plan.endpoint_name, live.get("FailureReason")
            )
            self.hook.conn.delete_endpoint(EndpointName=plan.endpoint_name)
            live = self.settled()
        if live and endpoints.mismatch(live, plan.endpoint_name, config_name) is None:
            self.log.info("%s already has %s", plan.endpoint_name, config_name)
            return self._described(live)
        self._check_champion(live)
        change = self._change(live, config_name)
        if live:
            self.operation = "update"
            self.config = deployment_requests.update_endpoint(plan, config_name, self._arm(change))
        else:
            self.operation = "create"
            self.config = deployment_requests.create_endpoint(plan, config_name)
        with durable.without_waiting(self):
            super().execute(context)
        return self._follow(change)

    def look_again(self, context: "Context", event: dict[str, Any]) -> dict[str, Any]:
        """After a deferred pause."""
        self.assessment = self.pull(context)["assessment"]
        return self._follow(Change(**event["change"]))

    def _check_champion(self, live: dict[str, Any] | None) -> None:
        """Runs that overlap, a rollback, an approval that came late: the gate has not seen what serves now.

        Two that get past this at once are told apart by SageMaker, which refuses the second update until the first has
        ended; the next try of its task then comes here.
        """
        compared = (self.assessment["champion"] or {}).get("endpoint_config")
        if live and live["EndpointConfigName"] != compared:
            raise AirflowFailException(
                f"{live['EndpointConfigName']} serves at {self.plan.endpoint_name}, and the model was compared with "
                f"{compared or 'nothing'}: clear the task assess, which compares them, and what follows"
            )

    def _change(self, live: dict[str, Any] | None, config_name: str) -> Change:
        """What is to happen, or happens, to the endpoint."""
        serves = live["EndpointConfigName"] if live and live["EndpointStatus"] != "Creating" else None
        now = time.time()
        limit = now + START_LIMIT_S + self.plan.pipeline.deployment.waiting_seconds
        return Change(config_name, before=serves, began=now, limit=limit)

    def _arm(self, change: Change) -> list[str]:
        """What is to roll the update back; before it begins, the old fleet is asked what it answers."""
        if not self.plan.pipeline.deployment.bakes:
            return []
        if watch := self._watch(change):
            watch.before()
            change.old_versions, change.answerable = watch.old_versions, watch.answerable
        return alarms.arm(self._cloudwatch, self.plan, change.config)

    def _watch(self, change: Change) -> smoke.Watch | None:
        deployment = self.plan.pipeline.deployment
        if not change.before or not deployment.bakes or deployment.alarms.invalid_answers is None:
            return None
        watch = smoke.Watch(
            smoke.runtime(self.aws_conn_id, tries=1),
            self.plan.endpoint_name,
            smoke.questions(self.s3, self.assessment["uri"]),
            self.assessment["model_version"],
        )
        watch.old_versions, watch.answerable = change.old_versions, change.answerable
        return watch

    @cached_property
    def _cloudwatch(self) -> Any:
        return AwsBaseHook(self.aws_conn_id, client_type="cloudwatch").conn

    def _follow(self, change: Change) -> dict[str, Any]:
        """Until nobody changes the endpoint any more."""
        name, watch, shown = self.plan.endpoint_name, self._watch(change), ""
        while (live := endpoints.describe(self.hook, name)) and live["EndpointStatus"] in endpoints.CHANGING:
            if time.time() > change.limit:
                raise AirflowException(f"{name} is still {live['EndpointStatus']}: it was given up on")
            state = endpoints.state(live)
            if state != shown:
                self.log.info("%s is %s (%.0f s)", name, state, time.time() - change.began)
                shown = state
            # While its instances start, the new fleet answers nobody.
            if answers := watch is not None and "Creating" not in state:
                self._count(watch, change)
            if self.deferrable:
                left = DEFERRED_PAUSE_S if answers else change.limit - time.time()
                self.leave("look_again", live, left, change=asdict(change))
            time.sleep(PAUSE_S)
        return self._finish(change, live)

    def _count(self, watch: smoke.Watch, change: Change) -> None:
        try:
            wrong = watch.look()
            alarms.report(self._cloudwatch, self.plan, change.config, len(wrong))
        except (BotoCoreError, ClientError) as error:
            # The alarms of SageMaker's own metrics still watch, and `verify` asks again.
            self.log.warning("the answers could not be looked at: %s", error)
            return
        for sentence in wrong[: MOST_TOLD - len(change.told)]:
            self.log.warning("%s", sentence)
            change.told.append(sentence)

    def _finish(self, change: Change, live: dict[str, Any] | None) -> dict[str, Any]:
        name = self.plan.endpoint_name
        problem = endpoints.mismatch(live, name, change.config)
        if problem is None:
            assert live
            self.log.info("%s is InService with %s", name, change.config)
            return self._described(live)
        sentences = [problem, *change.told]
        # An instance that an alarm has ended says nothing of it.
        alarmed = any(alarm in problem for alarm in alarms.names(self.plan))
        line = endpoints.last_words(self.aws_conn_id, name, change.began, error=alarmed)
        if line and line not in problem:
            sentences.append(f"its log says: {line}")
        # Another try of what the model itself has caused would end alike.
        transient = any(word in problem.lower() for word in TRANSIENT)
        raise self.put_back("; ".join(sentences), change.before, retry=transient)

    def _described(self, live: dict[str, Any]) -> dict[str, Any]:
        config_name = live["EndpointConfigName"]
        self.reads = (lineage_events.sagemaker(self.plan, "endpoint-config", config_name),)
        self.writes = (lineage_events.sagemaker(self.plan, "endpoint", self.plan.endpoint_name),)
        return {
            "EndpointConfig": serialize(self.hook.describe_endpoint_config(config_name)),
            "Endpoint": serialize(live),
        }


def _exists(describe: Any, name: str) -> bool:
    try:
        describe(name)
    except ClientError as error:
        if error.response["Error"]["Code"] == "ValidationException":
            return False
        raise
    return True
