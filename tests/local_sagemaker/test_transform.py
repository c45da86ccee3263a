"""Batch transform: records, batches, filters, joins and several instances."""

import gzip
import itertools
import json
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from local_sagemaker.jobs.records import Path, assemble, batches, split
from tests.local_sagemaker.cloud_client import BUCKET, ROLE, Cloud, Json, archive, unique, wait

CSV = "text/csv"
LINES = "application/jsonlines"


@pytest.fixture(scope="module")
def model(cloud: Cloud) -> str:
    """A model that record_server.py serves."""
    name = unique("records")
    uri = cloud.put(f"models/{name}/model.tar.gz", archive({"nothing.txt": ""}))
    container = {"Image": "test/records:1", "ModelDataUrl": uri}
    cloud.sagemaker.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=ROLE)
    return name


def transform(
    cloud: Cloud,
    model: str,
    objects: dict[str, str | bytes],
    content_type: str = CSV,
    source: Json | None = None,
    **changes: Any,
) -> Json:
    """Run a job over objects whose lines are records; its description with the `objects` that it wrote."""
    name = unique("transform")
    for key, content in objects.items():
        cloud.put(f"in/{name}/{key}", content)
    where = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/in/{name}/"}}
    target = {"S3OutputPath": f"s3://{BUCKET}/out/{name}", "Accept": content_type, "AssembleWith": "Line"}
    request: Json = {
        "TransformJobName": name,
        "ModelName": model,
        "TransformInput": {"DataSource": where, "ContentType": content_type, "SplitType": "Line", **(source or {})},
        "TransformOutput": target,
        "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
        **changes,
    }  # fmt: skip
    cloud.sagemaker.create_transform_job(**request)
    job = wait(lambda: cloud.sagemaker.describe_transform_job(TransformJobName=name), "TransformJobStatus")
    written = {
        key: cloud.read(f"s3://{BUCKET}/out/{name}/{key}").decode() for key in cloud.keys(f"out/{name}/")
    }
    return {**job, "objects": written}


ROWS = "7,1,2\n8,3,4\n9,5,6\n"
RECORDS = "".join(json.dumps({"id": f"r{n}", "features": [n, n]}) + "\n" for n in (1, 2))


