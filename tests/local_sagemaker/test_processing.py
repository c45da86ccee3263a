"""Processing jobs: inputs, paths, outputs."""

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local_sagemaker.cloud_client import BUCKET, PLAIN, ROLE, WARM, Cloud, unique, wait

SCRIPT = """
import json, os, sys
from pathlib import Path
source, target = map(Path, sys.argv[1:3])
found = sorted(str(p.relative_to(source)) for p in source.rglob("*") if p.is_file())
(target / "deep").mkdir()
(target / "deep/found.json").write_text(json.dumps({"found": found, "mode": os.environ["MODE"]}))
config = json.loads((source.parents[2] / "config/processingjobconfig.json").read_text())
resources = json.loads((source.parents[2] / "config/resourceconfig.json").read_text())
assert resources["current_host"] in resources["hosts"]
print("job", config["ProcessingJobName"], os.environ["FOLDER"] == str(source))
if os.environ["MODE"] == "fail":
    sys.exit("planted")
"""


def s3_input(name: str, uri: str, data_type: str = "S3Prefix") -> dict[str, Any]:
    local = f"/opt/ml/processing/input/{name}"
    source = {"S3Uri": uri, "LocalPath": local, "S3DataType": data_type, "S3InputMode": "File"}
    return {"InputName": name, "S3Input": source}


def process(cloud: Cloud, mode: str = "good", **changes: Any) -> dict[str, Any]:
    name = unique("process")
    cloud.put(f"code/{name}/run.py", SCRIPT)
    for key in ("x.txt", "deep/y.txt"):
        cloud.put(f"processing/{key}", key)
    data = "/opt/ml/processing/input/data"
    output = {
        "S3Uri": f"s3://{BUCKET}/processed/{name}",
        "LocalPath": "/opt/ml/processing/output",
        "S3UploadMode": "EndOfJob",
    }
    request = {
        "ProcessingJobName": name,
        "AppSpecification": {
            "ImageUri": PLAIN,
            "ContainerEntrypoint": ["python3", "/opt/ml/processing/input/code/run.py"],
            "ContainerArguments": [data, "/opt/ml/processing/output"],
        },
        "ProcessingInputs": [
            s3_input("code", f"s3://{BUCKET}/code/{name}"),
            s3_input("data", f"s3://{BUCKET}/processing/"),
        ],
        "ProcessingOutputConfig": {"Outputs": [{"OutputName": "report", "S3Output": output}]},
        "ProcessingResources": {
            "ClusterConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 10}
        },
        "Environment": {"MODE": mode, "FOLDER": data},
        "RoleArn": ROLE,
        **changes,
    }
    cloud.sagemaker.create_processing_job(**request)
    return wait(
        lambda: cloud.sagemaker.describe_processing_job(ProcessingJobName=name), "ProcessingJobStatus"
    )


def result(cloud: Cloud, job: dict[str, Any]) -> dict[str, Any]:
    uri = f"s3://{BUCKET}/processed/{job['ProcessingJobName']}/deep/found.json"
    return dict(json.loads(cloud.read(uri)))


def test_a_script_in_the_container_is_forked_from_the_warm_process(cloud: Cloud) -> None:
    """The warm image's modules are there before the script imports anything."""
    name = unique("warm")
    cloud.put(f"code/{name}/run.py", "import sys; print('yaml' in sys.modules, sys.argv[0], __file__)")
    script = "/opt/ml/processing/input/code/run.py"
    job = process(
        cloud,
        AppSpecification={"ImageUri": WARM, "ContainerEntrypoint": ["python3", script]},
        ProcessingInputs=[s3_input("code", f"s3://{BUCKET}/code/{name}")],
        ProcessingOutputConfig={"Outputs": []},
    )
    assert cloud.log("ProcessingJobs", job["ProcessingJobName"]) == [f"True {script} {script}"]


def test_inputs_paths_and_outputs(cloud: Cloud) -> None:
    job = process(cloud)
    assert job["ProcessingJobStatus"] == "Completed"
    assert job["ProcessingEndTime"] >= job["ProcessingStartTime"]
    assert result(cloud, job) == {"found": ["deep/y.txt", "x.txt"], "mode": "good"}
    name = job["ProcessingJobName"]
    assert cloud.log("ProcessingJobs", name) == [f"job {name} True"]
    listed = cloud.sagemaker.list_processing_jobs(NameContains=name, StatusEquals="Completed")
    assert [item["ProcessingJobName"] for item in listed["ProcessingJobSummaries"]] == [name]


def test_a_failed_job_says_why_and_uploads_its_outputs(cloud: Cloud) -> None:
    job = process(cloud, "fail")
    assert job["ProcessingJobStatus"] == "Failed"
    assert job["FailureReason"].endswith("planted, exit code: 1")
    assert result(cloud, job)["mode"] == "fail"


def test_a_manifest(cloud: Cloud) -> None:
    name = unique("code")
    cloud.put(f"code/{name}/run.py", SCRIPT)
    manifest = cloud.put(
        "manifests/p.manifest", json.dumps([{"prefix": f"s3://{BUCKET}/processing/"}, "deep/y.txt"])
    )
    inputs = [s3_input("code", f"s3://{BUCKET}/code/{name}"), s3_input("data", manifest, "ManifestFile")]
    assert result(cloud, process(cloud, ProcessingInputs=inputs))["found"] == ["deep/y.txt"]


def test_what_is_not_done_is_refused(cloud: Cloud) -> None:
    with pytest.raises(ClientError, match="local_sagemaker does not do"):
        process(cloud, ProcessingInputs=[s3_input("x", "s3://b/p") | {"AppManaged": True}])


def test_paths_outside_the_job_are_refused(cloud: Cloud) -> None:
    item = s3_input("x", f"s3://{BUCKET}/processing/")
    item["S3Input"]["LocalPath"] = "/tmp/x"
    with pytest.raises(ClientError, match="not below /opt/ml/"):
        process(cloud, ProcessingInputs=[item])
