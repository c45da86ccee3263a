"""What reaches S3 and the logs while a job runs."""

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from local_sagemaker.aws.s3 import S3, TransferError

log = logging.getLogger(__name__)

EVERY_S = 1.0
# Names under which files are written before they get their own.
TEMPORARY = {".tmp", ".temp"}


class Watch:
    """Calls functions every second while a job's processes run, and once more, with final=True, at the end."""

    def __init__(self) -> None:
        self._actions: list[Callable[[bool], None]] = []
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def add(self, action: Callable[[bool], None]) -> None:
        """`action(final)`; it may raise TransferError, and what it raises at the end, finish() raises."""
        self._actions.append(action)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """No further calls."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def finish(self) -> None:
        """The last calls. Raises TransferError when something could not be sent, after all else has been."""
        failed: TransferError | None = None
        for action in self._actions:
            try:
                action(True)
            except TransferError as error:
                failed = failed or error
        if failed:
            raise failed

    def _run(self) -> None:
        while not self._closing.wait(EVERY_S):
            for action in self._actions:
                try:
                    action(False)
                except TransferError as error:
                    log.warning("%s; it is tried again", error)


class FolderUpload:
    """Keeps an S3 prefix up to date with folders. What is deleted here stays there, as SageMaker has it."""

    def __init__(self, s3: S3, folders: Sequence[Path], uri: str, *, growing: bool = False) -> None:
        """`growing` files have lines added, so that a part of one is of use; others go when they are whole."""
        self._growing = growing
        self._s3 = s3
        self._folders = folders
        self._uri = uri.rstrip("/")
        self._sent: dict[Path, tuple[int, int]] = {}
        self._seen: dict[Path, tuple[int, int]] = {}

    def is_current(self) -> None:
        """Take what is in the folders now for sent: it has come from there."""
        self._sent = self._scan()

    def send(self, final: bool) -> None:
        """Send files that have not changed for one turn, and may so be whole; at the end all."""
        files = self._scan()
        for file, state in files.items():
            whole = self._growing or (self._seen.get(file) == state and file.suffix not in TEMPORARY)
            if self._sent.get(file) == state or not (final or whole):
                continue
            folder = next(folder for folder in self._folders if file.is_relative_to(folder))
            try:
                self._s3.upload_file(file, f"{self._uri}/{file.relative_to(folder).as_posix()}")
            except FileNotFoundError:
                continue
            self._sent[file] = state
        self._seen = files

    def _scan(self) -> dict[Path, tuple[int, int]]:
        """Size and time of every file."""
        found = {}
        for folder in self._folders:
            for file in sorted(folder.rglob("*")):
                try:
                    if file.is_file():
                        found[file] = file.stat().st_size, file.stat().st_mtime_ns
                except FileNotFoundError:
                    continue
        return found
