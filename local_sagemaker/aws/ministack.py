"""S3, IAM, STS, CloudWatch and CloudWatch Logs: MiniStack, as a child process."""

import http.client
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from local_sagemaker.api.protocol import ACCOUNT
from local_sagemaker.processes.mark import MARK

START_LIMIT_S = 30.0
# Its objects live long, and to look through all of them for garbage at every other page of a listing takes longer than
# the page.
PROGRAM = "import gc, runpy; gc.set_threshold(100_000); runpy.run_module('ministack', run_name='__main__')"


class MiniStack:
    """The child, started anew on the same port should it end on its own. Buckets and objects are files."""

    def __init__(self, state: Path, interface: str, port: int, mark: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.log = state / "log" / "ministack.log"
        self._interface = interface
        self._port = port
        self._state = state
        self._mark = mark
        self._closing = threading.Event()
        self.restarted: Callable[[], None] = lambda: None
        """Called when it answers again after it has ended by itself, and has forgotten what it knew."""
        self._process = self._start()
        self._watcher = threading.Thread(target=self._watch, name="ministack", daemon=True)

    def wait_until_ready(self) -> None:
        """Raises RuntimeError, with the end of its log, when it does not come up."""
        if self._answers_in_time():
            self._watcher.start()
            return
        lines = self.log.read_text(errors="replace").splitlines()[-5:]
        raise RuntimeError(f"MiniStack did not start on port {self._port} (--aws-port): {' / '.join(lines)}")

    def close(self) -> None:
        self._closing.set()
        self._process.terminate()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answers_in_time(self) -> bool:
        limit = time.monotonic() + START_LIMIT_S
        while time.monotonic() < limit and self._process.poll() is None and not self._closing.is_set():
            if self._answers():
                return True
            time.sleep(0.05)
        return False

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=2)
        try:
            connection.request("GET", "/_ministack/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def _start(self) -> "subprocess.Popen[bytes]":
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self._state / "tmp"),
            "TMPDIR": str(self._state / "tmp"),
            "BIND_HOST": self._interface,
            "GATEWAY_PORT": str(self._port),
            "MINISTACK_ACCOUNT_ID": ACCOUNT,
            # When it ends in order it keeps all that it knows; S3 is on disk at any moment.
            "PERSIST_STATE": "1",
            "STATE_DIR": str(self._state / "aws"),
            "S3_PERSIST": "1",
            "S3_DATA_DIR": str(self._state / "s3"),
            # The last two for what rules and DAG runs tell people.
            "SERVICES": "s3,iam,sts,cloudwatch,logs,sns,sqs",
            # Listeners on ports of their own, for services that are not wanted.
            "SFTP_ENABLED": "0",
            "IOT_MTLS_ENABLED": "0",
            "LOG_LEVEL": "WARNING",
            MARK: self._mark,
        }
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", PROGRAM],
                env=environment,
                cwd=self._state,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _watch(self) -> None:
        while True:
            status = self._process.wait()
            if self._closing.is_set():
                return
            # Not at once: what ended it may do so again.
            time.sleep(1)
            print(f"MiniStack ended with status {status}; starting it again, see {self.log}", file=sys.stderr)
            self._process = self._start()
            if self._answers_in_time():
                self.restarted()
