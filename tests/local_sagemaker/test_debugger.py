"""The debugger's seam: configuration files, uploads while the job runs, rule statuses."""

import json
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from local_sagemaker.cloud import Cloud as LocalCloud
from local_sagemaker.cloud import Settings
from local_sagemaker.images import Images
from local_sagemaker.jobs.debugger import Debugger, rule_job_name
from local_sagemaker.processes.runner import Run, box
from tests.local_sagemaker.cloud_client import BUCKET, REPOSITORY, Cloud, wait
from tests.local_sagemaker.test_checkpoints import interrupt

RULE, TORCH = "test/rule:1", "test/torch:1"
RULES = "503895931360.dkr.ecr.us-east-1.amazonaws.com/sagemaker-debugger-rules:latest"
PREFIX = f"s3://{BUCKET}/debug"
HOOK = {
    "S3OutputPath": PREFIX,
    "HookParameters": {"train.save_interval": "1"},
    "CollectionConfigurations": [
        {"CollectionName": "losses"},
        {"CollectionName": "gradients"},
    ],
}
PROFILER = {"S3OutputPath": PREFIX, "ProfilingIntervalInMilliseconds": 100}


def rule(name: str, image: str = RULE, **parameters: str) -> dict[str, Any]:
    return {"RuleConfigurationName": name, "RuleEvaluatorImage": image, "RuleParameters": parameters}


def ended(cloud: Cloud, name: str, seconds: float = 30) -> dict[str, Any]:
    """The job when its rules have ended too; they outlive it."""
    cloud.training_end(name)
    deadline = time.monotonic() + seconds
    while True:
        job = cloud.sagemaker.describe_training_job(TrainingJobName=name)
        statuses = job.get("DebugRuleEvaluationStatuses", []) + job.get("ProfilerRuleEvaluationStatuses", [])
        if all(status["RuleEvaluationStatus"] != "InProgress" for status in statuses):
            return dict(job)
        assert time.monotonic() < deadline, statuses
        time.sleep(0.05)


WAITING = """
import json, pathlib, time
config = json.loads(pathlib.Path("/opt/ml/input/config/debughookconfig.json").read_text())
assert config["HookParameters"] == {"train.save_interval": "1"}, config
tensors = pathlib.Path(config["LocalPath"])
(tensors / "events").mkdir()
(tensors / "events/1.tfevents").write_text("one")
print("written", flush=True)
while not pathlib.Path("/opt/ml/checkpoints/go").exists():
    time.sleep(0.05)
profiler = json.loads(pathlib.Path("/opt/ml/input/config/profilerconfig.json").read_text())
assert profiler["ProfilingIntervalInMilliseconds"] == 200, profiler
(tensors / "events/2.tfevents").write_text("two")
"""


