"""What an assessment leaves besides the predictions, which are written as they come."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from report.document import SCHEMA, validate, write_json
from report.illustrate import illustrate
from report.model_card import model_card
from report.page import render
from report.pictures import Picture, smoke_sample
from report.predictions import Predictions
from report.training_output import TrainingOutput


def write(
    output: Path,
    report: dict[str, Any],
    predictions: Predictions,
    training: TrainingOutput,
    explained: Sequence[Picture],
    test: Path,
    train: Path | None,
) -> None:
    """Write the page, report.json, the model card and the smoke test's images below `output`.

    :raises report.document.InvalidReportError: before anything is written, when the report does not fit its schema.
    """
    validate(report)
    page = render(report, illustrate(report, predictions, training, explained, test, train))
    (output / "report.html").write_text(page, encoding="utf-8")
    (output / "model_card.md").write_text(model_card(report), encoding="utf-8")
    write_json(output / "report.json", report)
    shutil.copyfile(SCHEMA, output / SCHEMA.name)
    write_json(output / "rules.json", report["rules"])
    _write_smoke(output / "smoke", predictions, test)


def _write_smoke(folder: Path, predictions: Predictions, test: Path) -> None:
    """Copy the images to ask a new endpoint about, under names without folders, and what it must answer."""
    folder.mkdir(exist_ok=True)
    rows = []
    for number, i in enumerate(smoke_sample(predictions)):
        source = test / predictions.file(i)
        file = f"{number}{source.suffix.lower()}"
        shutil.copyfile(source, folder / file)
        rows.append({**predictions.row(i), "file": file})
    write_json(folder / "smoke.json", rows)
