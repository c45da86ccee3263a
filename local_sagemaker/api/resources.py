"""What all SageMaker resources have in common: ARNs, Describe, List, Delete and tags.

A resource kind is the stem of AWS's member names: `TrainingJob` gives TrainingJobName, TrainingJobArn,
TrainingJobStatus and the operations DescribeTrainingJob and ListTrainingJobs.
"""

import base64
import binascii
import json
import re
import time
from collections.abc import Callable
from typing import Any

from local_sagemaker.api.protocol import ACCOUNT, ApiError, Document, in_use, invalid, not_found
from local_sagemaker.store import ExistsError, Store

# The sentence for a name that is not there; the Airflow provider needs ValidationException.
MISSING = {
    "TrainingJob": "Requested resource not found.",
    "ProcessingJob": "Could not find requested job with name: {name}",
    "TransformJob": "Could not find requested job with name: {name}",
    "HyperParameterTuningJob": "Amazon SageMaker can't find a tuning job with the name {name}.",
    "Model": 'Could not find model "{arn}".',
    "EndpointConfig": 'Could not find endpoint configuration "{arn}".',
    "Endpoint": 'Could not find endpoint "{arn}".',
    "ModelPackageGroup": "ModelPackageGroup {arn} does not exist.",
    "ModelPackage": "ModelPackage {arn} does not exist.",
}
_JOB = (
    "{label} job names must be unique within an AWS account and region, and a {label} job with this name already "
    "exists ({arn})"
)
TAKEN = {
    "TrainingJob": ("ResourceInUse", _JOB.replace("{label}", "Training", 1).replace("{label}", "training")),
    "ProcessingJob": (
        "ResourceInUse",
        _JOB.replace("{label}", "Processing", 1).replace("{label}", "processing"),
    ),
    "TransformJob": (
        "ResourceInUse",
        _JOB.replace("{label}", "Transform", 1).replace("{label}", "transform"),
    ),
    "HyperParameterTuningJob": (
        "ResourceInUse",
        _JOB.replace("{label}", "Tuning", 1).replace("{label}", "tuning"),
    ),
    "Model": ("ValidationException", 'Cannot create already existing model "{arn}".'),
    "EndpointConfig": (
        "ValidationException",
        'Cannot create already existing endpoint configuration "{arn}".',
    ),
    "Endpoint": ("ValidationException", 'Cannot create already existing endpoint "{arn}".'),
    "ModelPackageGroup": ("ValidationException", "Model Package Group already exists: {arn}"),
}
# As the API reference has them; where it says nothing, by creation time.
SORT_BY_NAME = {"HyperParameterTuningJob"}
NEWEST_FIRST = {"TransformJob", "Model", "EndpointConfig", "Endpoint"}
# Their lists begin with what was created at CreationTimeAfter, other lists after it.
FROM_THE_MOMENT = {"Model", "EndpointConfig", "Endpoint"}
PAGE = 10
"""What a list without MaxResults has, on AWS too."""
IN_PROGRESS = {"InProgress", "Stopping"}


def arn(kind: str, name: str, region: str) -> str:
    """The resource's ARN; SageMaker writes names in lower case there."""
    words = "-".join(re.findall(r"[A-Z][a-z]+", kind)).lower()
    return f"arn:aws:sagemaker:{region}:{ACCOUNT}:{words}/{name.lower()}"


def plain_name(name_or_arn: str) -> str:
    """The name out of an ARN, where the API takes either."""
    return name_or_arn.rpartition("/")[2] if name_or_arn.startswith("arn:") else name_or_arn


