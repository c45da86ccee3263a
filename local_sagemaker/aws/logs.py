"""Shipping a process's log file to CloudWatch Logs while it grows."""

import logging
import time
from pathlib import Path

from local_sagemaker.aws.client import Aws, AwsError

log = logging.getLogger(__name__)

MAX_EVENTS = 1000
MAX_BYTES = 200_000


class Shipper:
    """Follows one file and sends its complete lines to one log stream. The file stays the record.

    A failure to ship is logged and tried again with the next lines: it must not fail the job.
    """

    def __init__(self, aws: Aws, file: Path, group: str, stream: str) -> None:
        self._aws = aws
        self._file = file
        self._group = group
        self._stream = stream
        self._offset = 0
        self._created = False

    def ship(self, final: bool = False) -> None:
        """Send what has been written since the last call; with `final`, an unfinished last line too."""
        try:
            self._create()
            while self._ship_once(final):
                pass
        except AwsError as error:
            # After a restart of the log service the stream is gone, as are its lines: they are in the file.
            self._created = False
            log.warning("%s was not shipped to CloudWatch Logs: %s", self._file, error)

    def _ship_once(self, final: bool) -> bool:
        if not self._file.exists():
            return False
        with self._file.open("rb") as file:
            file.seek(self._offset)
            data = file.read(MAX_BYTES)
        end = len(data) if final or len(data) == MAX_BYTES else 0
        end = data.rfind(b"\n") + 1 or end
        lines = data[:end].splitlines(keepends=True)[:MAX_EVENTS]
        if not lines:
            return False
        now = int(time.time() * 1000)
        texts = [line.decode("utf-8", "replace").rstrip("\r\n") for line in lines]
        # CloudWatch refuses an empty message.
        events = [{"timestamp": now, "message": text or " "} for text in texts]
        self._aws.call(
            "Logs_20140328.PutLogEvents",
            logGroupName=self._group,
            logStreamName=self._stream,
            logEvents=events,
        )
        self._offset += sum(map(len, lines))
        return True

    def _create(self) -> None:
        if self._created:
            return
        stream = {"logGroupName": self._group, "logStreamName": self._stream}
        for operation, members in (
            ("CreateLogGroup", {"logGroupName": self._group}),
            ("CreateLogStream", stream),
        ):
            try:
                self._aws.call(f"Logs_20140328.{operation}", **members)
            except AwsError as error:
                if error.code != "ResourceAlreadyExistsException":
                    raise
        self._created = True
