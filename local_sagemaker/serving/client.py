"""A request to a model server from the event loop.

Not httpx: one costs 2.2 ms of processor time there and 0.5 ms here, and every invocation needs one.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

import h11

PIECE = 1 << 16


class NotConnectedError(Exception):
    """Nobody listens: nothing was sent."""


@dataclass(frozen=True)
class Answer:
    """Names of headers are in lower case."""

    status_code: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode(errors="replace")


async def post(port: int, path: str, headers: Mapping[str, str], body: bytes, limit_s: float) -> Answer:
    """POST to a port of this machine.

    Raises NotConnectedError, TimeoutError after `limit_s` seconds, and OSError or h11.RemoteProtocolError when the
    answer breaks off.
    """
    async with asyncio.timeout(limit_s):
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError as error:
            raise NotConnectedError(str(error)) from error
        # A new connection for each: a server may close a kept one just when a request goes out on it.
        connection = h11.Connection(our_role=h11.CLIENT)
        sent = {
            **headers,
            "host": f"127.0.0.1:{port}",
            "content-length": str(len(body)),
            "connection": "close",
        }
        try:
            for event in (
                h11.Request(method="POST", target=path, headers=list(sent.items())),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                writer.write(connection.send(event) or b"")
            # A server that answers before it has read everything closes, and its answer is there.
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            return await _answer(connection, reader)
        finally:
            writer.close()


async def _answer(connection: h11.Connection, reader: asyncio.StreamReader) -> Answer:
    response: h11.Response | None = None
    parts: list[bytes] = []
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(PIECE))
        elif isinstance(event, h11.Response):
            response = event
        elif isinstance(event, h11.Data):
            parts.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage) and response:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in response.headers}
            return Answer(response.status_code, headers, b"".join(parts))
