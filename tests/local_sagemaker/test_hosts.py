"""What a job sees of the machine: its own /opt/ml, its hosts, its network, its limits."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local_sagemaker.cloud_client import BUCKET, PLAIN, WARM, Cloud, channel

CLUSTER = {"InstanceType": "ml.m5.large", "InstanceCount": 3, "VolumeSizeInGB": 1}


@pytest.mark.parametrize("image", [PLAIN, WARM])
def test_opt_ml_is_the_jobs_own(cloud: Cloud, image: str) -> None:
    script = """
import os, pathlib, socket
pathlib.Path("/opt/ml/model/here.txt").write_text(socket.gethostname())
folders = os.listdir("/opt/ml/input/data")
print(os.getcwd(), os.environ["SM_MODEL_DIR"], socket.gethostbyname(socket.gethostname()), folders)
"""
    job = cloud.train(script, image)
    assert job["TrainingJobStatus"] == "Completed", job
    assert cloud.log("TrainingJobs", job["TrainingJobName"]) == [
        "/opt/ml/code /opt/ml/model 127.0.0.1 ['train']"
    ]
    assert cloud.unpack(job["ModelArtifacts"]["S3ModelArtifacts"]) == {"here.txt": b"algo-1"}


GLOO = """
import json, os, pathlib
import torch
import torch.distributed as dist
hosts, me = json.loads(os.environ["SM_HOSTS"]), os.environ["SM_CURRENT_HOST"]
dist.init_process_group("gloo", init_method=f"tcp://{hosts[0]}:29517", rank=hosts.index(me), world_size=len(hosts))
total = torch.tensor([float(hosts.index(me) + 1)])
dist.all_reduce(total)
pathlib.Path("/opt/ml/model", me).write_text(str(total.item()))
config = json.loads(pathlib.Path("/opt/ml/input/config/resourceconfig.json").read_text())
assert (config["hosts"], config["current_host"]) == (hosts, me)
files = sorted(p.name for p in pathlib.Path(os.environ["SM_CHANNEL_SHARDED"]).iterdir())
pathlib.Path("/opt/ml/output/data", me).write_text(json.dumps(files))
dist.destroy_process_group()
"""


def test_torch_gloo_across_three_hosts(cloud: Cloud) -> None:
    for number in range(5):
        cloud.put(f"sharded/{number}.txt", "x")
    sharded = channel("sharded", f"s3://{BUCKET}/sharded/")
    sharded["DataSource"]["S3DataSource"]["S3DataDistributionType"] = "ShardedByS3Key"
    job = cloud.train(GLOO, "test/torch:1", ResourceConfig=CLUSTER, InputDataConfig=[sharded])
    assert job["TrainingJobStatus"] == "Completed", job
    hosts = {"algo-1", "algo-2", "algo-3"}
    assert cloud.unpack(job["ModelArtifacts"]["S3ModelArtifacts"]) == dict.fromkeys(hosts, b"6.0")
    output = cloud.unpack(job["ModelArtifacts"]["S3ModelArtifacts"].replace("model.tar.gz", "output.tar.gz"))
    shards = [json.loads(output[host]) for host in sorted(hosts)]
    assert shards == [["0.txt", "3.txt"], ["1.txt", "4.txt"], ["2.txt"]]
    streams = cloud.logs.describe_log_streams(
        logGroupName="/aws/sagemaker/TrainingJobs", logStreamNamePrefix=f"{job['TrainingJobName']}/"
    )["logStreams"]
    assert {stream["logStreamName"].split("/")[1].rpartition("-")[0] for stream in streams} == hosts


def test_where_one_host_fails_the_job_has(cloud: Cloud) -> None:
    script = """
import os, sys, time
if os.environ["SM_CURRENT_HOST"] == "algo-2":
    sys.exit("planted")
time.sleep(60)
"""
    job = cloud.train(script, ResourceConfig=CLUSTER)
    assert job["FailureReason"] == "AlgorithmError: planted, exit code: 1"


def test_more_instances_than_there_may_be(cloud: Cloud) -> None:
    with pytest.raises(ClientError, match=r"ResourceLimitExceeded.*request delta of 99 Instances"):
        cloud.train("", ResourceConfig=CLUSTER | {"InstanceCount": 99})


def test_an_isolated_job_reaches_nobody(cloud: Cloud) -> None:
    script = """
import os, socket, urllib.parse
address = urllib.parse.urlsplit(os.environ["AWS_ENDPOINT_URL"])
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname()).close()
try:
    socket.create_connection((address.hostname, address.port), 2)
except OSError as error:
    print(type(error).__name__)
"""
    job = cloud.train(script, EnableNetworkIsolation=True)
    assert cloud.log("TrainingJobs", job["TrainingJobName"]) == ["ConnectionRefusedError"]


@pytest.mark.parametrize("image", [PLAIN, WARM])
def test_a_file_larger_than_the_volume(cloud: Cloud, image: str) -> None:
    script = "open('/opt/ml/model/big', 'wb').truncate(2 << 30)"
    job = cloud.train(script, image, ResourceConfig=CLUSTER | {"InstanceCount": 1})
    assert job["FailureReason"].endswith("OSError: [Errno 27] File too large, exit code: 1")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A service on a machine that allows no mount namespaces."""
    forbid = "echo 0 > /proc/sys/user/max_mnt_namespaces"
    cloud = Cloud(
        tmp_path_factory.mktemp("bare"), before=("unshare", "-Ur", "sh", "-c", f'{forbid}; exec "$@"', "sh")
    )
    yield cloud
    assert cloud.end() == 0


def test_without_namespaces_paths_are_replaced(bare: Cloud) -> None:
    script = (
        "import os, sys; print(os.environ['SM_MODEL_DIR'], sys.argv[2]); open('/proc/self/environ').close()"
    )
    job = bare.train(script, HyperParameters={"to": "/opt/mlx"}, Environment={"A": "/opt/ml/model"})
    assert job["TrainingJobStatus"] == "Completed", job
    assert bare.log("TrainingJobs", job["TrainingJobName"]) == [
        f"{bare.state}/jobs/TrainingJob/{job['TrainingJobName']}/algo-1/ml/model /opt/mlx"
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"ResourceConfig": CLUSTER},
        {"InputDataConfig": [channel("sm_drivers", f"s3://{BUCKET}/data/train/")]},
    ],
    ids=["several hosts", "the SDK's drivers"],
)
def test_without_namespaces_what_needs_them_is_refused(bare: Cloud, changes: dict[str, Any]) -> None:
    with pytest.raises(ClientError, match=r"ValidationException.*user namespaces, and here .*unshare"):
        bare.train("", **changes)


def test_a_job_that_takes_too_much_memory(cloud: Cloud) -> None:
    script = "import time; held = bytearray(b'x') * (700 << 20); time.sleep(60)"
    job = cloud.train(script)
    assert job["FailureReason"].startswith("ClientError: Please use an instance type with more memory")
    assert "0.5 GiB (--job-memory)" in job["FailureReason"]
