"""The service's log: a line of text an entry, or a line of JSON."""

import json
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path

FORMATS = ("text", "json")


class JsonFormatter(logging.Formatter):
    """`{"time", "level", "logger", "message", "exception"?}`"""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def configure(file: Path, log_format: str) -> None:
    """Of the whole process: to stderr and to `file`."""
    formatter = (
        JsonFormatter()
        if log_format == "json"
        else logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    )
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr), logging.FileHandler(file)]
    for handler in handlers:
        handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=handlers)
    for noisy in ("botocore", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
