"""Everything on the page that is drawn: charts and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from report import charts, quality_charts, tuning_charts
from report.pictures import Pair, Picture, confused_pairs, near_duplicate_pairs, worst_errors
from report.predictions import Predictions
from report.rule_plots import rule_plot
from report.svg import Chart
from report.training_output import TrainingOutput


@dataclass(frozen=True)
class Illustrations:
    """What the page shows beside report.json's numbers."""

    charts: Mapping[str, Chart]
    rules: Mapping[str, Chart]
    """Of the rules that found an issue, where they have something to draw."""
    worst: Sequence[Picture]
    pairs: Sequence[tuple[Mapping[str, Any], Sequence[Picture]]]
    near: Sequence[Pair]
    """The first near-duplicates, test beside training."""
    explained: Sequence[Picture]
    """One for each of report.json's `explanations.images`."""


def illustrate(
    report: Mapping[str, Any],
    predictions: Predictions,
    training: TrainingOutput,
    explained: Sequence[Picture],
    test: Path,
    train: Path | None,
) -> Illustrations:
    """Draw what the page needs; `test` is the folder that `predictions` names files of, `train` its sample's."""
    tuning = report["tuning"] or {}
    jobs, objective = tuning.get("jobs", []), tuning.get("objective", {})
    metrics = report["metrics"]
    drawn = {
        "best_so_far": tuning_charts.best_so_far(jobs, objective),
        "learning_rates": tuning_charts.learning_rates(jobs, objective),
        "rate_batch_map": tuning_charts.rate_batch_map(jobs, objective),
        "importance": tuning_charts.importance_bars(report["importance"]),
        "reliability": quality_charts.reliability_diagram(
            metrics["reliability"], metrics["expected_calibration_error"]
        ),
        "precision_recall": quality_charts.precision_recall(metrics["ranking"]),
        "step_losses": charts.step_losses(training.losses, training.losses_reason),
        "epoch_losses": charts.epoch_losses(report["training"]["history"]),
        "epoch_accuracy": charts.epoch_accuracy(report["training"]["history"]),
        "step_clock": charts.step_clock(training.steps or {}),
        "system_percent": charts.system_timeline(training.system, "%", "Use over time"),
        "system_rate": charts.system_timeline(training.system, "MB/s", "Disk and network over time"),
    }
    if len(metrics["per_class"]) > quality_charts.CONFUSION_TABLE_CLASSES:
        drawn["confusion"] = quality_charts.confusion_picture(metrics["confusion"])
    found = [rule for rule in report["rules"] if rule["status"] == "IssuesFound"]
    plots = {rule["name"]: rule_plot(rule) for rule in found}
    return Illustrations(
        charts=drawn,
        rules={name: plot for name, plot in plots.items() if plot},
        worst=worst_errors(predictions, test),
        pairs=confused_pairs(predictions, test, metrics["most_confused"]),
        near=near_duplicate_pairs(report["splits"]["near_duplicates"], test, train),
        explained=explained,
    )
