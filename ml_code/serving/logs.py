"""The server's log: a line of text an entry, or a line of JSON, which CloudWatch and the like can search by member."""

import json
import logging
import sys
from datetime import UTC, datetime

FORMATS = ("text", "json")
access = logging.getLogger("serving.access")
"""An entry for each answered request, in JSON alone."""


class JsonFormatter(logging.Formatter):
    """`{"time", "level", "logger", "message", "exception"?}` and the members that `extra={"members": {…}}` adds."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "members", {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


def configure(level: int, log_format: str) -> None:
    """Of the whole process, to stdout."""
    handler = logging.StreamHandler(sys.stdout)
    is_json = log_format == "json"
    handler.setFormatter(
        JsonFormatter() if is_json else logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    )
    logging.basicConfig(level=level, handlers=[handler])
    access.disabled = not is_json
