"""The smoke test: an endpoint answers the report's test images as the model did offline.

`assess` writes the images and the answers, `smoke/smoke.json` of docs/contracts.md: some that the model is sure of, and
some borderline ones, which show another preprocessing first.
"""

import json
import math
from dataclasses import dataclass
from typing import Any

from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

# Largest difference between the endpoint's probability and the offline one: other library versions in the
# serving image move it by rounding, another model or preprocessing by much more.
TOLERANCE = 0.01
# SageMaker's own limit for an answer is 60 s.
READ_TIMEOUT_S = 70


class AnswerError(ValueError):
    """What the endpoint answered is no answer of docs/contracts.md; the sentence says what is wrong with it."""


@dataclass(frozen=True)
class Question:
    file: str
    image: bytes
    truth: str
    label: str
    """What the model answered offline, with `probability`."""
    probability: float


@dataclass(frozen=True)
class Answer:
    label: str
    probability: float
    version: str | None
    """`model_version`; None where the model's own program does not say it."""


def questions(s3: S3Hook, assess_uri: str) -> list[Question]:
    """:param assess_uri: the folder that the assess job wrote to."""
    folder = f"{assess_uri}/smoke"
    return [
        Question(
            file=row["file"],
            image=s3.get_key(f"{folder}/{row['file']}").get()["Body"].read(),
            truth=row["label"],
            label=row["prediction"],
            probability=row["probability"],
        )
        for row in json.loads(s3.read_key(f"{folder}/smoke.json"))
    ]


def runtime(aws_conn_id: str | None, tries: int) -> Any:
    """SageMaker's runtime, which the provider has no hook for."""
    config = Config(read_timeout=READ_TIMEOUT_S, retries={"total_max_attempts": tries})
    return AwsBaseHook(aws_conn_id, client_type="sagemaker-runtime", config=config).conn


def ask(client: Any, endpoint_name: str, image: bytes) -> Answer:
    """InvokeEndpoint with the bytes of an image.

    :raises AnswerError: when the answer says no label with its probability.
    :raises botocore.exceptions.ClientError: when the endpoint answers an error.
    """
    response = client.invoke_endpoint(
        EndpointName=endpoint_name, Body=image, ContentType="application/x-image", Accept="application/json"
    )
    return parse(response["Body"].read())


def parse(body: bytes) -> Answer:
    """:raises AnswerError: when the answer says no label with its probability."""
    try:
        document = json.loads(body)
        answer = Answer(document["label"], float(document["probability"]), document.get("model_version"))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise AnswerError(
            f"{body[:200]!r} has no label and probability ({type(error).__name__}: {error})"
        ) from error
    if not math.isfinite(answer.probability):
        raise AnswerError(f"its probability is {answer.probability}")
    return answer


def doubt(question: Question, answer: Answer) -> str | None:
    """One sentence when the answer is not the offline one."""
    if answer.label == question.label and abs(answer.probability - question.probability) <= TOLERANCE:
        return None
    return (
        f"the endpoint answers {answer.label} ({answer.probability:.4f}) to {question.file}, "
        f"the model offline {question.label} ({question.probability:.4f})"
    )


def test(
    client: Any, endpoint_name: str, asked: list[Question], version: str | None
) -> tuple[str | None, list[dict[str, Any]]]:
    """Ask everything once: the first doubt, or every answer with its truth.

    :param version: the model's that must answer; None when that is not known.
    """
    predictions = []
    for question in asked:
        try:
            answer = ask(client, endpoint_name, question.image)
        except AnswerError as error:
            return f"the endpoint answers {question.file} with something else: {error}", []
        except (BotoCoreError, ClientError) as error:
            return f"the endpoint did not answer {question.file}: {error}", []
        if sentence := doubt(question, answer):
            return sentence, []
        if version and answer.version not in (version, None):
            return f"the endpoint answers with the model {answer.version}, not {version}", []
        predictions.append(
            {
                "file": question.file,
                "label": answer.label,
                "probability": answer.probability,
                "truth": question.truth,
            }
        )
    return None, predictions


class Watch:
    """Looks at the answers of an endpoint that is being updated: which of them come from the new fleet and are wrong.

    An answer does not name its fleet, so the old one is known by the versions that it says, and by what it could answer
    before the update. A server error is not counted here: SageMaker does, in Invocation5XXErrors.
    """

    def __init__(self, client: Any, endpoint_name: str, asked: list[Question], version: str) -> None:
        """:param version: the new model's."""
        self._client = client
        self._endpoint_name = endpoint_name
        self._asked = asked
        self._version = version
        self.old_versions: list[str | None] = []
        self.answerable: list[str] = []
        """Files; none where nobody could be asked before, as by a second try of the task."""

    def before(self) -> None:
        """Ask the old fleet, while nothing else can answer."""
        for question in self._asked:
            try:
                answer = ask(self._client, self._endpoint_name, question.image)
            except (AnswerError, BotoCoreError, ClientError):
                continue
            self.answerable.append(question.file)
            if answer.version not in (*self.old_versions, self._version):
                self.old_versions.append(answer.version)

    def look(self) -> list[str]:
        """Ask everything once; a sentence for each answer that is the new fleet's and not what it must be."""
        return [sentence for question in self._asked if (sentence := self._wrong(question))]

    def _wrong(self, question: Question) -> str | None:
        answered_before = question.file in self.answerable
        try:
            answer = ask(self._client, self._endpoint_name, question.image)
        except AnswerError as error:
            return (
                f"the endpoint answers {question.file} with something else: {error}"
                if answered_before
                else None
            )
        except ClientError as error:
            refused = 400 <= error.response.get("OriginalStatusCode", 500) < 500
            return f"the endpoint refuses {question.file}: {error}" if refused and answered_before else None
        except BotoCoreError:
            return None
        if answer.version != self._version and (not answered_before or answer.version in self.old_versions):
            return None
        return doubt(question, answer)
