"""Data capture: requests and answers of an endpoint as JSON lines in S3, in AWS's format.

    s3://BUCKET/PREFIX/ENDPOINT/VARIANT/yyyy/mm/dd/hh/mm-ss-mmm-UUID.jsonl

Lines are kept in memory and uploaded every half minute; a killed service loses those that it had.
https://docs.aws.amazon.com/sagemaker/latest/dg/model-monitor-data-capture-endpoint.html
"""

import base64
import json
import logging
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction

from local_sagemaker.api.protocol import Document
from local_sagemaker.aws.s3 import S3, TransferError
from local_sagemaker.serving.client import Answer
from local_sagemaker.serving.sampling import Sampler

log = logging.getLogger(__name__)

EVERY_S = 30.0
MOST_BYTES = 64 << 20
"""What is kept in memory, also while S3 does not take it; what comes beyond it is not captured."""


@dataclass(frozen=True)
class _Event:
    """One captured invocation."""

    at: float
    members: Document
    given: bytes
    given_type: str
    answer: bytes
    answer_type: str

    def size(self) -> int:
        return len(self.given) + len(self.answer)


class Capture:
    """Captures for one endpoint as its configuration says. Methods may be called from any thread."""

    def __init__(self, s3: S3, endpoint: str, config: Document) -> None:
        """`config` is a DataCaptureConfig."""
        self._s3 = s3
        self._where = f"{config['DestinationS3Uri'].rstrip('/')}/{endpoint}"
        self._sampler = Sampler(Fraction(config["InitialSamplingPercentage"], 100))
        modes = {option["CaptureMode"] for option in config["CaptureOptions"]}
        self._input = bool(modes & {"Input", "InputAndOutput"})
        self._output = bool(modes & {"Output", "InputAndOutput"})
        types = config.get("CaptureContentTypeHeader", {})
        self._encodings = {
            **dict.fromkeys(types.get("CsvContentTypes", []), "CSV"),
            **dict.fromkeys(types.get("JsonContentTypes", []), "JSON"),
        }
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._events: dict[str, list[_Event]] = {}
        self._bytes = 0
        self._lost = 0
        self._sent_at = time.monotonic()

    def add(
        self,
        variant: str,
        members: Document,
        headers: Mapping[str, str],
        body: bytes,
        answer: Answer,
    ) -> None:
        """Keep an invocation where it is one of the sample."""
        if not self._sampler.take():
            return
        event = _Event(
            time.time(),
            members,
            body if self._input else b"",
            headers.get("content-type", ""),
            answer.content if self._output else b"",
            answer.headers.get("content-type", ""),
        )
        with self._lock:
            if self._bytes + event.size() > MOST_BYTES:
                self._lost += 1
                return
            self._bytes += event.size()
            self._events.setdefault(variant, []).append(event)

    def send(self, *, final: bool = False) -> None:
        """Upload what is there when it is time, at the end in any case. A failure is logged, and tried again."""
        if not final and time.monotonic() - self._sent_at < EVERY_S:
            return
        with self._sending:
            self._sent_at = time.monotonic()
            with self._lock:
                events, self._events, lost, self._lost = self._events, {}, self._lost, 0
            if lost:
                log.warning(
                    "%s: %d invocations were not captured, S3 did not take those before", self._where, lost
                )
            for variant, some in events.items():
                try:
                    self._upload(variant, some)
                except TransferError as error:
                    log.warning("%d captured invocations were not uploaded: %s", len(some), error)
                    with self._lock:
                        self._events[variant] = some + self._events.get(variant, [])
                    continue
                with self._lock:
                    self._bytes -= sum(event.size() for event in some)

    def _upload(self, variant: str, events: list[_Event]) -> None:
        """One object for each hour. Raises TransferError."""
        hours: dict[str, list[_Event]] = {}
        for event in events:
            hours.setdefault(f"{datetime.fromtimestamp(event.at, UTC):%Y/%m/%d/%H}", []).append(event)
        for hour, some in hours.items():
            first = datetime.fromtimestamp(some[0].at, UTC)
            name = f"{first:%M-%S}-{first.microsecond // 1000:03d}-{uuid.uuid4()}.jsonl"
            lines = "".join(json.dumps(self._record(event)) + "\n" for event in some)
            self._s3.upload_bytes(
                lines.encode(), f"{self._where}/{variant}/{hour}/{name}", "application/jsonlines"
            )

    def _record(self, event: _Event) -> Document:
        captured: Document = {}
        if self._input:
            captured["endpointInput"] = self._side("INPUT", event.given, event.given_type)
        if self._output:
            captured["endpointOutput"] = self._side("OUTPUT", event.answer, event.answer_type)
        moment = datetime.fromtimestamp(event.at, UTC)
        metadata = {"eventId": str(uuid.uuid4()), "inferenceTime": f"{moment:%Y-%m-%dT%H:%M:%SZ}"}
        if identifier := event.members.get("InferenceId"):
            metadata["inferenceId"] = identifier
        return {"captureData": captured, "eventMetadata": metadata, "eventVersion": "0"}

    def _side(self, mode: str, data: bytes, content_type: str) -> Document:
        """Text of the content types that the configuration names, base64 of all others."""
        encoding = self._encodings.get(content_type.partition(";")[0].strip(), "BASE64")
        try:
            text = base64.b64encode(data).decode() if encoding == "BASE64" else data.decode()
        except UnicodeDecodeError:
            encoding, text = "BASE64", base64.b64encode(data).decode()
        return {"observedContentType": content_type, "mode": mode, "data": text, "encoding": encoding}