def test_tensors_and_metrics_arrive_while_the_job_runs(cloud: Cloud) -> None:
    request = cloud.training_request(
        WAITING,
        DebugHookConfig=HOOK,
        ProfilerConfig=PROFILER,
        CheckpointConfig={"S3Uri": f"{PREFIX}/none"},
        DebugRuleConfigurations=[rule("Good", answer="NoIssuesFound"), rule("Bad", answer="IssuesFound")],
        ProfilerRuleConfigurations=[rule("Silent", answer="")],
    )
    name = request["TrainingJobName"]
    cloud.sagemaker.create_training_job(**request)
    deadline = time.monotonic() + 30
    wanted = {f"{name}/debug-output/events/1.tfevents", f"{name}/profiler-output/system/incremental/"}
    while missing := {key for key in wanted if not cloud.keys(f"debug/{key}")}:
        assert time.monotonic() < deadline, missing
        time.sleep(0.05)
    job = cloud.sagemaker.describe_training_job(TrainingJobName=name)
    assert (job["TrainingJobStatus"], job["ProfilingStatus"]) == ("InProgress", "Enabled")
    assert {status["RuleEvaluationStatus"] for status in job["DebugRuleEvaluationStatuses"]} == {"InProgress"}
    cloud.sagemaker.update_training_job(
        TrainingJobName=name,
        ProfilerConfig={"ProfilingIntervalInMilliseconds": 200},
        ProfilerRuleConfigurations=[rule("Late", answer="NoIssuesFound")],
    )
    (cloud.state / "jobs/TrainingJob" / name / "algo-1/ml/checkpoints/go").touch()
    job = ended(cloud, name)
    assert job["TrainingJobStatus"] == "Completed", job
    found = {
        status["RuleConfigurationName"]: (status["RuleEvaluationStatus"], status.get("StatusDetails"))
        for status in job["DebugRuleEvaluationStatuses"] + job["ProfilerRuleEvaluationStatuses"]
    }
    assert found.pop("Silent")[0] == "Error"
    assert found == {
        "Good": ("NoIssuesFound", "2 files"),
        "Bad": ("IssuesFound", "2 files"),
        "Late": ("NoIssuesFound", "2 files"),
    }
    assert cloud.read(f"{PREFIX}/{name}/debug-output/events/2.tfevents") == b"two"
    assert cloud.read(f"{PREFIX}/{name}/debug-output/training_job_end.ts") == b""
    key = cloud.keys(f"debug/{name}/profiler-output/system/incremental/")[0]
    line = cloud.read(f"{PREFIX}/{name}/profiler-output/system/incremental/{key}").splitlines()[0]
    assert json.loads(line).keys() == {"Type", "Name", "Dimension", "Value", "NodeId", "Timestamp"}
    rules = f"{job['OutputDataConfig']['S3OutputPath']}/{name}/rule-output"
    assert cloud.read(f"{rules}/Good/seen.txt") == b"Good"
    arn = job["DebugRuleEvaluationStatuses"][0]["RuleEvaluationJobArn"]
    described = wait(
        lambda: cloud.sagemaker.describe_processing_job(ProcessingJobName=arn.rpartition("/")[2]),
        "ProcessingJobStatus",
    )
    assert (described["ProcessingJobStatus"], described["TrainingJobArn"]) == (
        "Completed",
        job["TrainingJobArn"],
    )


SMDEBUG = """
import sys
import debugger  # smdebug on current torch
import smdebug.pytorch as smd
import torch
model, loss_of = torch.nn.Linear(4, 2), torch.nn.CrossEntropyLoss()
hook = smd.get_hook(create_if_not_exists=True)
assert hook, "there is no debughookconfig.json"
hook.register_module(model)
hook.register_loss(loss_of)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
torch.manual_seed(0)
inputs, labels = torch.randn(32, 4), torch.randint(0, 2, (32,))
hook.set_mode(smd.modes.TRAIN)
for step in range(30):
    optimizer.zero_grad()
    loss = loss_of(model(inputs), labels)
    loss.backward()
    optimizer.step()
"""


def test_smdebugs_own_hook_and_the_projects_rules(cloud: Cloud) -> None:
    request = cloud.training_request(
        SMDEBUG,
        "test/debugged:1",
        DebugHookConfig=HOOK,
        DebugRuleConfigurations=[
            rule("VanishingGradient", RULES, rule_to_invoke="VanishingGradient"),
            rule("Unknown", RULES, rule_to_invoke="NoSuchRule"),
        ],
    )
    cloud.sagemaker.create_training_job(**request)
    job = ended(cloud, request["TrainingJobName"])
    assert job["TrainingJobStatus"] == "Completed", job
    vanishing, unknown = job["DebugRuleEvaluationStatuses"]
    assert vanishing["RuleEvaluationStatus"] == "NoIssuesFound", vanishing
    assert unknown["RuleEvaluationStatus"] == "Error"
    assert "there is no rule NoSuchRule" in unknown["StatusDetails"]
    # The same from the command line, on what the job left in S3.
    done = subprocess.run(
        [REPOSITORY / "var/venv/ml/bin/python", "-m", "rules", f"{PREFIX}/{request['TrainingJobName']}",
         "--rules", '{"VanishingGradient": {}}'],
        cwd=REPOSITORY / "ml_code", capture_output=True, text=True, check=True,
        env={"AWS_ENDPOINT_URL": cloud.address["aws"], "AWS_DEFAULT_REGION": "us-east-1",
             "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"},
    )  # fmt: skip
    (verdict,) = json.loads(done.stdout)
    assert (verdict["status"], verdict["detail"]) == ("NoIssuesFound", vanishing["StatusDetails"])


