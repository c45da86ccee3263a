"""GPUs through NVML: rows of SageMaker's system metrics, and power and temperature, which it does not have."""

import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

Row = tuple[str, str, str, float]
"""(Type, Name, Dimension, Value)."""
Read = Callable[[], float]


def gpu_sampler() -> Callable[[], Iterable[Row]]:
    """What yields, at each call, the rows of the GPUs that this process may use; none without NVML or a GPU.

    `GPUUtilization` is the % of time in which a kernel ran, since NVML's last look; `GPUMemoryUtilization` the %
    of memory in use; `GPUPower` in W; `GPUTemperature` in degrees Celsius. What a card does not give is left out.
    """
    try:
        import pynvml  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        return lambda: ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return lambda: ()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    indices = range(pynvml.nvmlDeviceGetCount()) if visible is None else _indices(visible)
    readings = [
        (f"gpu{number}", dimension, read)
        for number, index in enumerate(indices)
        for dimension, read in _readings(pynvml, pynvml.nvmlDeviceGetHandleByIndex(index))
        if _given(pynvml, read)
    ]
    return lambda: [("gpu", name, dimension, read()) for name, dimension, read in readings]


def _readings(nvml: Any, handle: Any) -> Iterable[tuple[str, Read]]:
    yield "GPUUtilization", partial(_utilization, nvml, handle)
    yield "GPUMemoryUtilization", partial(_memory, nvml, handle)
    yield "GPUPower", lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000
    yield "GPUTemperature", lambda: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))


def _utilization(nvml: Any, handle: Any) -> float:
    return float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)


def _memory(nvml: Any, handle: Any) -> float:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return float(100 * memory.used / memory.total)


def _given(nvml: Any, read: Read) -> bool:
    """Asked once: a card that has a value has it always, and a later error is one to report."""
    try:
        read()
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_NoPermission):
        return False
    return True


def _indices(visible: str) -> list[int]:
    """CUDA_VISIBLE_DEVICES as NVML indices; names of another form (GPU-…, MIG-…) have none."""
    return [int(part) for part in visible.split(",") if part.strip().isdigit()]
