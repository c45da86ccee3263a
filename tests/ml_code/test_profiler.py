"""System metrics in SageMaker's format."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import ModuleType, SimpleNamespace

import psutil
import pytest
from smdebug.profiler.system_metrics_reader import LocalSystemMetricsReader

from profiler.gpu import gpu_sampler
from profiler.system import ProcessMemory, SystemSampler
from tests.ml_code.conftest import Job


def rows(root: Path) -> list[dict[str, object]]:
    files = sorted((root / "system" / "incremental").glob("[0-9]" * 10 + "/" + "[0-9]" * 10 + ".algo-1.json"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_smdebug_reads_what_the_sampler_writes(tmp_path: Path) -> None:
    start = time.time()
    with SystemSampler(tmp_path, 0.05):
        time.sleep(0.4)
    reader = LocalSystemMetricsReader(str(tmp_path))
    reader.refresh_event_file_list()
    events = reader.get_events(int((start - 60) * 1e6), int((time.time() + 60) * 1e6))
    seen = {(event.type, event.dimension) for event in events}
    assert {("cpu", "CPUUtilization"), ("cpu", "I/OWaitPercentage"), ("memory", "")} <= seen
    assert len(events) == len(rows(tmp_path))


def test_rows_are_sagemakers(tmp_path: Path) -> None:
    with SystemSampler(tmp_path, 0.05):
        time.sleep(0.4)
    written = rows(tmp_path)
    assert {tuple(row) for row in written} == {("Type", "Name", "Dimension", "Value", "NodeId", "Timestamp")}
    samples = Counter(row["Timestamp"] for row in written)
    assert 4 <= len(samples) <= 12
    assert all(0 <= row["Value"] <= 100 for row in written if row["Type"] in {"cpu", "memory"})
    seen = {(row["Type"], row["Name"], row["Dimension"]) for row in written}
    assert {("network", "ReceiveBytesPerSecond", side) for side in ("Algorithm", "Platform")} <= seen


def test_a_job_shorter_than_the_interval_has_a_sample(tmp_path: Path) -> None:
    with SystemSampler(tmp_path, 60):
        pass
    assert rows(tmp_path)


def test_sampling_that_fails_is_reported_and_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "system").write_text("a file where the folder belongs")
    with SystemSampler(tmp_path, 0.05) as sampler:
        pass
    assert sampler.error is not None
    assert sampler.error in capsys.readouterr().out


def test_training_writes_metrics_only_when_asked(run_job: Job) -> None:
    _, profiled = run_job("--epochs", "2", "--profiler-interval-ms", "100", name="profiled")
    _, plain = run_job("--epochs", "2", name="plain")
    written = rows(profiled.output / "profiler-output")
    resident = [row["Value"] for row in written if row["Name"] == "ProcessMemoryInBytes"]
    assert resident[0] == pytest.approx(psutil.Process().memory_info().rss, rel=0.5)
    assert not (plain.output / "profiler-output").exists()


def test_intervals_are_those_that_sagemaker_takes(run_job: Job, tmp_path: Path) -> None:
    status, _ = run_job("--profiler-interval-ms", "50")
    assert status == 1
    assert "profiler-interval-ms must be 0 or from 100 to 60000" in (tmp_path / "job/failure").read_text()


def test_memory_counts_a_processs_children() -> None:
    (alone,) = ProcessMemory()()
    hold = "import sys; held = bytearray(200_000_000); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        memory = ProcessMemory()
        (together,) = memory()
        child.communicate()
        (afterwards,) = memory()
    assert together[:3] == ("memory", "ProcessMemoryInBytes", "")
    assert together[3] > alone[3] + 150e6
    assert afterwards[3] < together[3] - 150e6


def test_the_machine_is_sampled_beside_a_job(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "profiler.system", "--output", str(tmp_path), "--interval-ms", "100"]
    environment = {**os.environ, "PYTHONPATH": "ml_code"}
    beside = subprocess.Popen([*command, "--pid", str(os.getpid())], env=environment)
    deadline = time.monotonic() + 20
    while not rows(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    beside.terminate()
    assert beside.wait() == 0
    assert "ProcessMemoryInBytes" in {row["Name"] for row in rows(tmp_path)}
    command[-1] = "99"
    refused = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "--interval-ms must be from 100 to 60000, got 99" in refused.stderr


def test_gpu_rows_have_what_the_card_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """With NVML's names in its place: no GPU can be had here."""

    class NVMLError(Exception):
        pass

    class NotSupportedError(NVMLError):
        pass

    def no_power(handle: int) -> int:
        raise NotSupportedError

    nvml = ModuleType("pynvml")
    vars(nvml).update(
        NVMLError=NVMLError,
        NVMLError_NotSupported=NotSupportedError,
        NVMLError_NoPermission=type("NoPermission", (NVMLError,), {}),
        NVML_TEMPERATURE_GPU=0,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=90 + handle),
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=20, total=80),
        nvmlDeviceGetPowerUsage=lambda handle: no_power(handle) if handle else 300_000,
        nvmlDeviceGetTemperature=lambda handle, sensor: 60 + handle,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    first = [
        ("gpu", "gpu0", "GPUUtilization", 90.0),
        ("gpu", "gpu0", "GPUMemoryUtilization", 25.0),
        ("gpu", "gpu0", "GPUPower", 300.0),
        ("gpu", "gpu0", "GPUTemperature", 60.0),
    ]
    second = [
        ("gpu", "gpu1", "GPUUtilization", 91.0),
        ("gpu", "gpu1", "GPUMemoryUtilization", 25.0),
        ("gpu", "gpu1", "GPUTemperature", 61.0),
    ]
    assert list(gpu_sampler()()) == first + second
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert {row[1:] for row in gpu_sampler()()} == {("gpu0", *row[2:]) for row in second}
