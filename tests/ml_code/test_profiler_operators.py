"""torch.profiler in real trainings, also in a process forked from one that has imported torch."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.ml_code.conftest import Job

IMAGES = ("--epochs", "2", "--lr", "0.01", "--tail", "layer4", "--arch", "resnet18", "--weights", "none")


def read(output: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """operators.json and the trace's events."""
    folder = output / "profiler-output" / "framework" / "torch"
    with gzip.open(folder / "trace.json.gz") as trace:
        return json.loads((folder / "operators.json").read_text()), json.load(trace)["traceEvents"]


def test_the_first_steps_operators(run_job: Job, digits: Path) -> None:
    arguments = (*IMAGES, "--image-size", "32", "--batch-size", "53")
    _, plain = run_job(*arguments, data=digits, name="plain")
    status, result = run_job(*arguments, "--profiler-num-steps", "2", data=digits, name="profiled")
    assert status == 0
    table, trace = read(result.output)
    assert (table["steps"], table["device"]) == (2, "cpu")
    rows = {row["name"]: row for row in table["operators"]}
    assert len(rows) == len(table["operators"]) <= 50
    convolution = rows["aten::convolution_backward"]
    assert convolution["calls"] == 2 * 5  # layer4 has five
    assert convolution["self_cuda_ms"] is None
    assert convolution["cpu_total_ms"] >= convolution["self_cpu_ms"] > 0
    own = [row["self_cpu_ms"] for row in table["operators"]]
    assert own == sorted(own, reverse=True)
    assert 0.5 < sum(row["share"] for row in table["operators"]) <= 1 + 1e-9
    assert {"ProfilerStep#0", "ProfilerStep#1"} <= {event["name"] for event in trace}
    weights = [(one.model / "model.safetensors").read_bytes() for one in (plain, result)]
    assert weights[0] == weights[1]


def test_an_epoch_with_fewer_steps_ends_it(run_job: Job) -> None:
    _, result = run_job("--epochs", "2", "--batch-size", "80", "--profiler-num-steps", "10")
    table, trace = read(result.output)
    assert table["steps"] == 2
    assert table["operators"]
    assert {"ProfilerStep#0", "ProfilerStep#1"} <= {event["name"] for event in trace}


def test_a_profile_that_cannot_be_written_is_reported(
    run_job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "job/output/profiler-output").mkdir(parents=True)
    (tmp_path / "job/output/profiler-output/framework").write_text("a file where the folder belongs")
    status, result = run_job("--epochs", "2", "--profiler-num-steps", "2")
    assert status == 0
    errors = json.loads((result.output / "history.json").read_text())["hook_errors"]
    assert [error.split(" ended: ")[0] for error in errors] == [
        "profiler: the timeline of steps",
        "profiler: torch.profiler",
    ]
    said = capsys.readouterr().out
    assert all(error.removeprefix("profiler: ") in said for error in errors)


FORKED = """
import json, os, sys
import torch, train
torch.nn.Linear(4, 4)(torch.randn(2, 4)).sum().backward()  # autograd's threads do not survive a fork
pid = os.fork()
if not pid:
    os._exit(train.main(sys.argv[1:]))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_it_works_in_a_forked_process(extracted: Path, tmp_path: Path) -> None:
    """As in a warm process of the local cloud."""
    environment = {
        **os.environ,
        "PYTHONPATH": "ml_code",
        "SM_MODEL_DIR": str(tmp_path / "model"),
        "SM_OUTPUT_DATA_DIR": str(tmp_path / "output"),
        **{f"SM_CHANNEL_{name.upper()}": str(extracted / name) for name in ("train", "validation", "trunk")},
    }
    arguments = ["--epochs", "2", "--profiler-num-steps", "2"]
    subprocess.run([sys.executable, "-c", FORKED, *arguments], env=environment, check=True, timeout=120)
    table, _ = read(tmp_path / "output")
    assert table["steps"] == 2
    assert "aten::addmm" in {row["name"] for row in table["operators"]}
    assert json.loads((tmp_path / "output/history.json").read_text())["hook_errors"] == []