@pytest.mark.parametrize(
    ("changes", "written"),
    [
        ({}, "10,3\n15,3\n20,3\n"),
        ({"BatchStrategy": "SingleRecord"}, "10,1\n15,1\n20,1\n"),
        ({"source": {"SplitType": "None"}}, "10,3\n15,3\n20,3\n"),
        ({"MaxPayloadInMB": 0}, "10,3\n15,3\n20,3\n"),
        ({"MaxConcurrentTransforms": 3, "BatchStrategy": "SingleRecord"}, "10,1\n15,1\n20,1\n"),
        ({"Environment": {"PARAMETERS": '{"BatchStrategy": "SingleRecord"}'}}, "10,1\n15,1\n20,1\n"),
        ({"DataProcessing": {"InputFilter": "$[1:]"}}, "3,3\n7,3\n11,3\n"),
        ({"DataProcessing": {"JoinSource": "Input"}}, "7,1,2,10,3\n8,3,4,15,3\n9,5,6,20,3\n"),
        (
            {"DataProcessing": {"InputFilter": "$[1:]", "JoinSource": "Input", "OutputFilter": "$[0,-2]"}},
            "7,3\n8,7\n9,11\n",
        ),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_csv(cloud: Cloud, model: str, changes: Json, written: str) -> None:
    job = transform(cloud, model, {"rows.csv": ROWS}, **changes)
    assert (job["TransformJobStatus"], job["objects"]) == ("Completed", {"rows.csv.out": written})


@pytest.mark.parametrize(
    ("processing", "written"),
    [
        ({"InputFilter": "$.features"}, [{"sum": 2, "of": 2}, {"sum": 4, "of": 2}]),
        ({"InputFilter": "$.features", "OutputFilter": "$.sum"}, [2, 4]),
        (
            {"InputFilter": "$.features", "JoinSource": "Input", "OutputFilter": "$['id','SageMakerOutput']"},
            [{"id": f"r{n}", "SageMakerOutput": {"sum": 2 * n, "of": 2}} for n in (1, 2)],
        ),
    ],
    ids=["input", "output", "join"],
)
def test_json_lines(cloud: Cloud, model: str, processing: Json, written: list[Any]) -> None:
    objects = transform(cloud, model, {"r.jsonl": RECORDS}, LINES, DataProcessing=processing)["objects"]
    assert [json.loads(line) for line in objects["r.jsonl.out"].splitlines()] == written


def test_an_input_that_is_no_object_is_joined_under_a_name_of_its_own(cloud: Cloud, model: str) -> None:
    job = transform(cloud, model, {"r.jsonl": "[1,2]\n"}, LINES, DataProcessing={"JoinSource": "Input"})
    assert json.loads(job["objects"]["r.jsonl.out"]) == {
        "SageMakerInput": [1, 2],
        "SageMakerOutput": {"sum": 3, "of": 1},
    }


def test_compressed_input(cloud: Cloud, model: str) -> None:
    objects: dict[str, str | bytes] = {"a.csv.gz": gzip.compress(ROWS.encode()), "b.csv": "1,1"}
    job = transform(cloud, model, objects, source={"CompressionType": "Gzip"})
    assert job["TransformJobStatus"] == "Failed"
    assert "b.csv: Not a gzipped file" in job["FailureReason"]
    assert job["objects"] == {"a.csv.gz.out": "10,3\n15,3\n20,3\n"}


def test_two_instances_share_the_objects_and_one_bad_record_spoils_its_own_alone(
    cloud: Cloud, model: str
) -> None:
    objects: dict[str, str | bytes] = {f"{number}.csv": f"{number}" for number in range(4)} | {
        "9.csv": "1\nbad\n"
    }
    resources = {"InstanceType": "ml.m5.large", "InstanceCount": 2}
    job = transform(cloud, model, objects, TransformResources=resources, BatchStrategy="SingleRecord")
    assert job["TransformJobStatus"] == "Failed"
    assert job["FailureReason"].endswith("9.csv: status 400: a bad record")
    assert job["objects"] == {f"{number}.csv.out": f"{number},1\n" for number in range(4)}
    group, prefix = "/aws/sagemaker/TransformJobs", f"{job['TransformJobName']}/"
    streams = cloud.logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=prefix)["logStreams"]
    assert len(streams) == 2
    assert cloud.log("TransformJobs", job["TransformJobName"])[0] == "batch true SingleRecord"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"source": {"SplitType": "RecordIO"}}, "does not do RecordIO"),
        ({"DataProcessing": {"InputFilter": "features"}}, "the JSONPath features does not begin with [$]"),
        ({"DataProcessing": {"InputFilter": "$..x"}}, "the JSONPath .* has something other .* at [.][.]x"),
        ({"DataProcessing": {"JoinSource": "Input"}, "content_type": "image/png"}, "ContentType of application"),
        ({"DataProcessing": {"InputFilter": "$[1]"}, "source": {"SplitType": "None"}}, "needs the .*SplitType Line"),
        ({"MaxConcurrentTransforms": 20, "MaxPayloadInMB": 6}, "is over 100 MB"),
        ({"TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 9}}, "ml.m5.large for transform job"),
        ({"objects": {}}, "No S3 objects found under S3 URL"),
    ],
    ids=lambda value: "" if isinstance(value, str) else json.dumps(value),
)  # fmt: skip
def test_what_cannot_be_done_is_refused(cloud: Cloud, model: str, changes: Json, sentence: str) -> None:
    with pytest.raises(ClientError, match=sentence):
        transform(cloud, model, **{"objects": {"rows.csv": ROWS}, **changes})


def test_a_path_that_leads_nowhere_fails(cloud: Cloud, model: str) -> None:
    job = transform(cloud, model, {"rows.csv": ROWS}, DataProcessing={"InputFilter": "$.x"})
    assert job["TransformJobStatus"] == "Failed"
    assert job["FailureReason"].startswith(f"ClientError: s3://{BUCKET}/in/")
    assert job["FailureReason"].endswith('rows.csv: the JSONPath $.x leads nowhere in ["7", "1", "2"]')


