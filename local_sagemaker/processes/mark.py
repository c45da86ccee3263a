"""The mark in the environment of every process started here, and on every container: whose it is."""

import os
import time
from pathlib import Path

MARK = "LOCAL_SAGEMAKER"


def new_mark(state: Path) -> str:
    """The mark of one run of the service: the keeper of the run before must not end the processes of this one."""
    return f"{state}#{os.getpid()}-{time.time_ns()}"
