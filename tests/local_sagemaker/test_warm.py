"""Warm starts: a job cannot tell that its process was forked from another."""

import json
import random
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.local_sagemaker.cloud_client import PLAIN, ROLE, WARM, Cloud, archive, unique, wait

CURIOUS = """
import atexit, json, os, sys, threading, time, weakref
from helper import helped
class Gone: pass
gone = weakref.proxy(Gone())  # onnxruntime leaves such; whoever asks for its class gets a ReferenceError
left_open = open(os.environ["SM_OUTPUT_DATA_DIR"] + "/left-open.txt", "w")
left_open.write("flushed")
def at_exit():
    print("atexit", helped(), flush=True)
atexit.register(at_exit)
threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
import __main__
print(json.dumps({
    "argv": sys.argv, "name": __name__, "file": __file__, "path": sys.path[0], "main": __main__.__file__,
    "spec": __spec__, "cwd": os.getcwd(), "environment": sorted(os.environ), "leader": os.getsid(0) == os.getpid(),
    "stdin": sys.stdin.read(), "executable": sys.executable, "unseen": "optuna" in sys.modules,
}))
if "--fail" in sys.argv:
    def inner():
        raise ValueError("planted")
    inner()
if "--exit" in sys.argv:
    sys.exit("a sentence")
"""


def run(cloud: Cloud, image: str, **hyperparameters: str) -> tuple[dict[str, object], list[str], list[str]]:
    """What a job saw, its other lines and its reason, with the job's name and folder taken out."""
    source = cloud.put(
        f"code/{random.random()}.tar.gz",
        archive({"train.py": CURIOUS, "helper.py": "def helped(): return 'yes'"}),
    )
    job = cloud.train("", image, HyperParameters={"sagemaker_submit_directory": source, **hyperparameters})
    name = job["TrainingJobName"]
    base = f"{job['OutputDataConfig']['S3OutputPath']}/{name}/output"
    assert cloud.unpack(f"{base}/output.tar.gz") == {"left-open.txt": b"flushed"}
    lines = [line.replace(name, "NAME") for line in cloud.log("TrainingJobs", name)]
    return json.loads(lines[0]), lines[1:], job.get("FailureReason", "").replace(name, "NAME").splitlines()


def test_warm_and_cold_look_alike(cloud: Cloud) -> None:
    for hyperparameters in ({}, {"fail": "1"}, {"exit": "1"}):
        assert run(cloud, PLAIN, **hyperparameters) == run(cloud, WARM, **hyperparameters)
    assert "imported ('yaml', 'json')" in (cloud.state / "log/service.log").read_text()


def test_a_warm_job_can_be_stopped_and_killed(cloud: Cloud) -> None:
    job = cloud.train("import time; time.sleep(60)", WARM, StoppingCondition={"MaxRuntimeInSeconds": 1})
    assert job["SecondaryStatus"] == "MaxRuntimeExceeded"
    job = cloud.train("import os; os.kill(os.getpid(), 9)", WARM)
    assert job["FailureReason"].endswith("exit code: 137")


def test_variables_that_are_read_at_load_start_cold(cloud: Cloud) -> None:
    script = "import sys; print(sys.flags.hash_randomization, 'yaml' in sys.modules)"
    job = cloud.train(script, WARM, Environment={"PYTHONHASHSEED": "0"})
    assert cloud.log("TrainingJobs", job["TrainingJobName"]) == ["0 False"]
    job = cloud.train(script, WARM)
    assert cloud.log("TrainingJobs", job["TrainingJobName"]) == ["1 True"]


def test_servers_and_jobs_are_forked_from_one_process(cloud: Cloud) -> None:
    cloud.train("print('loss=1')", WARM)
    name = unique("model")
    data = cloud.put(f"models/{name}/model.tar.gz", archive({"answer.txt": "warm"}))
    container = {"Image": "test/warm-serving:1", "ModelDataUrl": data}
    cloud.sagemaker.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=ROLE)
    endpoint = cloud.endpoint(name)
    assert cloud.invoke(endpoint).startswith("warm:")
    with pytest.raises(ClientError, match="ModelError"):
        cloud.invoke(endpoint, b"die")
    wait(lambda: {"up": "" if answers(cloud, endpoint) else "Creating"}, "up")
    assert (cloud.state / "log/service.log").read_text().count("imported ('yaml', 'json')") == 1


def answers(cloud: Cloud, endpoint: str) -> bool:
    try:
        return cloud.invoke(endpoint).startswith("warm:")
    except ClientError:
        return False


def test_a_warm_process_that_cannot_start_is_done_without(cloud: Cloud) -> None:
    job = cloud.train("print('loss=1')", "test/broken-warm:1")
    assert job["TrainingJobStatus"] == "Completed"
    assert "starting cold: the warm process ended" in (cloud.state / "log/service.log").read_text()
    assert "a_module_that_is_not_there" in (cloud.state / "log/warm.log").read_text()


def test_torch_in_a_warm_process(cloud: Cloud) -> None:
    script = (
        "import torch\nx = torch.randn(256, 256, requires_grad=True)\n(x @ x).sum().backward()\n"
        "print('loss=', float((x.grad ** 2).sum()) > 0, torch.get_num_threads() >= 1)"
    )
    for _ in range(2):
        job = cloud.train(script, "test/torch:1")
        assert cloud.log("TrainingJobs", job["TrainingJobName"]) == ["loss= True True"]
    assert Path(cloud.state / "log/service.log").read_text().count("imported ('torch',)") == 1
