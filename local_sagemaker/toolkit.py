"""Script mode: what the `sagemaker-training` toolkit inside an AWS image makes of a training job's /opt/ml.

Names and values follow sagemaker-training 5.1.4 (environment.py, mapping.py, params.py).
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HOST = "algo-1"
# These steer the toolkit; every other hyperparameter is the script's. All begin with sagemaker_ but this one.
TUNING_METRIC = "_tuning_objective_metric"


def decoded(hyperparameters: Mapping[str, str]) -> dict[str, Any]:
    """Hyperparameters as the toolkit reads them: JSON where it is JSON, the string itself otherwise."""
    result = {}
    for key, value in hyperparameters.items():
        try:
            result[key] = json.loads(value)
        except ValueError:
            result[key] = value
    return result


def script_parameters(hyperparameters: Mapping[str, str]) -> dict[str, Any]:
    """The script's own hyperparameters, decoded."""
    return {
        key: value
        for key, value in decoded(hyperparameters).items()
        if not key.startswith("sagemaker_") and key != TUNING_METRIC
    }


def arguments(parameters: Mapping[str, Any]) -> list[str]:
    """The script's command line.

    >>> arguments({"lr": 0.1, "e": 3, "on": True})
    ['-e', '3', '--lr', '0.1', '--on', 'True']
    """
    result = []
    for key in sorted(parameters):
        value = parameters[key]
        if isinstance(value, dict):
            value = ",".join(f"{k}={v}" for k, v in sorted(value.items()))
        result += [f"--{key}" if len(key) > 1 else f"-{key}", "" if value is None else str(value)]
    return result


def environment(
    base: Path, hyperparameters: Mapping[str, str], resources: Mapping[str, Any], channels: Mapping[str, Any]
) -> dict[str, str]:
    """The SM_* variables of a job whose /opt/ml is `base`."""
    parameters = script_parameters(hyperparameters)
    settings = decoded(hyperparameters)
    program = settings.get("sagemaker_program")
    known = {"sagemaker_program", "sagemaker_submit_directory", "sagemaker_container_log_level"}
    known |= {"sagemaker_region", "sagemaker_job_name", "sagemaker_s3_output", TUNING_METRIC}
    groups = resources["instance_groups"]
    values: dict[str, Any] = {
        "hosts": resources["hosts"],
        "network_interface_name": resources["network_interface_name"],
        "hps": parameters,
        "user_entry_point": program,
        "framework_params": {
            k: v for k, v in settings.items() if k.startswith("sagemaker_") and k not in known
        },
        "resource_config": resources,
        "input_data_config": channels,
        "output_data_dir": str(base / "output/data"),
        "channels": sorted(channels),
        "current_host": resources["current_host"],
        "current_instance_type": resources["current_instance_type"],
        "current_instance_group": resources["current_group_name"],
        "current_instance_group_hosts": resources["hosts"],
        "instance_groups": [group["instance_group_name"] for group in groups],
        "instance_groups_dict": {group["instance_group_name"]: group for group in groups},
        "distribution_instance_groups": [],
        "is_hetero": False,
        "module_name": program.removesuffix(".py") if program else None,
        "log_level": settings.get("sagemaker_container_log_level", 20),
        "framework_module": None,
        "input_dir": str(base / "input"),
        "input_config_dir": str(base / "input/config"),
        "output_dir": str(base / "output"),
        "num_cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "num_gpus": len(list(Path("/dev").glob("nvidia[0-9]*"))),
        "num_neurons": 0,
        "model_dir": str(base / "model"),
        "module_dir": settings.get("sagemaker_submit_directory", str(base / "code")),
        "user_args": arguments(parameters),
        "output_intermediate_dir": str(base / "output/intermediate"),
    }
    training_env = dict(values)
    training_env["channel_input_dirs"] = {name: str(base / "input/data" / name) for name in channels}
    training_env |= {
        "hyperparameters": parameters,
        "additional_framework_parameters": values["framework_params"],
    }
    training_env |= {"is_master": True, "master_hostname": HOST}
    values["training_env"] = training_env
    values |= {f"channel_{name}": str(base / "input/data" / name) for name in channels}
    values |= {f"hp_{key}": value for key, value in parameters.items()}
    return {f"SM_{key.upper()}": _variable(value) for key, value in values.items()}


def _variable(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
