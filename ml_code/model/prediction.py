"""What a model answers to an image, and the forms in which callers get it.

    application/json         {"label", "probability", "top_k", "model_version", "timings_ms"}; for many images
                             {"predictions": [such objects]}
    application/jsonlines    such an object a line, without timings
    text/csv                 label, probability, model version, then label and probability of each next best class;
                             a row an image, no header, as SageMaker's CSV has none

Timings are there where a server measured them; records of a batch are the same in every run, so they have none.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from data.bodies import JSON, LINES
from model.artifact import LoadedModel

TOP_K = 5
CSV = "text/csv"
_MEANT = {"*/*": JSON, "application/*": JSON, "text/*": CSV, "": JSON}


class NotAcceptableError(ValueError):
    """The caller takes none of the forms that there are."""

    status = 406


class AnswerError(RuntimeError):
    """The model's answer is none: not finite, or not one number a class. The model's fault, not the caller's."""


@dataclass
class Prediction:
    probabilities: Tensor
    """float32 [C]."""
    model: LoadedModel
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    """queue, decode and forward, where a server measured them."""


def checked(probabilities: Tensor, model: LoadedModel) -> list[Prediction]:
    """One prediction a row of float [N, C].

    :raises AnswerError: when C is not the number of classes, or a number is not finite.
    """
    if probabilities.shape[1] != len(model.classes):
        raise AnswerError(
            f"the model answers with {probabilities.shape[1]} numbers and has {len(model.classes)} classes"
        )
    if not torch.isfinite(probabilities).all():
        raise AnswerError("the model answers with probabilities that are not finite")
    return [Prediction(row, model) for row in probabilities]


def answer(prediction: Prediction) -> dict[str, Any]:
    """One image's JSON object."""
    model = prediction.model
    values, indices = torch.topk(prediction.probabilities, min(TOP_K, len(model.classes)))
    top = [
        {"label": model.classes[index], "probability": value}
        for value, index in zip(values.tolist(), indices.tolist(), strict=True)
    ]
    timings = {"timings_ms": prediction.timings_ms} if prediction.timings_ms else {}
    return {**top[0], "top_k": top, "model_version": model.manifest["version"], **timings}


def written(prediction: Prediction | Sequence[Prediction], accept: str) -> tuple[str, str]:
    """The answer's text and its media type, by what an Accept header prefers.

    :raises NotAcceptableError: when it names none of the three.
    """
    kind = preferred(accept)
    single = isinstance(prediction, Prediction)
    answers = (
        [answer(prediction)] if isinstance(prediction, Prediction) else [answer(one) for one in prediction]
    )
    if kind == JSON:
        return json.dumps(answers[0] if single else {"predictions": answers}), kind
    if kind == LINES:
        lines = ({key: value for key, value in one.items() if key != "timings_ms"} for one in answers)
        return "".join(json.dumps(line) + "\n" for line in lines), kind
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(_row(one) for one in answers)
    return text.getvalue(), kind


def preferred(accept: str) -> str:
    """The media type of the three that an Accept header gives the greatest weight, the first of equals.

    :raises NotAcceptableError: when there is none.
    """
    best, weight = None, 0.0
    for item in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in item.split(";"))
        kind = _MEANT.get(kind, kind)
        if kind in {JSON, LINES, CSV} and (wanted := _weight(parameters)) > weight:
            best, weight = kind, wanted
    if best is None:
        raise NotAcceptableError(f"accept {accept} is not supported: answers are {JSON}, {LINES} or {CSV}")
    return best


def _weight(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0


def _row(one: Mapping[str, Any]) -> list[Any]:
    rest = [value for next_best in one["top_k"][1:] for value in next_best.values()]
    return [one["label"], one["probability"], one["model_version"], *rest]
