"""The report's parts on input that a run rarely gives: many classes, no data, numbers that JSON lacks."""

import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

from report import charts, quality_charts, tuning_charts
from report.document import InvalidReportError, finite, validate
from report.formats import hyperparameter, moment, money, number, percent, points, seconds, setting, size
from report.svg import Chart
from report.system_metrics import SystemMetric


def test_hyperparameters_are_written_as_numbers_where_they_are() -> None:
    values = ("0.02499591786658491", "64", "sgd", None, 0.5)
    assert [hyperparameter(value) for value in values] == ["0.025", "64", "sgd", "\u2013", "0.5"]


def test_two_squares_of_the_map_have_one_number_between_them() -> None:
    jobs = [
        {"objective": value, "hyperparameters": {"lr": str(rate), "batch-size": "64"}}
        for value, rate in ((0.1612, 0.025), (0.1693, 0.0256), (0.9472, 0.0015))
    ]
    svg = tuning_charts.rate_batch_map(jobs, {"MetricName": "loss", "Type": "Minimize"}).svg
    assert svg is not None
    assert "0.161" in svg
    assert "0.169" not in svg, "the better one's number is in its way"
    assert "0.947" in svg


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
        tuning_charts.rate_batch_map([{"objective": 0.1, "hyperparameters": {"lr": "0.1"}}], {}),
        tuning_charts.importance_bars({"reason": "3 finished jobs are too few: it takes 4."}),
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
        "Job 2 of 3 is the best with validation_accuracy 0.9; the worst ended at 0.5"
        in tuning_charts.best_so_far(jobs, objective).sentence
    )
    assert "objective 0.9" in tuning_charts.learning_rates(jobs, objective).sentence


def test_the_map_and_the_importance_say_what_they_show() -> None:
    jobs = [
        {"objective": value, "hyperparameters": {"lr": str(rate), "batch-size": size}}
        for value, rate, size in ((0.9, 0.001, 32), (0.4, 0.01, 64), (0.2, 0.1, 64))
    ]
    chart = tuning_charts.rate_batch_map(jobs, {"MetricName": "loss", "Type": "Minimize"})
    assert chart.svg is not None
    assert (
        "The best of the 3 lies at learning rate 0.1 and batch size 64; 2 batch sizes were tried."
        in chart.sentence
    )
    first = {"name": "lr", "importance": 0.7, "correlation": -0.5, "p": 0.3}
    found = {"reason": None, "method": "rank correlation", "jobs": 6, "parameters": [first]}
    assert "may well be chance (p = 0.3)" in tuning_charts.importance_bars(found).sentence
    many = {**found, "method": "random forest", "jobs": 30}
    assert (
        "lr has 70% of the importance (smaller values did better)"
        in tuning_charts.importance_bars(many).sentence
    )


def test_the_calibration_chart_says_which_way_the_model_errs() -> None:
    sure = {"low": 0.8, "high": 1.0, "count": 10, "confidence": 0.95, "accuracy": 0.7}
    empty = {"low": 0.0, "high": 0.8, "count": 0, "confidence": None, "accuracy": None}
    assert (
        "too sure of itself, by 25.0 points"
        in quality_charts.reliability_diagram([empty, sure], 0.25).sentence
    )
    timid = {**sure, "accuracy": 1.0}
    assert (
        "not sure enough, by 5.0 points" in quality_charts.reliability_diagram([empty, timid], 0.05).sentence
    )


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
        (points(0.05), "+5.0"),
        (points(-0.0001), "0.0"),
        (number(1257), "1,257"),
        (number(1312.6, 3), "1,313"),
        (number(-1312.6, 3), "\u22121,313"),
        (number(999.4, 3), "999"),
        (number(1e-7), "1e\u221207"),
        (number("0.01"), "0.01"),
        (seconds(7.25), "7.2\u00a0s"),
        (seconds(3725), "1\u00a0h\u00a02\u00a0min"),
        (size(41_400_000), "41.4\u00a0MB"),
        (money(1234.5), "1,234.50"),
        (money(0.0123), "0.012"),
        (money(0.00089), "0.00089"),
        (money(0), "0.00"),
        (setting(None), "not set"),
        (setting({"a": 1}), '{"a": 1}'),
        (moment("2026-11-21T10:00:00+01:00"), "21 November 2026, 09:00 UTC"),
        (moment("yesterday"), "yesterday"),
        (moment(None), "at an unknown time"),
    ],
)
def test_formats(shown: str, expected: str) -> None:
    assert shown == expected


STYLE = (Path(charts.__file__).parent / "style.css").read_text()
PALETTES = {
    "light": STYLE[: STYLE.index("@media")],
    "dark": STYLE[STYLE.index("@media (prefers-color-scheme") : STYLE.index("* {")],
    "print": STYLE[STYLE.index("@media print") :],
}


def luminance(color: Sequence[float]) -> float:
    """https://www.w3.org/TR/WCAG22/#dfn-relative-luminance"""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: Sequence[float], other: Sequence[float]) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("mode", PALETTES)
def test_text_can_be_read_in_every_mode(mode: str) -> None:
    """WCAG's level AA asks for 4.5 to 1."""
    named = dict(re.findall(r"--([\w-]+): (#\w+);", PALETTES[mode]))
    colors = {name: mpl.colors.to_rgb(value) for name, value in named.items()}
    mix = float(re.findall(r"--mix: (\d+)%", PALETTES[mode])[0]) / 100
    for state in ("good", "bad", "warn"):
        assert contrast(colors[state], colors[f"{state}-paper"]) >= 4.5
        assert contrast(colors["ink"], colors[f"{state}-paper"]) >= 4.5
    for text in ("ink", "muted", *(name for name in colors if name.startswith("series-"))):
        assert contrast(colors[text], colors["paper"]) >= 4.5
    for text in ("ink", "muted"):
        assert contrast(colors[text], colors["panel"]) >= 4.5
    for shade in ("series-1", "series-2"):
        cell = [mix * a + (1 - mix) * b for a, b in zip(colors[shade], colors["panel"], strict=True)]
        assert contrast(colors["ink"], cell) >= 4.5, "a full cell of the confusion matrix"