ENDLESS = SMDEBUG.replace("range(30)", "range(10**9)").replace(
    "optimizer.step()", "optimizer.step(); time.sleep(0.2)"
)


def test_a_rule_fires_while_the_job_runs_and_its_actions_are_carried_out(cloud: Cloud) -> None:
    request = cloud.training_request(f"import time\n{ENDLESS}", "test/debugged:1", DebugHookConfig=HOOK)
    name = request["TrainingJobName"]
    wanted = [
        {"name": "stoptraining", "training_job_prefix": name},
        {"name": "email", "endpoint": "first.last@example.org"},
        {"name": "dance"},
    ]
    # As the SDK writes it.
    action_json = json.dumps(wanted).replace('"', '\\"')
    request["DebugRuleConfigurations"] = [
        rule("Fires", RULES, rule_to_invoke="VanishingGradient", threshold="1e9", action_json=action_json)
    ]
    cloud.sagemaker.create_training_job(**request)
    job = ended(cloud, name, seconds=60)
    assert job["TrainingJobStatus"] == "Stopped", job
    (status,) = job["DebugRuleEvaluationStatuses"]
    assert status["RuleEvaluationStatus"] == "IssuesFound"
    assert 'action {"name": "dance"} is not one of AWS\'s' in status["StatusDetails"]
    assert "stoptraining" not in status["StatusDetails"]
    (subscription,) = cloud.client("sns").list_subscriptions()["Subscriptions"]
    assert (subscription["Protocol"], subscription["Endpoint"]) == ("email", "first.last@example.org")


CUSTOM = """
from smdebug.rules import Rule

class TooLarge(Rule):
    def __init__(self, base_trial, action_str="", limit="10"):
        super().__init__(base_trial, action_str)
        self.limit = float(limit)

    def invoke_at_step(self, step):
        return abs(self.base_trial.tensor("gradient/Linear_weight").value(step)).max() > self.limit
"""


def test_rules_of_the_users_own(cloud: Cloud) -> None:
    source = cloud.put("rules/too_large.py", CUSTOM)
    image = RULES.replace("debugger-rules", "debugger-rule-evaluator")

    def own(name: str, **parameters: str) -> dict[str, Any]:
        return rule(name, image, source_s3_uri=source, rule_to_invoke="TooLarge", **parameters)

    request = cloud.training_request(
        SMDEBUG,
        "test/debugged:1",
        DebugHookConfig=HOOK,
        DebugRuleConfigurations=[own("Fires", limit="0"), own("Fine"), own("Wrong", limits="1")],
    )
    cloud.sagemaker.create_training_job(**request)
    job = ended(cloud, request["TrainingJobName"], seconds=60)
    fires, fine, wrong = job["DebugRuleEvaluationStatuses"]
    assert (fires["RuleEvaluationStatus"], fires["StatusDetails"]) == (
        "IssuesFound",
        "TooLarge of too_large.py fired at global step 0.",
    )
    assert fine["RuleEvaluationStatus"] == "NoIssuesFound", fine
    assert wrong["RuleEvaluationStatus"] == "Error"
    assert "TooLarge has no parameter 'limits'; it has limit" in wrong["StatusDetails"]
    with pytest.raises(ClientError, match=r"ValidationException.*No S3 objects found.*absent.py"):
        cloud.train("", DebugRuleConfigurations=[rule("r", RULES, source_s3_uri=f"s3://{BUCKET}/absent.py")])


TWICE = """
import pathlib, time
checkpoint = pathlib.Path("/opt/ml/checkpoints/started")
(pathlib.Path("/opt/ml/output/tensors") / "events").mkdir()
for number in range(2 if checkpoint.exists() else 5):
    pathlib.Path(f"/opt/ml/output/tensors/events/{number}").touch()
if not checkpoint.exists():
    checkpoint.touch()
    time.sleep(600)
"""


