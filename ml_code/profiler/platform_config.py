"""What the platform was asked to watch a training job with, where it says so in files beside the job's input.

A platform that runs Debugger and its profiler (SageMaker for accounts that have them, the local cloud) writes
`debughookconfig.json`, `tensorboardoutputconfig.json` and `profilerconfig.json`: the request's `DebugHookConfig`,
`TensorBoardOutputConfig` and `ProfilerConfig`. What is written to their `LocalPath` is uploaded while the job runs.
Hyperparameters that ask for the same go first.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from profiler.system import INTERVAL_MS


@dataclass(frozen=True)
class Profiling:
    """`folder` for profiler files; `interval` in seconds for our own sampler, 0 where the platform samples."""

    folder: Path
    interval: float


def debug_hook(environment: Mapping[str, str] = os.environ) -> tuple[dict[str, Any], Path] | None:
    """The platform's DebugHookConfig and the folder for tensors, or None.

    :raises ValueError: when the file is not a JSON object.
    """
    config = _read("debughookconfig.json", "SMDEBUG_CONFIG_FILE_PATH", environment)
    return None if config is None else (config, _local_path(config, "tensors", environment))


def tensorboard(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The platform's folder for TensorBoard's event files.

    :raises ValueError: when the file is not a JSON object.
    """
    config = _read("tensorboardoutputconfig.json", "TENSORBOARD_CONFIG_FILE_PATH", environment)
    return None if config is None else _local_path(config, "tensorboard", environment)


def profiling(
    output: Path, interval_ms: int, steps: int, environment: Mapping[str, str] = os.environ
) -> Profiling | None:
    """Where to, and how often, or None when nobody asked for a profile.

    :param interval_ms: between samples and :param steps: for torch.profiler, as the hyperparameters have them.
    :raises ValueError: when the interval is none that SageMaker takes, or the platform's file no JSON object.
    """
    shortest, longest = INTERVAL_MS
    if interval_ms and not shortest <= interval_ms <= longest:
        raise ValueError(
            f"hyperparameter profiler-interval-ms must be 0 or from {shortest} to {longest}, got {interval_ms}"
        )
    own = Profiling(output / "profiler-output", interval_ms / 1000)
    if interval_ms:
        return own
    config = _read("profilerconfig.json", "SMPROFILER_CONFIG_PATH", environment)
    if config is not None and str(config.get("DisableProfiler", False)).lower() != "true":
        parameters = config.get("ProfilingParameters") or {}
        return Profiling(_local_path(parameters, "profiler", environment), 0)
    return own if steps else None


def _read(name: str, variable: str, environment: Mapping[str, str]) -> dict[str, Any] | None:
    """`variable` is smdebug's for the file; otherwise it lies where the platform's other files do."""
    given = environment.get(variable)
    if not given and not environment.get("SM_INPUT_CONFIG_DIR"):
        return None
    file = Path(given) if given else Path(environment["SM_INPUT_CONFIG_DIR"]) / name
    if not file.is_file():
        return None
    try:
        config = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file} must hold a JSON object")
    return config


def _local_path(config: dict[str, Any], default: str, environment: Mapping[str, str]) -> Path:
    """The file's, or smdebug's default, which is a folder of the job's output."""
    if config.get("LocalPath"):
        return Path(config["LocalPath"])
    if environment.get("SM_OUTPUT_DIR"):
        return Path(environment["SM_OUTPUT_DIR"]) / default
    raise ValueError("the platform's configuration has no LocalPath and the environment no SM_OUTPUT_DIR")