class Resources:
    """The documents of one kind."""

    def __init__(self, store: Store, kind: str) -> None:
        self.store = store
        self.kind = kind
        self.name_key = f"{kind}Name"
        self.arn_key = f"{kind}Arn"
        self.status_key = f"{kind}Status"

    def create(self, name: str, region: str, document: Document) -> str:
        """Store a new resource and return its ARN. Raises ApiError when the name is taken."""
        identifier = arn(self.kind, name, region)
        if self.store.find(identifier):
            raise self._taken(identifier)
        now = time.time()
        document = {**document, self.arn_key: identifier, "CreationTime": now, "LastModifiedTime": now}
        try:
            self.store.create(self.kind, name, identifier, document)
        except ExistsError as error:
            raise self._taken(identifier) from error
        return identifier

    def _taken(self, identifier: str) -> ApiError:
        code, message = TAKEN[self.kind]
        return ApiError(code, message.format(arn=identifier))

    def get(self, name: str, region: str = "us-east-1") -> Document:
        """The document. Raises ApiError with AWS's sentence when there is none."""
        document = self.store.get(self.kind, name)
        if document is None:
            raise invalid(MISSING[self.kind].format(name=name, arn=arn(self.kind, name, region)))
        return document

    def describe(self, request: Document, region: str) -> Document:
        return self.get(request[self.name_key], region)

    def delete(self, request: Document, region: str) -> Document:
        self.get(request[self.name_key], region)
        self.store.delete(self.kind, request[self.name_key])
        return {}

    def delete_ended(self, request: Document, region: str) -> Document:
        """DeleteXJob, of jobs that have ended. Raises ApiError, with a code that the operation declares."""
        name = request[self.name_key]
        # DeleteHyperParameterTuningJob declares none.
        declares = self.kind != "HyperParameterTuningJob"
        try:
            # In one transaction, so that none begins or ends in between.
            with self.store.change(self.kind, name) as job:
                if (status := job[self.status_key]) in IN_PROGRESS:
                    sentence = (
                        f"The {self.kind} {name} is in status {status}; it can be deleted when it has ended."
                    )
                    raise (in_use if declares else invalid)(sentence)
                self.store.delete(self.kind, name)
        except KeyError as error:
            sentence = MISSING[self.kind].format(name=name, arn=arn(self.kind, name, region))
            raise (not_found if declares else invalid)(sentence) from error
        return {}

    def set(self, name: str, **changes: Any) -> None:
        """Change members of a document in one transaction."""
        with self.store.change(self.kind, name) as document:
            document.update(changes)

    def lister(self, output: str) -> Callable[[Document, str], Document]:
        """The List operation that answers with the documents in its member `output`."""

        def answer(request: Document, region: str) -> Document:
            return self.page(request, output, self.store.all(self.kind))

        return answer

    def page(self, request: Document, output: str, documents: list[Document]) -> Document:
        """One page of documents after the filters and in the order that a List request asks for."""
        kept = [document for document in documents if self._matches(request, document)]
        sort_by = request.get("SortBy") or ("Name" if self.kind in SORT_BY_NAME else "CreationTime")
        keys = {"Name": self.name_key, "Status": self.status_key}
        order = request.get("SortOrder") or ("Descending" if self.kind in NEWEST_FIRST else "Ascending")
        if order == "Descending":
            kept.reverse()
        kept.sort(key=lambda document: document[keys.get(sort_by, sort_by)], reverse=order == "Descending")
        answer = paged(request, output, kept)
        if self.kind == "TrainingJob":
            answer[output] = [document for document in answer[output] if self._has_status(request, document)]
        return answer

    def _has_status(self, request: Document, document: Document) -> bool:
        status = request.get("StatusEquals")
        return status is None or document[self.status_key] == status

    def _matches(self, request: Document, document: Document) -> bool:
        def within(member: str) -> bool:
            moment = document.get(member, 0.0)
            after, before = request.get(f"{member}After"), request.get(f"{member}Before")
            if after is not None and moment <= after:
                return moment == after and self.kind in FROM_THE_MOMENT
            return before is None or moment < before

        def equal(member: str, value: Any) -> bool:
            return request.get(member) in {None, value}

        return (
            request.get("NameContains", "").lower() in document[self.name_key].lower()
            # ListTrainingJobs takes MaxResults jobs first, and then those of them that have the status.
            and (self.kind == "TrainingJob" or self._has_status(request, document))
            and within("CreationTime")
            and within("LastModifiedTime")
            and equal("WarmPoolStatusEquals", document.get("WarmPoolStatus", {}).get("Status"))
            and equal("TrainingPlanArnEquals", document.get("TrainingPlanArn"))
            and equal("CrossAccountFilterOption", "SameAccount")
        )


def paged(request: Document, output: str, documents: list[Document], page: int = PAGE) -> Document:
    """Cut a list by MaxResults and NextToken. Raises ApiError for a token that is not one of this list."""
    start = _start(request["NextToken"], output) if request.get("NextToken") else 0
    end = start + request.get("MaxResults", page)
    answer: Document = {output: documents[start:end]}
    if end < len(documents):
        answer["NextToken"] = base64.b64encode(json.dumps([output, end]).encode()).decode()
    return answer


def _start(token: str, output: str) -> int:
    try:
        match json.loads(base64.b64decode(token, validate=True)):
            case [str(of), int(start)] if of == output and start >= 0:
                return start
    except (binascii.Error, ValueError, RecursionError) as error:
        raise invalid("The token provided in NextToken is not valid") from error
    raise invalid("The token provided in NextToken is not of this list")


class Tags:
    """AddTags, ListTags and DeleteTags, on any resource."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, request: Document, region: str) -> Document:
        with self._store.change(*self._find(request)) as document:
            tags = {tag["Key"]: tag for tag in document.get("Tags", [])}
            tags |= {tag["Key"]: tag for tag in request["Tags"]}
            document["Tags"] = list(tags.values())
            return {"Tags": document["Tags"]}

    def list(self, request: Document, region: str) -> Document:
        document = self._store.get(*self._find(request)) or {}
        return paged(request, "Tags", document.get("Tags", []), page=50)

    def delete(self, request: Document, region: str) -> Document:
        with self._store.change(*self._find(request)) as document:
            document["Tags"] = [
                tag for tag in document.get("Tags", []) if tag["Key"] not in request["TagKeys"]
            ]
        return {}

    def _find(self, request: Document) -> tuple[str, str]:
        identifier = request["ResourceArn"]
        found = self._store.find(identifier.rpartition(":")[0] + ":" + identifier.rpartition(":")[2].lower())
        if not found:
            raise invalid(f"The resource {identifier} does not exist")
        return found