def test_stop_does_not_wait_for_the_model(cloud: Cloud, model: str) -> None:
    name = unique("transform")
    uri = cloud.put(f"in/{name}/rows.csv", "slow")
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": uri}}
    cloud.sagemaker.create_transform_job(
        TransformJobName=name,
        ModelName=model,
        TransformInput={"DataSource": source},
        TransformOutput={"S3OutputPath": f"s3://{BUCKET}/out/{name}"},
        TransformResources={"InstanceType": "ml.m5.large", "InstanceCount": 1},
    )
    log = cloud.state / "jobs/TransformJob" / name / "algo-1/log"
    wait(lambda: {"line": "yes" if log.exists() and "slow" in log.read_text() else "Creating"}, "line")
    cloud.sagemaker.stop_transform_job(TransformJobName=name)
    job = wait(lambda: cloud.sagemaker.describe_transform_job(TransformJobName=name), "TransformJobStatus")
    assert job["TransformJobStatus"] == "Stopped"


# Without a service


@given(st.lists(st.binary(max_size=6)), st.sampled_from(["MultiRecord", "SingleRecord"]), st.integers(6, 20))
def test_batches_hold_every_record_once_and_keep_the_limit(
    records: list[bytes], strategy: str, limit: int
) -> None:
    runs = [records[part] for part in batches(records, strategy, limit)]
    assert [record for run in runs for record in run] == records
    assert all(len(b"\n".join(run)) <= limit for run in runs)
    if strategy == "SingleRecord":
        assert all(len(run) == 1 for run in runs)
    else:
        # No two neighbors would have fitted together.
        assert all(len(b"\n".join(a + b[:1])) > limit for a, b in itertools.pairwise(runs))


def test_a_record_over_the_limit() -> None:
    with pytest.raises(ValueError, match="record 2 has 5 bytes, over MaxPayloadInMB"):
        list(batches([b"1", b"12345"], "MultiRecord", 4))
    assert list(batches([b"1", b"12345"], "MultiRecord", 0)) == [slice(0, 2)]


def test_lines() -> None:
    assert split(b"a\r\n\n b \nc", "Line") == [b"a", b" b ", b"c"]
    assert split(b"a\nb", "None") == [b"a\nb"]
    assert assemble([b"a", b"b\n"], "Line") == b"a\nb\n"
    assert assemble([b"a", b"b"], "None") == b"ab"


DOCUMENT = {"a": {"b": [1, 2, 3, 4], "c d": None}, "id": 7}


@pytest.mark.parametrize(
    ("path", "selected"),
    [
        ("$", DOCUMENT), ("", DOCUMENT), ("$.id", 7), ("$['id']", 7), ("$.a.b[0]", 1), ("$.a.b[-1]", 4),
        ("$.a.b[0,2]", [1, 3]), ("$.a.b[1:3]", [2, 3]), ("$.a.b[:2]", [1, 2]), ("$.a.b[2:]", [3, 4]),
        ("$.a.*", [[1, 2, 3, 4], None]), ("$.a.b[*]", [1, 2, 3, 4]), ("$.a['c d']", None),
        ("$['id', 'a']", {"id": 7, "a": DOCUMENT["a"]}), ("$.a.['b','c d']", DOCUMENT["a"]),
    ],
)  # fmt: skip
def test_paths(path: str, selected: Any) -> None:
    assert Path(path).select(DOCUMENT) == selected


@pytest.mark.parametrize("path", ["$.x", "$.id.x", "$.a.b.c", "$.a[0]", "$.a.b[9]", "$.id[*]", "$['id','x']"])
def test_paths_that_lead_nowhere(path: str) -> None:
    with pytest.raises(ValueError, match="leads nowhere in"):
        Path(path).select(DOCUMENT)


@pytest.mark.parametrize("path", ["a", "$a", "$..a", "$[?(@.x)]", "$.", "$[", "$['a]", "$[1.5]", "$.a b["])
def test_paths_that_are_none(path: str) -> None:
    with pytest.raises(ValueError, match="the JSONPath"):
        Path(path)
