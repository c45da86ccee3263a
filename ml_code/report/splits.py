"""The test split beside a sample of the training split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data.images import list_images
from model.artifact import LoadedModel
from report.document import write_json
from report.drift import Snapshot, drift
from report.near_duplicates import near_duplicates
from report.predictions import Predictions
from report.sample import look, spread

# With fewer there is nothing to tell a distribution from.
FEWEST = 20
SNAPSHOT = "snapshot.json"


def compare_splits(
    model: LoadedModel, train: Path | None, predictions: Predictions, test: Path, output: Path
) -> dict[str, Any]:
    """report.json's `splits`: drift and near-duplicates, or the reason why there are none.

    Looks at no more than 500 images of each. Writes snapshot.json below `output`: the training split's distributions,
    which a monitor of the endpoint compares with what customers send.
    """
    if train is None:
        return _nothing("no sample of the training images was given to the assessment (--train-sample)")
    listed = list_images(train, predictions.classes, may_be_empty=True).samples
    known = look(model, train, [listed[int(i)][0] for i in spread(len(listed))] if listed else [])
    sample = look(model, test, [predictions.file(int(i)) for i in spread(len(predictions.answers))])
    if len(known.files) < FEWEST:
        return _nothing(f"{len(known.files)} readable training images are too few to compare with")
    snapshot = Snapshot.of(known, predictions.classes)
    write_json(output / SNAPSHOT, snapshot.as_json())
    return {
        "reason": None,
        "drift": drift(snapshot, sample),
        "near_duplicates": near_duplicates(known, sample),
    }


def _nothing(reason: str) -> dict[str, Any]:
    return {"reason": reason, "drift": None, "near_duplicates": None}
