"""What the operations share: settings, state, and the way to S3, Logs and processes."""

import math
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

from local_sagemaker.aws.client import Aws
from local_sagemaker.aws.s3 import S3
from local_sagemaker.images import Images
from local_sagemaker.processes.warm import WarmPool
from local_sagemaker.store import Store

RESTARTED = "InternalServerError: local_sagemaker ended while this was in progress"
"""FailureReason of what a killed service cannot go on with."""


@dataclass(frozen=True)
class Settings:
    """The command line."""

    state: Path
    sagemaker_url: str
    aws_url: str
    host: str | None
    """The name by which others than this machine reach the service, which answers to no other."""
    mark: str
    """What the environment of every process started here carries, see processes/mark.py."""
    images: Images
    slots: int = field(default_factory=lambda: max(2, os.cpu_count() or 1))
    """Jobs that run at once."""
    stop_grace_s: float = 120.0
    """Seconds between SIGTERM and SIGKILL when a job is stopped; 120 on AWS."""
    memory_gib: float = math.inf
    """What a job may hold on one instance before it is ended, as a container without more memory would be."""


class ClosedError(Exception):
    """The service is ending; whoever waits gives up and leaves the documents as they are."""


class Cloud:
    """One running service."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.state = settings.state
        self.store = Store(self.state / "documents.sqlite")
        self.images = settings.images
        self.aws = Aws(settings.aws_url)
        self.s3 = S3(self.aws)
        self.warm = WarmPool(self.state / "tmp", self.state / "log", settings.mark)
        self.closing = threading.Event()
