"""Requests against the service model, in AWS's words."""

import json
from pathlib import Path
from typing import Any

import pytest
from botocore.model import ServiceModel

from local_sagemaker.api import shapes
from local_sagemaker.api.protocol import ApiError, Protocol, load_json
from local_sagemaker.api.validation import WrongTypeError, moment, taken, violations

MEMBERS = {
    "Name": {"type": "string", "max": 5, "pattern": "[a-z]*"},
    "Kind": {"type": "string", "enum": ["A", "B"]},
    "Kinds": {"type": "list", "member": {"shape": "Kind"}, "max": 2},
    "Pairs": {"type": "list", "member": {"shape": "Pair"}},
    "Pair": {"type": "structure", "required": ["Key"], "members": {"Key": {"shape": "Name"}}},
    "Map": {"type": "map", "key": {"shape": "Name"}, "value": {"shape": "Size"}},
    "Deep": {"type": "map", "key": {"shape": "Name"}, "value": {"shape": "Pair"}},
    "Size": {"type": "integer", "min": 1, "max": 9},
    "Count": {"type": "long"},
    "Ratio": {"type": "double", "min": 0},
    "Flag": {"type": "boolean"},
    "When": {"type": "timestamp"},
    "Bytes": {"type": "blob"},
    "Secret": {"type": "string", "sensitive": True, "max": 3},
    "Tag": {"type": "string", "pattern": r"([\p{L}\p{Z}\p{N}_.:/=+\-@]*)"},
    "Table": {"type": "string", "pattern": r"[\u0020-\uD7FF\uE000-\uFFFD\uD800\uDC00-\uDBFF\uDFFF\t]*"},
    "One": {
        "type": "structure",
        "union": True,
        "members": {"A": {"shape": "Name"}, "B": {"shape": "Name"}},
    },
    "Any": {"type": "structure", "document": True, "members": {}},
}
REQUEST = {"type": "structure", "members": {name: {"shape": name} for name in MEMBERS}}
SHAPE: Any = ServiceModel({"metadata": {}, "shapes": {**MEMBERS, "Request": REQUEST}}).shape_for("Request")


def sentence(**members: Any) -> list[str]:
    return list(violations(SHAPE, members))


@pytest.mark.parametrize(
    "members",
    [
        {"Name": "abc", "Kind": "A", "Kinds": ["A", "B"], "Pairs": [{"Key": "k"}], "Map": {"k": 9}},
        {"Size": 3.0, "Count": -(2**63), "Ratio": 1e300, "Flag": False, "Bytes": "aGk=", "Deep": {}},
        {"When": 0}, {"When": 1.5e9}, {"When": "2026-11-24T10:00:00Z"}, {"When": "2026-11-24T10:00:00.5+01:00"},
        {"Tag": "Größe 大 ٣"}, {"Tag": ""}, {"Table": "a\t\U0001f600"}, {"One": {"B": "b"}},
        {"Any": {"x": [1, None, {"y": []}]}}, {"Any": "text"},
        {"Name": None, "Map": None, "Unknown": object()},
    ],
)  # fmt: skip
def test_valid_requests(members: Any) -> None:
    assert sentence(**members) == []


LETTERS = "Member must satisfy regular expression pattern: [a-z]*"
SHORT = "Member must have length less than or equal to 5"
NULL = "Member must not be null"


@pytest.mark.parametrize(
    ("members", "value", "path", "constraints"),
    [
        ({"Name": "ABCDEF"}, "'ABCDEF'", "name", [SHORT, LETTERS]),
        ({"Name": "ab\n"}, "'ab\n'", "name", [LETTERS]),
        ({"Kind": "C"}, "'C'", "kind", ["Member must satisfy enum value set: [A, B]"]),
        (
            {"Kinds": ["A", "C", "C"]},
            "'[A, C, C]'",
            "kinds",
            [
                "Member must have length less than or equal to 2",
                "Member must satisfy constraint: [Member must satisfy enum value set: [A, B]]",
            ],
        ),
        ({"Kinds": ["A", None]}, "'[A, null]'", "kinds", [f"Member must satisfy constraint: [{NULL}]"]),
        ({"Pairs": [{"Key": "k"}, {}]}, "null", "pairs.2.member.key", [NULL]),
        ({"Pairs": [{"Key": None}]}, "null", "pairs.1.member.key", [NULL]),
        (
            {"Map": {"k": 10}},
            "'{k=10}'",
            "map",
            [
                "Map value must satisfy constraint: [Member must have value less than or equal to 9, "
                "Member must have value greater than or equal to 1]"
            ],
        ),
        ({"Map": {"K": 1}}, "'{K=1}'", "map", [f"Map keys must satisfy constraint: [{SHORT}, {LETTERS}]"]),
        ({"Deep": {"k": {"Key": "1"}}}, "'1'", "deep.k.member.key", [LETTERS]),
        ({"Size": 0}, "'0'", "size", ["Member must have value greater than or equal to 1"]),
        (
            {"Tag": "a#b"},
            "'a#b'",
            "tag",
            [r"Member must satisfy regular expression pattern: ([\p{L}\p{Z}\p{N}_.:/=+\-@]*)"],
        ),
    ],
)
def test_violations(members: Any, value: str, path: str, constraints: list[str]) -> None:
    assert sentence(**members) == [
        f"Value {value} at '{path}' failed to satisfy constraint: {constraint}" for constraint in constraints
    ]


