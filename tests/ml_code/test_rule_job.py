"""A rule beside a training job that is still writing."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from smdebug import modes
from smdebug.pytorch import Hook, SaveConfig
from torch import nn

CODE = Path(__file__).parents[2] / "ml_code"


class Writing:
    """A training that stands between two steps, and a rule job beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.module, self.criterion = nn.Linear(4, 2), nn.CrossEntropyLoss()
        self.hook = Hook(
            out_dir=str(folder / "debug-output"),
            include_collections=["gradients", "losses"],
            save_config=SaveConfig(save_interval=1),
        )
        self.hook.register_module(self.module)
        self.hook.register_loss(self.criterion)
        self.hook.set_mode(modes.TRAIN)

    def step(self, scale: float = 1.0) -> None:
        self.module.zero_grad()
        loss = self.criterion(self.module(torch.randn(8, 4)), torch.zeros(8).long())
        (scale * loss).backward()

    def end(self) -> None:
        self.hook.close()
        (self.folder / "ended").touch()

    def rule(self, **parameters: str) -> "subprocess.Popen[str]":
        config = {
            "RuleConfigurationName": "Mine", "RuleParameters": parameters, "TrainingJobName": "t",
            "TrainingJobArn": "arn", "DebugOutputPath": str(self.folder / "debug-output"),
            "ProfilerOutputPath": str(self.folder / "profiler-output"),
            "TrainingEndedPath": str(self.folder / "ended"), "OutputPath": str(self.folder),
        }  # fmt: skip
        (self.folder / "config.json").write_text(json.dumps(config))
        variables = {
            **os.environ,
            "RULE_CONFIG": str(self.folder / "config.json"),
            "RULE_STATUS": str(self.folder / "status.json"),
        }
        return subprocess.Popen(
            [sys.executable, "rule_job.py"], cwd=CODE, env=variables, stdout=subprocess.PIPE, text=True
        )

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "status.json").read_text())
        return found


@pytest.fixture
def writing(tmp_path: Path) -> Writing:
    torch.manual_seed(0)
    return Writing(tmp_path)


def test_a_rule_fires_before_the_training_has_ended(writing: Writing) -> None:
    with writing.rule(rule_to_invoke="VanishingGradient") as job:
        for _ in range(3):
            writing.step()
        # Complete only when the next step has begun.
        writing.step(scale=0.0)
        writing.step()
        assert job.wait(60) == 0
    assert not (writing.folder / "ended").exists()
    status = writing.status()
    assert status["Status"] == "IssuesFound"
    verdict = json.loads((writing.folder / "verdict.json").read_text())
    assert (verdict["name"], verdict["status"], verdict["step"]) == ("VanishingGradient", "IssuesFound", 3)
    writing.end()


def test_a_rule_without_an_issue_waits_for_the_end(writing: Writing) -> None:
    with writing.rule(rule_to_invoke="VanishingGradient") as job:
        writing.step()
        with pytest.raises(subprocess.TimeoutExpired):
            job.wait(1)
        writing.end()
        assert job.wait(60) == 0
    assert writing.status()["Status"] == "NoIssuesFound"


def test_a_rule_that_waits_for_its_training_is_small(writing: Writing) -> None:
    with writing.rule(rule_to_invoke="VanishingGradient") as job:
        time.sleep(1)
        assert psutil.Process(job.pid).memory_info().rss < 40 * 2**20
        (writing.folder / "ended").touch()
        assert job.wait(60) == 0
    status = writing.status()
    assert status["Status"] == "Error"
    assert "saved no tensors" in status["Details"]
