"""Script mode held against the toolkit that AWS's images contain, sagemaker-training 5.1.4.

Both are given the same /opt/ml. What they start must be started alike: arguments, working directory, every variable.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local_sagemaker.jobs import toolkit
from tests.local_sagemaker.cloud_client import REPOSITORY

BIN = REPOSITORY / "var/venv/toolkit/bin"
pytestmark = pytest.mark.skipif(
    not (BIN / "train").exists(), reason="no training toolkit; make var/venv/toolkit/.installed"
)

# What may differ, and why.
MACHINE = {
    "num_cpus",  # the toolkit counts the machine's processors, we those that jobs may use
    "num_gpus",  # the toolkit asks nvidia-smi, we look for devices
}

Json = dict[str, Any]
DUMP = """
import json, os, sys
json.dump({"argv": sys.argv[1:], "folder": os.getcwd(), "variables": dict(os.environ)}, open(os.environ["DUMP"], "w"))
"""
# Reads the folder's configuration anew for each line of its standard input.
DRIVER = """
import json, sys
from sagemaker_training.environment import Environment
for line in sys.stdin:
    found = Environment()
    print(json.dumps([found.to_env_vars(), found.to_cmd_args()]), flush=True)
"""


def resources(hosts: int = 1, current: int = 0, groups: int = 1) -> Json:
    """resourceconfig.json, its hosts dealt out to the instance groups."""
    names = [f"algo-{number}" for number in range(1, hosts + 1)]
    members = [
        {
            "instance_group_name": f"group-{number}",
            "instance_type": "ml.m5.large",
            "hosts": names[number::groups],
        }
        for number in range(groups)
    ]
    return {
        "current_host": names[current],
        "current_instance_type": "ml.m5.large",
        "current_group_name": members[current % groups]["instance_group_name"],
        "hosts": names,
        "instance_groups": members,
        "network_interface_name": "lo",
    }


def write(base: Path, hyperparameters: dict[str, str], hosts: Json, channels: Json) -> None:
    folder = base / "input/config"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("hyperparameters", hyperparameters), ("resourceconfig", hosts), ("inputdataconfig", channels)
    ):  # fmt: skip
        (folder / f"{name}.json").write_text(json.dumps(content))


def comparable(variables: dict[str, str]) -> Json:
    """The variables without what may differ."""
    whole = {
        key: value for key, value in json.loads(variables["SM_TRAINING_ENV"]).items() if key not in MACHINE
    }
    kept = {key: value for key, value in variables.items() if key.removeprefix("SM_").lower() not in MACHINE}
    # The toolkit's own import path follows the code's.
    kept["PYTHONPATH"] = variables.get("PYTHONPATH", "").partition(":")[0]
    # Compared as text, for not a number is not equal to itself.
    return {**kept, "SM_TRAINING_ENV": json.dumps(whole, sort_keys=True)}


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, "subprocess.Popen[str]"]]:
    base = tmp_path_factory.mktemp("ml")
    variables = {"PATH": f"{BIN}:/usr/bin:/bin", "SAGEMAKER_BASE_DIR": str(base)}
    with subprocess.Popen(
        [BIN / "python", "-c", DRIVER],
        env=variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield base, process
        assert process.stdin
        process.stdin.close()
        assert process.wait(10) == 0


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0="), min_size=1, max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
HYPERPARAMETERS = st.dictionaries(NAMES, VALUES.map(json.dumps) | st.text(max_size=12), max_size=5)
# The toolkit ends with a TypeError where a job's name or region is not a text.
TEXTS = {"sagemaker_job_name", "sagemaker_region"}
GROUPS = "sagemaker_distribution_instance_groups"
STEERING = (
    st.dictionaries(
        st.sampled_from(sorted({*toolkit.SETTINGS, *toolkit.DISTRIBUTIONS, "sagemaker_unknown"} - TEXTS)),
        st.sampled_from(["true", "false", '"train.py"', "deep/run.py", "s3://b/code.tar.gz", "10", ""]),
        max_size=3,
    )
    | st.just({GROUPS: '["group-0"]'})
    | st.fixed_dictionaries(dict.fromkeys(TEXTS, st.just("eu-west-1")))
)
CHANNELS = st.dictionaries(
    st.from_regex(r"[A-Za-z0-9\.\-_]{1,8}", fullmatch=True), st.just({"TrainingInputMode": "File"})
)
PLACES = st.sampled_from([(1, 0, 1), (3, 0, 1), (3, 2, 1), (3, 1, 2)])


@given(HYPERPARAMETERS, STEERING, CHANNELS, PLACES)
@settings(max_examples=150, deadline=None)
def test_variables_and_arguments(
    driver: tuple[Path, "subprocess.Popen[str]"],
    hyperparameters: dict[str, str],
    steering: dict[str, str],
    channels: Json,
    place: tuple[int, int, int],
) -> None:
    base, process = driver
    values, hosts = hyperparameters | steering, resources(*place)
    write(base, values, hosts, channels)
    assert process.stdin
    assert process.stdout
    process.stdin.write("\n")
    process.stdin.flush()
    variables, argv = json.loads(process.stdout.readline())
    ours = toolkit.environment(base, values, hosts, channels)
    ours = {key: value for key, value in ours.items() if key.startswith("SM_")}
    assert comparable(ours) == comparable(variables)
    assert toolkit.arguments(toolkit.script_parameters(values)) == argv


NASTY = {
    "lr": "1e-4",
    "epochs": "3",
    "e": "7",
    "large": "123456789012345678901234567890",
    "text-number": '"3"',
    "on": "true",
    "off": "False",
    "nothing": "null",
    "empty": "",
    "empty-text": '""',
    "list": '[1, "two", [3.0, null]]',
    "dict": '{"b": [1], "a": "x y", "c": {"d": null}}',
    "spaces": " a  b ",
    "quotes": 'it\'s "$HOME" `id` \\ ; & | * \n end',
    "unicode.key-ä": "Grüße, 世界",
    "not-json": "{'a': 1}",
    "nan": "NaN",
    "--dashes": "--",
    "_tuning_objective_metric": "loss",
    "sagemaker_job_name": '"my-job"',
    "sagemaker_own": '{"a": 1}',
}


@pytest.mark.parametrize(
    ("program", "more", "place"),
    [
        ("train.py", {}, (1, 0, 1)),
        ("deep/train.py", {"sagemaker_torch_distributed_enabled": "true", "sagemaker_region": "eu-west-1"}, (3, 2, 1)),
        ("train.sh", {}, (3, 1, 2)),
    ],
    ids=["python", "one of three hosts", "shell"],
)  # fmt: skip
def test_what_the_script_sees(
    tmp_path: Path, program: str, more: dict[str, str], place: tuple[int, int, int]
) -> None:
    base, code = tmp_path / "ml", tmp_path / "ml/code"
    hyperparameters = {
        "sagemaker_program": program,
        "sagemaker_submit_directory": "s3://b/c.tar.gz",
        **NASTY,
        **more,
    }
    hosts, channels = resources(*place), {"train": {"TrainingInputMode": "File"}, "held-out": {}}
    write(base, hyperparameters, hosts, channels)
    (code / program).parent.mkdir(parents=True)
    (code / "dump.py").write_text(DUMP)
    (code / program).write_text('exec python dump.py "$@"' if program.endswith(".sh") else DUMP)
    variables = {
        "PATH": f"{BIN}:/usr/bin:/bin", "SAGEMAKER_BASE_DIR": str(base), "SM_STUDIO_LOCAL_MODE": "true",
        "TRAINING_JOB_NAME": "my-job-1", "AWS_DEFAULT_REGION": "us-east-1", "DUMP": str(tmp_path / "dump.json"),
    }  # fmt: skip

    def run(argv: list[str | Path], variables: dict[str, str], folder: Path) -> Json:
        done = subprocess.run(argv, env=variables, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        seen = json.loads((tmp_path / "dump.json").read_text())
        return {**seen, "variables": comparable(seen["variables"])}

    theirs = run([BIN / "train"], variables, tmp_path)
    added = toolkit.environment(base, hyperparameters, hosts, channels, job="my-job-1", region="us-east-1")
    argv = toolkit.command(code, program, toolkit.script_parameters(hyperparameters))
    (code / program).chmod(0o755)
    ours = run([*argv], variables | added, code)
    assert ours == theirs


VALIDATE = """
import json, sys
from sagemaker_training import errors, process
def refused(name):
    try:
        process.validate_entry_point(name)
    except errors.ClientError:
        return True
