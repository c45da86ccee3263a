"""Whether a run that nobody asked for would learn anything."""

import json

from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook

from evergreen import endpoints, lineage
from evergreen.plan import Plan


def nothing_new(
    s3: S3Hook, sagemaker: SageMakerHook, plan: Plan, dataset_version: str, code_hash: str
) -> str | None:
    """One sentence when the planned run's dataset version, code, settings and images are those of the model now
    serving, or of the run that was judged last; None when something differs.

    Both are looked at: a run with other parameters may have been judged since the model that serves.
    """
    planned = lineage.planned(plan, dataset_version, code_hash)
    champion = endpoints.champion(sagemaker, plan.endpoint_name)
    runs = []
    if champion and (folder := lineage.run_folder(plan, champion)):
        runs.append((folder, "which made the model now serving"))
    latest = plan.uri("reports", "latest.json")
    if s3.check_for_key(latest):
        judged = json.loads(s3.read_key(latest))
        runs.append((judged["run_folder"], f"which was judged last: {judged['verdict']['decision']}"))
    for folder, what in runs:
        uri = plan.uri("runs", folder, "context.json")
        if not s3.check_for_key(uri):
            continue
        context = json.loads(s3.read_key(uri))
        differing = {one["setting"] for one in lineage.differences(lineage.facts(context), planned)}
        # A commit may have changed anything; what runs in the jobs has a hash of its own.
        if not differing - {"git_revision"}:
            run_id = context["run"]["run_id"]
            return f"dataset {dataset_version}, code, settings and images are those of run {run_id}, {what}"
    return None
