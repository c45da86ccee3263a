"""Faults planted in real trainings, watched by the real profiler: each is found by its rule, and by ProfilerReport."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rules import Outputs, evaluate

FOUND = {
    "starved loader": ("Dataloader", "went to waiting for data"),
    "step outliers": ("StepOutlier", "TRAIN steps on algo-1 took longer than"),
    "memory leak": ("MemoryLeak", "ProcessMemoryInBytes grew by"),
}
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A process of their own: this one's memory would hide a leak."""
    folder = tmp_path_factory.mktemp("planted")
    environment = os.environ | {"PYTHONPATH": str(ROOT / "ml_code")}
    command = [sys.executable, "-m", "benchmarks.ml.profiler_runs", str(folder)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return folder


@pytest.mark.parametrize("fault", FOUND)
def test_a_planted_fault_is_found(planted: Path, fault: str) -> None:
    rule, words = FOUND[fault]
    (verdict,) = evaluate(Outputs(profiler=planted / fault), {rule: {}})
    assert verdict.status == "IssuesFound", verdict.detail
    assert words in verdict.detail
    assert verdict.recommendation
    (report,) = evaluate(Outputs(profiler=planted / fault), {"ProfilerReport": {}})
    assert rule in report.detail.partition(";")[0]
