"""The report's parts on input that a run rarely gives: many classes, no data, numbers that JSON lacks."""

import numpy as np
import pytest

from report import charts, quality_charts, tuning_charts
from report.document import InvalidReportError, finite, validate
from report.formats import moment, number, percent, points, seconds, size
from report.svg import Chart
from report.system_metrics import SystemMetric


def test_a_large_confusion_matrix_is_a_small_picture() -> None:
    counts = np.full((133, 133), 0) + np.diag(np.arange(133))  # the first class has no image
    chart = quality_charts.confusion_picture(counts.tolist())
    assert chart.svg is not None
    assert len(chart.svg) < 100_000
    assert "100.0% in the worst class" in chart.sentence


@pytest.mark.parametrize(
    "chart",
    [
        charts.step_losses({}, "the hook was off."),
        charts.epoch_losses([]),
        charts.epoch_accuracy([]),
        tuning_charts.best_so_far([{"objective": None}], {}),
        tuning_charts.learning_rates([{"objective": 0.1, "hyperparameters": {}}], {}),
        charts.step_clock({}),
        charts.system_timeline([], "%", "Use over time"),
    ],
    ids=lambda chart: chart.title,
)
def test_a_chart_without_data_says_why(chart: Chart) -> None:
    assert chart.svg is None
    assert chart.sentence.startswith("Not drawn: ")


def test_a_chart_takes_its_colours_from_the_page() -> None:
    metric = SystemMetric("CPU", "algo-1", "%", np.arange(3.0), np.array([1.0, 2.0, 3.0]))
    svg = charts.system_timeline([metric], "%", "Use over time").svg
    assert svg is not None
    assert "var(--series-1)" in svg
    assert "#0a0a0" not in svg
    assert "<style" not in svg


def test_maximised_objectives_take_the_largest() -> None:
    jobs = [{"objective": value, "hyperparameters": {"learning_rate": '"0.1"'}} for value in (0.5, 0.9, 0.7)]
    objective = {"MetricName": "validation_accuracy", "Type": "Maximize"}
    assert (
        "Job 2 of 3 is the best with 0.9; the worst ended at 0.5"
        in tuning_charts.best_so_far(jobs, objective).sentence
    )
    assert "objective 0.9" in tuning_charts.learning_rates(jobs, objective).sentence


def test_numbers_that_json_lacks_become_null_and_are_named() -> None:
    document, paths = finite({"a": [1.0, float("nan")], "b": {"c": float("-inf")}, "d": "nan"})
    assert document == {"a": [1.0, None], "b": {"c": None}, "d": "nan"}
    assert paths == ["a[1]", "b.c"]


def test_an_invalid_report_is_refused() -> None:
    with pytest.raises(InvalidReportError, match="required"):
        validate({"schema_version": 1})


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (percent(0.9512), "95.1%"),
        (percent(None), "\u2013"),
        (points(-0.0123), "\u22121.2"),
        (number(1257), "1,257"),
        (number(1e-7), "1e\u221207"),
        (number("0.01"), "0.01"),
        (seconds(7.25), "7.2\u00a0s"),
        (seconds(3725), "1\u00a0h\u00a02\u00a0min"),
        (size(41_400_000), "41.4\u00a0MB"),
        (moment("2026-11-21T10:00:00+01:00"), "21 November 2026, 09:00 UTC"),
        (moment("yesterday"), "yesterday"),
        (moment(None), "at an unknown time"),
    ],
)
def test_formats(shown: str, expected: str) -> None:
    assert shown == expected