def test_a_secret_is_not_repeated() -> None:
    (said,) = sentence(Secret="hidden")
    assert "hidden" not in said
    assert said.startswith("Value at 'secret' failed to satisfy constraint: Member must have length")


def test_a_union_has_one_member() -> None:
    said = ["Value at 'one' failed to satisfy constraint: Exactly one member must be set"]
    assert sentence(One={}) == sentence(One={"A": "a", "B": "b"}) == said


@pytest.mark.parametrize(
    "members",
    [
        {"Name": 1}, {"Name": True}, {"Name": []}, {"Name": "\ud800"}, {"Name": "a\0"},
        {"Kinds": "A"}, {"Kinds": {}}, {"Kinds": [1]},
        {"Pairs": ["k"]}, {"Pair": []}, {"Map": []}, {"Map": {"k": "1"}}, {"Map": {"\udfff": 1}}, {"Size": "1"},
        {"Size": 1.5}, {"Size": True}, {"Size": 2**31}, {"Count": 2**63}, {"Ratio": "1"}, {"Ratio": float("inf")},
        {"Ratio": 10**400}, {"Flag": 1}, {"Flag": "true"}, {"When": True}, {"When": "yesterday"}, {"When": 1e300},
        {"Bytes": "?"}, {"Bytes": 1}, {"One": "A"},
    ],
)  # fmt: skip
def test_wrong_types(members: Any) -> None:
    with pytest.raises(WrongTypeError, match="cannot be converted to"):
        sentence(**members)


def test_what_is_taken() -> None:
    request = {
        "When": "2026-11-24T10:00:00+01:00",
        "Size": 3.0,
        "Name": None,
        "Unknown": 1,
        "Pairs": [{"Key": "k", "X": 1}],
    }
    assert taken(SHAPE, request) == {
        "When": moment("2026-11-24T09:00:00"), "Size": 3, "Pairs": [{"Key": "k"}]
    }  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff{}",
        b"[" * 100_000,
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b"nothing",
        b'{"a": ' + b"1" * 5000 + b"}",
    ],
)
def test_what_is_not_json(body: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        load_json(body)
    assert refused.value.code == "SerializationException"


def test_a_long_list_of_wrong_values_has_a_short_answer() -> None:
    assert len(sentence(Kinds=["x" * 1000] * 1000)[0]) < 5000


def test_every_pattern_of_the_surface_compiles(tmp_path: Path) -> None:
    """And an example that is valid, so that no pattern refuses everything."""
    model, known = shapes.load(
        "sagemaker", frozenset({"CreateTrainingJob", "CreateModelPackage", "AddTags"}), tmp_path
    )
    assert "CreateNotebookInstance" in known
    patterns = [model.shape_for(name) for name in model.shape_names]
    for shape in patterns:
        if shape.metadata.get("pattern"):
            list(violations(shape, "a"))
    for name, value in (
        ("TagKey", "Größe 1"),
        ("CustomerMetadataValue", "v1.2 ü"),
        ("ModelPackageSourceUri", "s3://b/ü"),
        ("EntityDescription", "a + b (c)"),
    ):
        assert list(violations(model.shape_for(name), value)) == []


def test_the_reduced_model_is_kept_and_replaced(tmp_path: Path) -> None:
    shapes.load("sagemaker", frozenset({"ListTags"}), tmp_path)
    (first,) = tmp_path.iterdir()
    shapes.load("sagemaker", frozenset({"ListTags"}), tmp_path)
    assert list(tmp_path.iterdir()) == [first]
    shapes.load("sagemaker", frozenset({"AddTags"}), tmp_path)
    (second,) = tmp_path.iterdir()
    assert second != first


def test_a_request_of_the_runtime(tmp_path: Path) -> None:
    runtime = Protocol("sagemaker-runtime", ["InvokeEndpointAsync"], tmp_path)
    headers = {"x-amzn-sagemaker-inputlocation": "s3://b/k", "x-amzn-sagemaker-requestttlseconds": "60"}
    parsed = runtime.parse_rest("InvokeEndpointAsync", {"EndpointName": "e"}, headers)
    assert parsed == {"EndpointName": "e", "InputLocation": "s3://b/k", "RequestTTLSeconds": 60}
    for wrong in ({"x-amzn-sagemaker-requestttlseconds": "5"}, {"x-amzn-sagemaker-requestttlseconds": "x"}):
        with pytest.raises(ApiError) as refused:
            runtime.parse_rest("InvokeEndpointAsync", {"EndpointName": "e"}, headers | wrong)
        assert refused.value.code == "ValidationError"


def test_nesting_ends(tmp_path: Path) -> None:
    expression: Any = {}
    for _ in range(300):
        expression = {"SubExpressions": [expression]}
    protocol = Protocol("sagemaker", ["Search"], tmp_path)
    with pytest.raises(ApiError, match="nested too deep"):
        protocol.parse(
            "Search", json.loads(json.dumps({"Resource": "Model", "SearchExpression": expression}))
        )
