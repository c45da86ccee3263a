"""ProfilerReport: AWS's layout, and a page that says what to change first."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.ml.profiler_files import START, healthy_gpu, processors, steps, write_samples, write_timeline
from report.profiler_report import write_report
from rules import Outputs, evaluate
from rules.profiler.profile import Profile
from rules.profiler.report import RULES
from rules.profiler.savings import changes

SAMPLES = 600


@pytest.fixture(scope="module")
def starved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 s on two GPUs, of which the first 20 are before the training; steps of 0.2 s wait for data for 0.16 s."""
    folder, random = tmp_path_factory.mktemp("starved"), np.random.default_rng(1)
    times = START + 0.1 * np.arange(SAMPLES)
    write_samples(folder, times, processors(random, SAMPLES) | healthy_gpu(random, SAMPLES))
    taken = steps(np.full(200, 0.2), START + 20)
    events = [("Initialization", START, 20.0, 0, "TRAIN"), *taken]
    for _, start, _, step, mode in taken:
        events += [("data_wait", start, 0.16, step, mode), ("forward", start + 0.16, 0.04, step, mode)]
    write_timeline(folder, events)
    operators = {
        "name": "aten::<mm>",
        "calls": 3,
        "self_cpu_ms": 2.0,
        "cpu_total_ms": 4.0,
        "self_cuda_ms": None,
    }
    (folder / "framework" / "torch").mkdir()
    document = {
        "steps": 10,
        "device": "cpu",
        "operators": [operators | {"cpu_memory_bytes": 5, "share": 0.4}],
    }
    (folder / "framework" / "torch" / "operators.json").write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="module")
def written(starved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("report")
    finding = write_report(Profile(starved), output, {"Dataloader_data_wait_threshold": "60"})
    assert finding.issue
    return output / "profiler-output"


def test_the_layout_is_awss(written: Path) -> None:
    assert (written / "profiler-report.html").is_file()
    reports = {file.stem: json.loads(file.read_text()) for file in (written / "profiler-reports").iterdir()}
    assert set(reports) == {rule.__name__ for rule in RULES}
    for report in reports.values():
        assert list(report) == ["RuleTriggered", "Violations", "Details", "Datapoints", "RuleParameters"]
    assert reports["Dataloader"]["RuleTriggered"] == 1
    assert "data_wait_threshold:60.0" in reports["Dataloader"]["RuleParameters"]
    assert reports["LowGPUUtilization"]["Details"]["algo-1"]["gpu0"]["gpu_95"] > 90


def test_the_page_answers_first(written: Path) -> None:
    page = (written / "profiler-report.html").read_text()
    text = " ".join(re.sub(r"<[^>]+>", " ", page[page.index("<body>") :]).split())
    assert text.startswith("Profiler report algo-1")
    assert text.index("Change first: let training wait less for data") < 150
    # 32 s of waiting less 5 % of 8 s of computing
    assert "It saves about 32 s of 1 min 0 s" in text
    assert "aten::&lt;mm&gt;" in page


def test_the_page_needs_nothing_else(written: Path) -> None:
    page = (written / "profiler-report.html").read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)|<script|url\((?!#)|@import|https?://""", page)
    assert "prefers-color-scheme: dark" in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_changes_are_ranked_by_seconds_saved(starved: Path) -> None:
    profile = Profile(starved)
    ranked = changes(profile, {})
    assert [change.rule for change in ranked] == ["Dataloader", "MaxInitializationTime"]
    waiting, computing = 200 * 0.16, 200 * 0.04
    assert ranked[0].seconds == pytest.approx(waiting - 0.05 * computing, rel=1e-3)
    assert (ranked[1].seconds, ranked[1].bound) == (pytest.approx(20, rel=1e-3), True)


def test_late_steps_count_what_they_took_more_than_the_median(tmp_path: Path) -> None:
    seconds = np.full(300, 0.1)
    seconds[100:120] = 1.1
    write_timeline(tmp_path, steps(seconds))
    (change,) = changes(Profile(tmp_path), {})
    assert (change.rule, change.seconds) == ("StepOutlier", pytest.approx(20, rel=1e-3))


def test_idle_gpus_are_a_bound(tmp_path: Path) -> None:
    use = np.full(101, 25.0)
    write_samples(tmp_path, START + np.arange(101), {("gpu", "gpu0", "GPUUtilization"): use})
    (change,) = changes(Profile(tmp_path), {})
    assert (change.rule, change.seconds, change.bound) == ("LowGPUUtilization", pytest.approx(75), True)


def test_an_issue_without_an_estimate_says_so(tmp_path: Path) -> None:
    used = 30 + 20 * np.arange(200) / 200
    write_samples(tmp_path, START + 0.5 * np.arange(200), {("gpu", "gpu0", "GPUMemoryUtilization"): used})
    write_report(Profile(tmp_path), tmp_path)
    page = (tmp_path / "profiler-output" / "profiler-report.html").read_text()
    assert "Not estimated: it costs nothing until memory is full, and then the job." in page
    assert page.count("No step timeline was recorded") == 1
    report = json.loads(
        (tmp_path / "profiler-output" / "profiler-reports" / "LowGPUUtilization.json").read_text()
    )
    assert report["Details"]["NotEvaluated"].startswith("no GPU metrics")
    assert report["RuleTriggered"] == 0


def test_a_profile_of_steps_alone_has_a_page(tmp_path: Path) -> None:
    write_timeline(tmp_path, [*steps(np.full(200, 0.1)), *steps(np.full(20, 0.5), START + 20, "EVAL")])
    assert not write_report(Profile(tmp_path), tmp_path).issue
    page = (tmp_path / "profiler-output" / "profiler-report.html").read_text()
    assert "No system metrics were recorded" in page
    assert "yellow is evaluation" in page


def test_as_a_rule_it_takes_the_others_parameters(starved: Path) -> None:
    def check(**parameters: str) -> tuple[str, str]:
        (found,) = evaluate(Outputs(profiler=starved), {"ProfilerReport": {"parameters": parameters}})
        return found.status, found.detail

    status, detail = check()
    assert status == "IssuesFound"
    assert "Dataloader" in detail.partition(";")[0]
    assert check(Dataloader_data_wait_threshold="80")[0] == "NoIssuesFound"
    status, detail = check(Dataloader_nonsense="1")
    assert (status, "no parameter 'Dataloader_nonsense'" in detail) == ("NotEvaluated", True)