print(json.dumps([name for name in sys.argv[1:] if refused(name)]))
"""


def test_entry_points_that_are_no_plain_path_are_refused(tmp_path: Path) -> None:
    code, outside = tmp_path / "code", tmp_path / "x.py"
    names = ["-c", "a b.py", "x;id.sh", "./train.py", "../x.py", "deep/../train.py", str(outside), ""]
    good = ["train.py", "deep/a+b-1.sh", ".hidden/_run"]
    for file in (outside, *(code / name for name in (*good, "-c", "a b.py", "x;id.sh"))):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    variables = {"SAGEMAKER_BASE_DIR": str(tmp_path)}
    theirs = subprocess.run(
        [BIN / "python", "-c", VALIDATE, *good, *names], env=variables, capture_output=True, check=True
    )
    assert json.loads(theirs.stdout) == names
    (code / "link.py").symlink_to(outside)
    for name in [*names, "link.py"]:
        with pytest.raises(ValueError, match="is not a path inside the source directory"):
            toolkit.command(code, name, {})
    with pytest.raises(ValueError, match=r"the source directory has no missing.py"):
        toolkit.command(code, "missing.py", {})
    for name in good:
        assert toolkit.command(code, name, {})


def test_a_package_is_run_as_a_module_and_only_python_has_requirements(tmp_path: Path) -> None:
    for name in ("train.py", "train.sh", "run", "requirements.txt"):
        (tmp_path / name).touch()
    file = tmp_path / "requirements.txt"
    assert [toolkit.requirements(tmp_path, name) for name in ("train.py", "train.sh", "run")] == [
        file,
        None,
        None,
    ]
    (tmp_path / "setup.py").touch()
    assert toolkit.command(tmp_path, "train.py", {"a": 1}) == ["python", "-m", "train", "-a", "1"]
    assert [toolkit.requirements(tmp_path, name) for name in ("train.sh", "run")] == [None, file]
