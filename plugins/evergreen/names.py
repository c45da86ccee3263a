"""Names and places that derive from what they name, so that a retry finds what an earlier try made."""

import hashlib
import re

JOB_NAME_LENGTH = 63
# SageMaker's limit for tuning jobs, whose children's names add a suffix; botocore does not check it.
TUNING_JOB_NAME_LENGTH = 32
# Of what `resource` puts behind a name: a digest, and at most two digits of an attempt.
SUFFIX_LENGTH = 1 + 10 + 3


def digest(*parts: object) -> str:
    """10 hex digits of SHA-256 over the parts."""
    return hashlib.sha256("\n".join(str(part) for part in parts).encode()).hexdigest()[:10]


def slug(text: str) -> str:
    """`text` in SageMaker's alphabet for names: letters, digits, single hyphens."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")


def resource(base: str, *parts: object, length: int = JOB_NAME_LENGTH, attempt: int = 0) -> str:
    """`<base>-<10 hex>`, cut to `length`; from the second attempt on, `-<attempt>` behind it."""
    tail = f"-{digest(*parts)}" + (f"-{attempt}" if attempt else "")
    return slug(base)[: length - len(tail)].rstrip("-") + tail


def job(pipeline_name: str, task_id: str, length: int = JOB_NAME_LENGTH) -> str:
    """The readable part of a job's name, of which `resource` will cut nothing.

    A long pipeline's name is cut here, so that the task stays: IAM's policies allow jobs by it (aws/policies/).
    """
    task = slug(task_id.rpartition(".")[2])
    return f"{slug(pipeline_name)[: length - SUFFIX_LENGTH - len(task) - 1].rstrip('-')}-{task}"


def base(pipeline_name: str) -> str:
    """Of what a pipeline deploys."""
    return f"evergreen-{slug(pipeline_name)}"


def endpoint(pipeline_name: str) -> str:
    return base(pipeline_name)[:JOB_NAME_LENGTH].rstrip("-")


def run_folder(dag_id: str, run_id: str) -> str:
    """A run's folder below a pipeline's `reports/`: readable, and free of the `:` and `+` in run ids."""
    return f"{slug(run_id)[:40]}-{digest(dag_id, run_id)}"
