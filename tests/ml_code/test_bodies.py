"""What a request's body may hold."""

import json
from base64 import b64encode
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.bodies import JSON, LINES, MAX_INSTANCES, BodyError, UnsupportedMediaTypeError, images_of
from data.decoding import UnreadableImageError


@pytest.fixture(scope="module")
def image(digits: Path) -> bytes:
    return (digits / "test/3/000.jpg").read_bytes()


def instance(content: bytes) -> dict[str, str]:
    return {"b64": b64encode(content).decode()}


def test_one_image(image: bytes) -> None:
    assert images_of(image, "image/png") == image
    assert images_of(image, "") == image
    assert images_of(image, "application/octet-stream; x=y") == image
    assert images_of(json.dumps(instance(image)).encode(), "application/json; charset=utf-8") == image
    assert images_of(json.dumps({"image_bytes": instance(image)}).encode(), JSON) == image


def test_many(image: bytes) -> None:
    body = {"instances": [instance(image), {"image_bytes": instance(image), "key": 1}]}
    assert images_of(json.dumps(body).encode(), JSON) == [image, image]
    lines = "\n".join(json.dumps(instance(image)) for _ in range(3))
    assert images_of(lines.encode(), LINES) == [image] * 3
    assert images_of(f"{lines}\r\n\n".encode(), LINES) == [image] * 3
    assert images_of(json.dumps({"instances": [instance(image)]}).encode(), JSON) == [image]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is not JSON"),
        (b"[", "the body is not JSON"),
        (b"\xff\xfe", "the body is not JSON"),
        (b"[" * 100_000, "the body is not JSON"),
        (b"1" * 5000, "the body is not JSON"),
        (b"null", "the body is not .*addresses are not fetched"),
        (b'{"url": "http://localhost/"}', "the body is not .*addresses are not fetched"),
        (b'{"instances": {}}', "there are no instances"),
        (b'{"instances": []}', "there are no instances"),
        (b'{"instances": [{"b64": 1}]}', "instance 0 is not"),
        (b'{"instances": [{"b64": "?"}]}', "the b64 of instance 0 is not base64"),
        ('{"b64": "\u00e4"}'.encode(), "the b64 of the body is not base64"),
        (b'{"instances": [{"b64": "AAAA"}]}', "instance 0 is none: the content is no JPEG"),
        (json.dumps({"instances": [1] * (MAX_INSTANCES + 1)}).encode(), "send at most 10,000"),
    ],
)
def test_json_that_is_no_request(body: bytes, message: str) -> None:
    with pytest.raises(BodyError, match=message) as raised:
        images_of(body, JSON)
    assert raised.value.status == 400
    assert len(str(raised.value)) < 300


def test_the_instance_at_fault_is_named(image: bytes) -> None:
    lines = [json.dumps(instance(content)) for content in (image, b"\x89PNG\r\n\x1a\n")]
    with pytest.raises(UnreadableImageError, match=r"^instance 1: it is no"):
        images_of("\n".join(lines).encode(), LINES)
    with pytest.raises(BodyError, match="line 2 is not JSON"):
        images_of(f"{lines[0]}\n{{".encode(), LINES)


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=200) | st.text(max_size=200).map(str.encode),
    st.sampled_from([JSON, LINES, "image/jpeg", "", "text/plain"]) | st.text(max_size=30),
)
def test_no_bytes_raise_anything_else(body: bytes, content_type: str) -> None:
    with pytest.raises((BodyError, UnreadableImageError)):
        images_of(body, content_type)


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda child: st.lists(child) | st.dictionaries(st.sampled_from(["instances", "b64", "x"]), child),
        max_leaves=10,
    )
)
def test_no_json_raises_anything_else(document: object) -> None:
    for body, content_type in ((json.dumps(document), JSON), (json.dumps({"instances": document}), JSON)):
        with pytest.raises((BodyError, UnreadableImageError)):
            images_of(body.encode(), content_type)


def test_other_types_are_named() -> None:
    with pytest.raises(UnsupportedMediaTypeError, match="content type text/plain is not supported") as raised:
        images_of(b"x", "text/plain; charset=utf-8")
    assert raised.value.status == 415
