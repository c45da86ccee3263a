import ast
import subprocess
from pathlib import Path
from typing import get_args

import pytest

from evergreen.settings import (
    Architecture,
    DebugRuleName,
    ProfilerRuleName,
    SettingsError,
    read,
    validate,
)
from evergreen.source_code import REPOSITORY

MINIMAL = {"dataset": {"source": "somewhere"}}


def test_a_source_is_all_that_is_needed() -> None:
    pipeline = validate(MINIMAL, "x.yaml")
    assert pipeline.model.arch == "resnet18"
    assert pipeline.tuning.batch_size == [32, 64, 128]


@pytest.mark.parametrize(
    ("section", "value", "setting", "words"),
    [
        ("tuning", {"lr": {"min": 0.1, "max": 0.001}}, "tuning.lr", "min (0.1) is above max (0.001)"),
        ("tuning", {"epochs": {"min": 9, "max": 3}}, "tuning.epochs", "min (9) is above max (3)"),
        ("tuning", {"lr": {"min": 0, "max": 0.1}}, "tuning.lr.min", "greater than 0"),
        ("tuning", {"batch_size": [0]}, "tuning.batch_size.0", "greater than or equal to 1"),
        ("tuning", {"batch_size": []}, "tuning.batch_size", "at least 1 item"),
        ("tuning", {"batch_size": [32, 32]}, "tuning.batch_size", "holds a value twice"),
        ("tuning", {"warmup_epochs": 5}, "tuning", "warmup_epochs (5) is not below epochs.min (5)"),
        ("tuning", {"label_smoothing": 1}, "tuning.label_smoothing", "less than 1"),
        (
            "tuning",
            {"max_jobs": 2, "max_parallel_jobs": 3},
            "tuning",
            "max_parallel_jobs (3) is above max_jobs",
        ),
        ("model", {"arch": "resnet1"}, "model.arch", "'resnet18'"),
        ("model", {"arch": "densenet121", "tail": "layer4"}, "model", "has no layer4"),
        ("model", {"image_size": "big"}, "model.image_size", "valid integer"),
        ("gate", {"minimum_accuracy": 1.5}, "gate.minimum_accuracy", "less than or equal to 1"),
        ("gate", {"class_floor": -1}, "gate.class_floor", "greater than or equal to 0"),
        ("gate", {"latency_budget_ms": 0}, "gate.latency_budget_ms", "greater than 0"),
        ("gate", {"approve": "sometimes"}, "gate.approve", "'when_unsure'"),
        ("gate", {"equal": "ask"}, "gate.equal", "'promote' or 'hold'"),
        ("notify", {"sns": "a topic"}, "notify.sns", "match pattern"),
        ("notify", {"email": ["nobody"]}, "notify.email.0", "match pattern"),
        ("notify", {"slack": {"conn_id": "x"}}, "notify.slack.channel", "is missing"),
        ("dataset", {}, "dataset.source", "is missing"),
        (
            "dataset",
            {"source": "x", "splits": {"train": "a", "test": "a"}},
            "dataset.splits",
            "three different folders",
        ),
        ("tunning", {}, "tunning", "there is no such setting"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_setting(
    section: str, value: dict, setting: str, words: str
) -> None:
    with pytest.raises(SettingsError) as raised:
        validate(MINIMAL | {section: value}, "x.yaml")
    message = str(raised.value)
    assert message.startswith(f"x.yaml: {setting}: ")
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize(("old", "new"), [(True, "always"), (False, "never"), ("when_unsure", "when_unsure")])
def test_approve_may_still_be_yes_or_no(old: object, new: str) -> None:
    assert validate(MINIMAL | {"gate": {"approve": old}}, "x.yaml").gate.approve == new


@pytest.mark.parametrize("text", ["", "just words", "a: [", "- 1\n- 2"])
def test_what_is_no_yaml_mapping_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=r"broken\.yaml: "):
        read(file)


def test_the_architectures_are_those_that_ml_code_builds() -> None:
    module = ast.parse((Path(__file__).parents[2] / "ml_code/model/architectures.py").read_text())
    (heads,) = [
        ast.literal_eval(node.value)
        for node in module.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "HEADS"
    ]
    assert set(heads) == set(get_args(Architecture))


def test_the_rules_that_can_be_asked_for_are_those_that_there_are() -> None:
    """Asked in the ML container's environment, since this one has no smdebug."""
    command = "from rules import RULES; print(*RULES)"
    done = subprocess.run(
        [REPOSITORY / "var/venv/ml/bin/python", "-c", command],
        cwd=REPOSITORY / "ml_code", capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert set(done.stdout.split()) == {*get_args(DebugRuleName), *get_args(ProfilerRuleName)}
