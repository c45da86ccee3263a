"""Images out of an endpoint's data capture: SageMaker's JSON lines, one an invocation.

    {"captureData": {"endpointInput": {"observedContentType", "mode", "data", "encoding"}, "endpointOutput": …},
     "eventMetadata": {"eventId", "inferenceTime"}, "eventVersion": "0"}

https://docs.aws.amazon.com/sagemaker/latest/dg/model-monitor-data-capture-endpoint.html
"""

from __future__ import annotations

import binascii
import json
from base64 import b64decode
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data.bodies import BodyError, images_of
from data.decoding import UnreadableImageError

_EXAMPLES = 10


@dataclass
class Captured:
    """What `sample` found; the images are in its folder."""

    files: list[str] = field(default_factory=list)
    """Names of the sampled images."""
    images: int = 0
    """In all, of which the sample was drawn."""
    requests: int = 0
    first: str | None = None
    """inferenceTime of the first and the last of them."""
    last: str | None = None
    unreadable: int = 0
    """Requests that hold no image."""
    examples: list[dict[str, str]] = field(default_factory=list)


def sample(capture: Path, folder: Path, most: int) -> Captured:
    """At most `most` of the images in the *.jsonl files below `capture`, each as likely as any other, into `folder`.

    One pass (Vitter's algorithm R), one line in memory at a time. The draw is the same for the same files.
    """
    found, draw = Captured(), np.random.default_rng(0)
    for file in sorted(capture.rglob("*.jsonl")):
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                found.requests += 1
                try:
                    images, moment = _read(line)
                except (BodyError, UnreadableImageError, ValueError) as error:
                    found.unreadable += 1
                    if len(found.examples) < _EXAMPLES:
                        where = f"{file.relative_to(capture).as_posix()}, line {number}"
                        found.examples.append({"file": where, "reason": str(error)})
                    continue
                if moment:
                    found.first, found.last = (
                        min(found.first or moment, moment),
                        max(found.last or "", moment),
                    )
                for image in images:
                    slot = found.images if found.images < most else int(draw.integers(found.images + 1))
                    found.images += 1
                    if slot < most:
                        (folder / f"{slot:05}").write_bytes(image)
    found.files = [f"{slot:05}" for slot in range(min(found.images, most))]
    return found


def _read(line: bytes) -> tuple[list[bytes], str | None]:
    """The images of one invocation, looked at but not decoded, and its time.

    :raises ValueError: or one of `images_of`'s errors, when it holds none.
    """
    try:
        event: dict[str, Any] = json.loads(line)
        given = event["captureData"].get("endpointInput")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"is no captured invocation: {type(error).__name__} {error}") from error
    if given is None:
        raise ValueError("the request was not captured: data_capture.capture_modes needs Input")
    try:
        data = given["data"]
        body = b64decode(data, validate=True) if given["encoding"] == "BASE64" else data.encode()
        images = images_of(body, given.get("observedContentType") or "")
    except (KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise ValueError(f"is no captured request: {type(error).__name__} {error}") from error
    return images if isinstance(images, list) else [images], event.get("eventMetadata", {}).get(
        "inferenceTime"
    )
