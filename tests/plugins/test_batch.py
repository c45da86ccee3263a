"""A transform job's answers in a real S3, held against the report's."""

import base64
import json
from typing import Any

import pytest
from airflow.providers.amazon.aws.hooks.s3 import S3Hook

from evergreen import batch, smoke
from evergreen.plan import Plan
from scripts.local_stack import BUCKET, Cloud
from tests.plugins.test_requests import plan

FILES = {"a/1.jpg": ("a", 0.9), "b/ 2 ä.jpg": ("b", 0.6)}
ASSESS = f"s3://{BUCKET}/batch-test/assess"


@pytest.fixture
def s3(cloud: Cloud) -> S3Hook:
    hook = S3Hook(aws_conn_id="aws_default")
    rows = [
        {"file": file, "label": "a", "prediction": label, "probability": probability}
        for file, (label, probability) in FILES.items()
    ]
    put(hook, f"{ASSESS}/predictions.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return hook


def put(s3: S3Hook, uri: str, text: str) -> None:
    bucket, key = s3.parse_s3_url(uri)
    s3.load_string(text, key, bucket, replace=True)


def planned(folder: str, **transform: Any) -> Plan:
    """A plan whose job has written below a folder of its own."""
    return plan(deployment={"transform": transform}).model_copy(update={"bucket": BUCKET, "run_id": folder})


def answers(s3: S3Hook, made: Plan, given: dict[str, tuple[str, float]]) -> None:
    for file, (label, probability) in given.items():
        text = json.dumps({"label": label, "probability": probability})
        put(s3, f"{made.run_uri}/batch/{file}.out", text)


def test_every_image_answered_as_in_the_report_is_counted(s3: S3Hook) -> None:
    made = planned("good")
    answers(s3, made, {"a/1.jpg": ("a", 0.901), "b/ 2 ä.jpg": ("b", 0.6)})
    result = batch.check(s3, made, ASSESS)
    assert result == {
        "images": 2, "output": f"{made.run_uri}/batch", "largest_difference": pytest.approx(0.001),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"a/1.jpg": ("a", 0.9)}, "1 of 2 images have no answer; the first is b/ 2 ä.jpg"),
        (
            {**FILES, "a/1.jpg": ("b", 0.9)},
            r"a/1.jpg is b \(0.9000\) to the transform job, a \(0.9000\) in the report",
        ),
        ({**FILES, "a/1.jpg": ("a", 0.92)}, r"a/1.jpg is a \(0.9200\)"),
    ],
)
def test_another_answer_or_none_is_one_sentence(
    s3: S3Hook, given: dict[str, tuple[str, float]], sentence: str
) -> None:
    made = planned(f"bad{abs(hash(sentence))}")
    answers(s3, made, given)
    with pytest.raises(batch.BatchError, match=sentence):
        batch.check(s3, made, ASSESS)


def test_what_is_no_answer_is_an_error(s3: S3Hook) -> None:
    made = planned("nothing")
    answers(s3, made, FILES)
    put(s3, f"{made.run_uri}/batch/a/1.jpg.out", "<html>")
    with pytest.raises(smoke.AnswerError):
        batch.check(s3, made, ASSESS)


def test_images_become_lines_of_json_and_joined_answers_are_read(s3: S3Hook) -> None:
    made = planned("lines", split_type="Line")
    folder = f"s3://{BUCKET}/batch-test/images/"
    for file in FILES:
        put(s3, f"{folder}{file}", f"bytes of {file}")
    batch.write_lines(s3, folder, list(FILES), f"{made.run_uri}/batch-input/")
    bucket, key = s3.parse_s3_url(f"{made.run_uri}/batch-input/")
    (name,) = s3.list_keys(bucket, prefix=key)
    rows = [json.loads(line) for line in s3.read_key(name, bucket).splitlines()]
    assert {row["file"]: base64.b64decode(row["b64"]).decode() for row in rows} == {
        file: f"bytes of {file}" for file in FILES
    }
    joined = [
        {"file": file, "SageMakerOutput": {"label": label, "probability": probability}}
        for file, (label, probability) in FILES.items()
    ]
    output = f"{made.run_uri}/batch/part-00000.jsonl.out"
    put(s3, output, "".join(json.dumps(row) + "\n" for row in joined))
    assert batch.check(s3, made, ASSESS)["images"] == 2
    put(s3, output, "".join(json.dumps(row) + "\n" for row in [*joined, joined[0]]))
    with pytest.raises(batch.BatchError, match=r"a/1\.jpg is answered twice"):
        batch.check(s3, made, ASSESS)


def test_the_objects_of_a_prefix_are_counted(s3: S3Hook) -> None:
    made = planned("prefix", s3_uri=f"s3://{BUCKET}/batch-test/mine/")
    for name in ("1", "2"):
        put(s3, f"s3://{BUCKET}/batch-test/mine/{name}", "x")
    answers(s3, made, {"1": ("a", 1.0)})
    with pytest.raises(batch.BatchError, match=r"1 of 2 objects below .* are answered"):
        batch.check(s3, made, ASSESS)
    answers(s3, made, {"2": ("a", 1.0)})
    assert batch.check(s3, made, ASSESS) == {
        "images": 2, "output": f"{made.run_uri}/batch", "largest_difference": None,
    }  # fmt: skip