def test_an_interrupted_attempts_rules_are_forgotten(cloud: Cloud) -> None:
    checkpoints = f"{PREFIX}/twice"
    request = cloud.training_request(
        TWICE,
        DebugHookConfig=HOOK,
        DebugRuleConfigurations=[rule("Good", answer="NoIssuesFound")],
        CheckpointConfig={"S3Uri": checkpoints},
        EnableManagedSpotTraining=True,
        StoppingCondition={"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 120},
    )
    name = request["TrainingJobName"]
    cloud.sagemaker.create_training_job(**request)
    deadline = time.monotonic() + 20
    while "/started" not in cloud.keys("debug/twice"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    interrupt(cloud, name)
    job = ended(cloud, name)
    assert job["TrainingJobStatus"] == "Completed", job
    (status,) = job["DebugRuleEvaluationStatuses"]
    # Two files are the second attempt's; the first had five.
    assert (status["RuleEvaluationStatus"], status["StatusDetails"]) == ("NoIssuesFound", "2 files")


def test_an_earlier_attempts_removal_leaves_the_next_ones_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unused = "http://127.0.0.1:9"
    cloud = LocalCloud(
        Settings(
            tmp_path, sagemaker_url=unused, aws_url=unused, host=None, mark=str(tmp_path), images=Images()
        )
    )
    debugger, remove = Debugger(cloud), shutil.rmtree

    def remove_slowly(folder: Path, ignore_errors: bool) -> None:
        if threading.current_thread() is not threading.main_thread():
            time.sleep(0.3)
        remove(folder, ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", remove_slowly)
    job = {"TrainingJobName": "twice", "DebugHookConfig": HOOK}
    for _attempt in range(2):
        host = box(cloud, "TrainingJob", "twice")
        host.clean()
        host.create()
        never = threading.Event()
        with debugger.watching(job, Run(cloud, "twice", [host], [], never, never, 60)):
            time.sleep(0.5)
            (host.ml / "output/tensors/events").mkdir()


def test_a_killed_service_says_that_a_rule_was_lost(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path / "state")
    request = cloud.training_request(
        "",
        DebugHookConfig=HOOK,
        DebugRuleConfigurations=[rule("Slow", answer="NoIssuesFound", seconds="600")],
    )
    name = request["TrainingJobName"]
    cloud.sagemaker.create_training_job(**request)
    assert cloud.training_end(name)["TrainingJobStatus"] == "Completed"
    with pytest.raises(ClientError, match=r"ResourceInUse.*still being evaluated"):
        cloud.sagemaker.delete_training_job(TrainingJobName=name)
    cloud.end(signal.SIGKILL)
    again = Cloud(tmp_path / "state")
    (status,) = again.sagemaker.describe_training_job(TrainingJobName=name)["DebugRuleEvaluationStatuses"]
    assert (status["RuleEvaluationStatus"], "its process was lost" in status["StatusDetails"]) == (
        "Error",
        True,
    )
    again.sagemaker.delete_training_job(TrainingJobName=name)
    assert again.end() == 0


def test_a_job_that_never_ran_leaves_no_rule_in_progress(cloud: Cloud) -> None:
    request = cloud.training_request(
        "", DebugHookConfig=HOOK, DebugRuleConfigurations=[rule("Good", answer="NoIssuesFound")]
    )
    request["HyperParameters"]["sagemaker_program"] = "absent.py"
    cloud.sagemaker.create_training_job(**request)
    (status,) = ended(cloud, request["TrainingJobName"])["DebugRuleEvaluationStatuses"]
    assert status["RuleEvaluationStatus"] == "Error"


@given(st.text(max_size=256))
def test_a_rules_name_cannot_leave_the_jobs_folder(rule: str) -> None:
    name = rule_job_name("train-" + 57 * "x", rule)
    assert re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}", name)


def test_rules_are_checked_before_the_job_starts(cloud: Cloud) -> None:
    with pytest.raises(ClientError, match=r"ValidationException.*nobody/knows:1"):
        cloud.train("", DebugRuleConfigurations=[rule("r", "nobody/knows:1")])
    with pytest.raises(ClientError, match=r"ValidationException.*has no `process` command"):
        cloud.train("", DebugRuleConfigurations=[rule("r", "test/plain:1")])
    with pytest.raises(ClientError, match=r"ValidationException.*not below /opt/ml"):
        cloud.train("", DebugHookConfig={**HOOK, "LocalPath": "/tmp/x"})
