"""The way to the local S3, IAM, CloudWatch and CloudWatch Logs: plain HTTP to MiniStack, which asks for no signature.

Not boto3: three of its clients hold 20 MB in a service that mostly waits, and each small object takes 2.5 ms of
processor time, here 0.3 ms.
"""

import contextlib
import http.client
import json
import time
import urllib.parse
from collections.abc import Generator, Mapping
from typing import Any

TIMEOUT_S = 60.0
# MiniStack, should it end, is there again within two seconds.
TRIES, PAUSE_S = 8, 0.5


class AwsError(Exception):
    """The local AWS did not do what it was asked to; `code` is its error's, or empty when it did not answer."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class Aws:
    """Requests to one address. Methods may be called from any thread."""

    def __init__(self, url: str) -> None:
        self._host = urllib.parse.urlsplit(url).netloc

    def request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Status and body of the answer. `body` is bytes, or a file that is sent anew with each try.

        Raises AwsError when there is no answer.
        """
        failure = ""
        for attempt in range(TRIES):
            if attempt:
                time.sleep(PAUSE_S)
            if hasattr(body, "seek"):
                body.seek(0)
            try:
                with self.connection() as connection:
                    connection.request(method, path, body, dict(headers or {}))
                    response = connection.getresponse()
                    return response.status, response.read()
            except (OSError, http.client.HTTPException) as error:
                failure = f"{type(error).__name__}: {error}"
        raise AwsError(f"{method} {path} at {self._host} failed {TRIES} times: {failure}")

    @contextlib.contextmanager
    def connection(self) -> Generator[http.client.HTTPConnection, None, None]:
        """A connection for several requests of one thread."""
        connection = http.client.HTTPConnection(self._host, timeout=TIMEOUT_S)
        with contextlib.closing(connection):
            yield connection

    def call(self, target: str, *, region: str = "us-east-1", **members: Any) -> Any:
        """An operation of a JSON protocol, such as Logs_20140328.PutLogEvents. Raises AwsError.

        MiniStack keeps what each region has apart, and reads the region in the signature.
        """
        scope = f"test/20000101/{region}/service/aws4_request"
        headers = {
            "x-amz-target": target,
            "content-type": "application/x-amz-json-1.1",
            "authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=none",
        }
        status, body = self.request("POST", "/", json.dumps(members).encode(), headers)
        if status >= 300:
            code = ""
            with contextlib.suppress(ValueError, AttributeError):
                code = str(json.loads(body).get("__type", "")).rpartition("#")[2]
            raise AwsError(f"{target} answered {status}: {body[:500].decode(errors='replace')}", code)
        return json.loads(body or b"{}")
