"""Script mode: what the `sagemaker-training` toolkit inside an AWS image makes of a training job's /opt/ml.

Names and values follow sagemaker-training 5.1.4 (environment.py, mapping.py, params.py, process.py).
"""

import json
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TUNING_METRIC = "_tuning_objective_metric"
# These steer the toolkit, as do all that begin with sagemaker_; every other hyperparameter is the script's.
SETTINGS = {
    "sagemaker_program",
    "sagemaker_submit_directory",
    "sagemaker_enable_cloudwatch_metrics",
    "sagemaker_region",
    "sagemaker_container_log_level",
    "sagemaker_job_name",
    "default_user_module_name",
    TUNING_METRIC,
    "sagemaker_s3_output",
}
# Each of them makes the job's instance group one that a framework's distribution runs on.
DISTRIBUTIONS = {
    "sagemaker_mpi_enabled",
    "sagemaker_parameter_server_enabled",
    "sagemaker_distributed_dataparallel_enabled",
    "sagemaker_pytorch_ddp_enabled",
    "sagemaker_pytorch_xla_multi_worker_enabled",
    "sagemaker_multi_worker_mirrored_strategy_enabled",
    "sagemaker_torch_distributed_enabled",
}
ENTRY_POINT = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._+-]*(/[A-Za-z0-9._+-]+)*")
LOG_LEVEL = 20


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
    return {key: value for key, value in decoded(hyperparameters).items() if not _is_setting(key)}


def _is_setting(key: str) -> bool:
    return key.startswith("sagemaker_") or key in SETTINGS


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
        name = f"--{key}" if len(key) > 1 else key and f"-{key}"
        result += [name, "" if value is None else str(value)]
    return result


def command(code: Path, program: str, parameters: Mapping[str, Any]) -> list[str]:
    """What starts a program that lies in `code`, to be started from there. Makes a shell script executable.

    Raises ValueError when the program's name is not that of a file inside `code`.
    """
    target = (code / program).resolve()
    if (
        not ENTRY_POINT.fullmatch(program)
        or {".", ".."} & set(program.split("/"))
        or not target.is_relative_to(code.resolve())
    ):
        raise ValueError(
            f"the training entry point {program!r} is not a path inside the source directory of letters, digits and "
            "._+-/; name one with the hyperparameter sagemaker_program"
        )
    if not target.is_file():
        raise ValueError(f"the source directory has no {program} (hyperparameter sagemaker_program)")
    words = arguments(parameters)
    if _is_package(code, program):
        return ["python", "-m", program.removesuffix(".py"), *words]
    if program.endswith(".py"):
        return ["python", program, *words]
    target.chmod(0o777)
    return ["/bin/sh", "-c", shlex.join([f"./{program}", *words])]


def requirements(code: Path, program: str) -> Path | None:
    """The requirements that are installed before the program starts; a shell script has none."""
    file = code / "requirements.txt"
    return file if (program.endswith(".py") or _is_package(code, program)) and file.is_file() else None


def _is_package(code: Path, program: str) -> bool:
    return not program.endswith(".sh") and (code / "setup.py").is_file()


def environment(
    base: Path,
    hyperparameters: Mapping[str, str],
    resources: Mapping[str, Any],
    channels: Mapping[str, Any],
    *,
    job: str | None = None,
    region: str = "",
) -> dict[str, str]:
    """The variables that the toolkit adds on one host, whose /opt/ml is `base`.

    `resources` and `channels` are the contents of resourceconfig.json and inputdataconfig.json, `job` the training
    job's name. What PYTHONPATH was before belongs behind the one given here.
    """
    settings = {key: value for key, value in decoded(hyperparameters).items() if _is_setting(key)}
    parameters = script_parameters(hyperparameters)
    framework = {key: value for key, value in settings.items() if key not in SETTINGS}
    paths = _paths(base, settings)
    cluster = _cluster(resources, framework)
    directories = {name: f"{base}/input/data/{name}" for name in channels}
    program = settings.get("sagemaker_program")
    common: dict[str, Any] = {
        **paths,
        **cluster,
        **_machine(),
        "user_entry_point": program,
        "module_name": str(program).removesuffix(".py"),
        "log_level": settings.get("sagemaker_container_log_level", LOG_LEVEL),
        "framework_module": None,
        "resource_config": resources,
        "input_data_config": channels,
    }
    everything = {
        **common,
        "additional_framework_parameters": framework,
        "channel_input_dirs": directories,
        "hyperparameters": parameters,
        "job_name": job,
        "is_modelparallel_enabled": None,
        "is_smddprun_installed": False,
        "is_smddpmprun_installed": False,
    }
    of_the_whole_only = {"distribution_hosts", "is_master", "master_hostname", "topology"}
    values = {
        **{key: value for key, value in common.items() if key not in of_the_whole_only},
        "framework_params": framework,
        "channels": sorted(channels),
        "hps": parameters,
        "user_args": arguments(parameters),
        "training_env": everything,
        **({"topology": common["topology"]} if common["topology"] else {}),
        **{f"channel_{name}": directory for name, directory in directories.items()},
        **{f"hp_{key}": value for key, value in parameters.items()},
    }
    return {
        **{f"SM_{key.upper()}": _variable(value) for key, value in values.items()},
        "CURRENT_HOST": resources["current_host"],
        "SAGEMAKER_JOB_NAME": _variable(settings.get("sagemaker_job_name")),
        "SAGEMAKER_REGION": _variable(settings.get("sagemaker_region", region)),
        "PYTHONPATH": str(base / "code"),
    }


def _paths(base: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    folders = {
        "input_dir": "input",
        "input_config_dir": "input/config",
        "model_dir": "model",
        "output_dir": "output",
        "output_data_dir": "output/data",
        "output_intermediate_dir": "output/intermediate",
    }
    module = str(settings.get("sagemaker_submit_directory", base / "code"))
    return {**{key: str(base / folder) for key, folder in folders.items()}, "module_dir": module}


def _cluster(resources: Mapping[str, Any], framework: Mapping[str, Any]) -> dict[str, Any]:
    groups = {group["instance_group_name"]: group for group in resources["instance_groups"]}
    group = resources["current_group_name"]
    distributed = framework.get(
        "sagemaker_distribution_instance_groups",
        [group] if any(framework.get(key) for key in DISTRIBUTIONS) else [],
    )
    hosts = [host for name in groups if name in distributed for host in groups[name]["hosts"]]
    master = (hosts or resources["hosts"])[0]
    return {
        "hosts": resources["hosts"],
        "current_host": resources["current_host"],
        "current_instance_type": resources["current_instance_type"],
        "current_instance_group": group,
        "current_instance_group_hosts": groups[group]["hosts"],
        "instance_groups": list(groups),
        "instance_groups_dict": groups,
        "is_hetero": len(groups) > 1,
        "distribution_instance_groups": distributed,
        "distribution_hosts": hosts,
        "master_hostname": master,
        "is_master": resources["current_host"] == master,
        "network_interface_name": resources["network_interface_name"],
        "topology": resources.get("topology", []),
    }


def _machine() -> dict[str, int]:
    return {
        "num_cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "num_gpus": len(list(Path("/dev").glob("nvidia[0-9]*"))),
        "num_neurons": 0,
    }


def _variable(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
