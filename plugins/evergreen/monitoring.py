"""The monitor: what the endpoint was asked since the last look, against what its model was trained on."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.operators.sagemaker import SageMakerProcessingOperator
from airflow.providers.common.compat.sdk import AirflowSkipException

from evergreen import durable, endpoints, lineage, metrics, requests
from evergreen.deployment_requests import VARIANT
from evergreen.operators import PlannedJob

if TYPE_CHECKING:
    from airflow.sdk import Context

# Of data capture's files so many, evenly, so that a look costs the same after an hour and after a month.
MOST_FILES, MOST_BYTES = 200, 512 << 20
# A file is named after its first request and uploaded later.
LATE = timedelta(hours=1)


class CompareOperator(PlannedJob, SageMakerProcessingOperator):
    """Captured requests against the training snapshot of the model that serves.

    Looks at what was uploaded since the last look that was evaluated, or since the endpoint's configuration was made.
    Returns `{"evaluated", "drifted", "sentence", "uri", "since", "until", "measures"}`; ends as skipped, with the
    reason, where there is nothing to compare.
    """

    kind = durable.PROCESSING

    def execute(self, context: "Context") -> dict[str, Any]:
        inputs = self.pull(context)
        look = self._look()
        self.config = requests.monitor(
            self.plan,
            inputs["code"],
            look["model_data"],
            look["snapshot"],
            f"{self.uri}/capture.manifest",
            self.uri,
        )
        return self.run_job(context)

    def pull(self, context: "Context") -> dict[str, Any]:
        inputs = super().pull(context)
        self.uri = self.plan.uri("monitor", self.plan.run_folder)
        self.latest = self.plan.uri("monitor", "latest.json")
        return inputs

    def _look(self) -> dict[str, Any]:
        """What is compared with what, decided once: another try of the task adopts the job that the first has started.

        :raises AirflowSkipException: when there is nothing to compare.
        """
        kept = f"{self.uri}/look.json"
        if self.s3.check_for_key(kept):
            decided: dict[str, Any] = json.loads(self.s3.read_key(kept))
            return decided
        plan = self.plan
        champion = endpoints.champion(self.hook, plan.endpoint_name)
        if champion is None:
            raise AirflowSkipException(f"not evaluated: nothing serves at {plan.endpoint_name}")
        folder = lineage.run_folder(plan, champion)
        snapshot = plan.uri("runs", str(folder), "assess/snapshot.json")
        if folder is None or not self.s3.check_for_key(snapshot):
            raise AirflowSkipException(
                f"not evaluated: the model that serves has no snapshot of its training images at {snapshot}"
            )
        since = self._since(champion["endpoint_config"])
        files = list(self._captured(since))
        if not files:
            raise AirflowSkipException(
                f"not evaluated: nothing was captured at {plan.endpoint_name} since {since:%Y-%m-%d %H:%M:%S} UTC"
            )
        looked = chosen(files)
        self.log.info("%d of %d files captured since %s are looked at", len(looked), len(files), since)
        manifest = [{"prefix": f"s3://{plan.bucket}/{self._prefix}"}]
        names = [file["Key"].removeprefix(self._prefix) for file in looked]
        self.s3.load_string(json.dumps([*manifest, *names]), f"{self.uri}/capture.manifest", replace=True)
        look = {
            "model_data": champion["model_data"],
            "snapshot": snapshot,
            "since": since.isoformat(),
            "until": max(file["LastModified"] for file in files).isoformat(),
        }
        self.s3.load_string(json.dumps(look, indent=1), kept, replace=True)
        return look

    def _since(self, endpoint_config: str) -> datetime:
        """The last look that was evaluated, or when the configuration that serves was made: what came before it drove
        the model before.
        """
        made: datetime = self.hook.describe_endpoint_config(endpoint_config)["CreationTime"]
        if not self.s3.check_for_key(self.latest):
            return made
        return max(made, datetime.fromisoformat(json.loads(self.s3.read_key(self.latest))["until"]))

    @property
    def _prefix(self) -> str:
        """Where SageMaker puts what it captures."""
        return f"{self.plan.root}/data-capture/{self.plan.endpoint_name}/{VARIANT}/"

    def _captured(self, since: datetime) -> Iterator[dict[str, Any]]:
        """Files that were uploaded after `since`; their folders are hours, so older ones are not even listed."""
        pages = (
            self.s3.get_conn()
            .get_paginator("list_objects_v2")
            .paginate(
                Bucket=self.plan.bucket,
                Prefix=self._prefix,
                StartAfter=f"{self._prefix}{since.astimezone(UTC) - LATE:%Y/%m/%d/%H}",
            )
        )
        for page in pages:
            yield from (item for item in page.get("Contents", []) if item["LastModified"] > since)

    def _result(self, description: dict[str, Any]) -> dict[str, Any]:
        look = json.loads(self.s3.read_key(f"{self.uri}/look.json"))
        found = json.loads(self.s3.read_key(f"{self.uri}/drift.json"))
        for line in table(found):
            self.log.info("%s", line)
        self.log.info("%s; %s/drift.html", found["sentence"], self.uri)
        metrics.of_drift(self.plan.pipeline_name, found)
        result = {
            **{key: found[key] for key in ("evaluated", "drifted", "sentence")},
            **{key: look[key] for key in ("since", "until")},
            "uri": self.uri,
            "measures": {row["name"]: row["psi"] for row in found["measures"]},
        }
        # Where too few were captured, they count again at the next look.
        if found["evaluated"]:
            self.s3.load_string(json.dumps(result, indent=1), self.latest, replace=True)
        return result


def chosen(files: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most 200 of the files and about 512 MiB, evenly; at least one.

    :param files: as S3 lists them, with `Size` in bytes.
    """
    size = sum(file["Size"] for file in files)
    fits = len(files) * MOST_BYTES // max(size, 1)
    count = max(1, min(len(files), MOST_FILES, fits))
    return [files[index * len(files) // count] for index in range(count)]


def table(found: dict[str, Any]) -> list[str]:
    """drift.json's measures, a line each, for a log."""
    if not found["measures"]:
        return []
    return [
        f"{'measure':<14} {'PSI':>8} {'by chance':>10}",
        *(
            f"{row['name']:<14} {row['psi']:>8.3f} {row['chance']:>10.3f}{'  drifted' if row['drifted'] else ''}"
            for row in found["measures"]
        ),
    ]
