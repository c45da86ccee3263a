"""Bodies that no server should mind, and good ones, sent by several callers; prints JSON.

    PYTHONPATH=.:ml_code python -m benchmarks.ml.malformed HOST:PORT IMAGE MALFORMED GOOD

Malformed are: an image's bytes changed, cut off or followed by others; heads of every format with noise behind; sizes
of gigapixels; animations; JSON that is cut off, too deep, or not what is asked for; base64 that is none; lines of such;
wrong content types and Accepts; and, one in a hundred, HTTP that is cut off. Statuses are counted for each kind.
"""

import http.client
import io
import json
import random
import socket
import struct
import sys
import zlib
from base64 import b64encode
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

CALLERS = 4
JSON, LINES = "application/json", "application/jsonlines"
Case = tuple[str, bytes, str, str]
"""Kind, body, content type, Accept."""


class Bodies:
    def __init__(self, image: bytes, seed: int) -> None:
        self._image = image
        self._random = random.Random(seed)  # ruff: ignore[suspicious-non-cryptographic-random-usage]
        picture = Image.open(io.BytesIO(image)).convert("RGB")
        self._formats = [_saved(picture, kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")]
        frames = [picture, picture.rotate(90)]
        self._animation = _saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
        self._kinds: list[Callable[[], tuple[bytes, str]]] = [
            self.changed, self.cut, self.noise_behind_a_head, self.gigapixels, self.animation, self.cut_json,
            self.deep_json, self.other_json, self.no_base64, self.lines, self.noise, self.empty,
        ]  # fmt: skip

    def next(self) -> Case:
        kind = self._random.choice(self._kinds)
        body, content_type = kind()
        accept = self._random.choice(["", "*/*", "application/json", "image/png", "a;q=b,,;"])
        if self._random.random() < 0.05:
            content_type = self._random.choice(
                ["text/plain", "multipart/form-data; boundary=x", "\x7f", JSON, ";;"]
            )
        return kind.__name__, body, content_type, accept

    def _noise(self, most: int) -> bytes:
        return self._random.randbytes(self._random.randrange(1, most))

    def changed(self) -> tuple[bytes, str]:
        body = bytearray(self._random.choice(self._formats))
        for _ in range(self._random.randrange(1, 50)):
            body[self._random.randrange(len(body))] = self._random.randrange(256)
        return bytes(body), "image/jpeg"

    def cut(self) -> tuple[bytes, str]:
        body = self._random.choice(self._formats)
        return body[: self._random.randrange(len(body))], "image/png"

    def noise_behind_a_head(self) -> tuple[bytes, str]:
        head = self._random.choice(self._formats)[: self._random.randrange(8, 64)]
        return head + self._noise(4000), "application/octet-stream"

    def gigapixels(self) -> tuple[bytes, str]:
        side = self._random.choice([20_000, 60_000, 2**31 - 1])
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        chunk = b"IHDR" + header
        check = struct.pack(">I", zlib.crc32(chunk))
        return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(header)) + chunk + check, "image/png"

    def animation(self) -> tuple[bytes, str]:
        return self._animation, "image/gif"

    def cut_json(self) -> tuple[bytes, str]:
        body = json.dumps({"instances": [{"b64": b64encode(self._image).decode()}] * 3}).encode()
        return body[: self._random.randrange(len(body))], JSON

    def deep_json(self) -> tuple[bytes, str]:
        return self._random.choice([b"[", b'{"instances":']) * self._random.randrange(10, 100_000), JSON

    def other_json(self) -> tuple[bytes, str]:
        said = [
            "null",
            "1",
            '{"url": "http://127.0.0.1/"}',
            '{"instances": {}}',
            '{"instances": [[]]}',
            '{"b64": 1}',
        ]
        return self._random.choice(said).encode(), JSON

    def no_base64(self) -> tuple[bytes, str]:
        encoded = b64encode(self._noise(2000)).decode()
        return json.dumps({"b64": encoded[1:] + self._random.choice(["", "?", "ä"])}).encode(), JSON

    def lines(self) -> tuple[bytes, str]:
        good = json.dumps({"b64": b64encode(self._image).decode()}).encode()
        return b"\n".join([good, self._random.choice([b"{", b"1", b'{"b64": ""}'])]), LINES

    def noise(self) -> tuple[bytes, str]:
        return self._noise(20_000), self._random.choice(["", "image/webp", JSON, LINES])

    def empty(self) -> tuple[bytes, str]:
        return b"", self._random.choice(["", "image/jpeg", JSON, LINES])


def main(address: str, file: str, malformed: str, good: str) -> None:
    image = Path(file).read_bytes()
    shares = [(int(malformed) // CALLERS, int(good) // CALLERS, number) for number in range(CALLERS)]
    statuses: Counter[str] = Counter()
    with ThreadPoolExecutor(CALLERS) as pool:
        for counted in pool.map(lambda share: _send(address, image, *share), shares):
            statuses += counted
    json.dump(statuses, sys.stdout)


def _send(address: str, image: bytes, malformed: int, good: int, seed: int) -> Counter[str]:
    """Counts of `KIND STATUS`."""
    bodies, counted = Bodies(image, seed), Counter[str]()
    connection = http.client.HTTPConnection(address, timeout=60)
    left = {"malformed": malformed, "good": good}
    drawn = random.Random(seed)  # ruff: ignore[suspicious-non-cryptographic-random-usage]
    while sum(left.values()):
        which = "malformed" if drawn.randrange(sum(left.values())) < left["malformed"] else "good"
        left[which] -= 1
        if which == "malformed" and drawn.random() < 0.01:
            _cut_off(address, drawn)
            counted["http none"] += 1
            continue
        kind, body, content_type, accept = (
            ("good", image, "image/jpeg", "") if which == "good" else bodies.next()
        )
        try:
            connection.request("POST", "/invocations", body, {"Content-Type": content_type, "Accept": accept})
            response = connection.getresponse()
            response.read()
        except ConnectionError:
            # A header that is not HTTP is answered, and the connection closed, while the body is still being sent.
            counted[f"{kind} cut off"] += 1
            connection.close()
            continue
        counted[f"{kind} {response.status}"] += 1
    connection.close()
    return counted


def _cut_off(address: str, drawn: random.Random) -> None:
    """A request that is not finished, or not HTTP."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(
            drawn.choice(
                [
                    b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n\xff\xd8",
                    b"POST /invocations HTTP/1.1\r\nHost",
                    drawn.randbytes(300),
                    b"POST /invocations HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                ]
            )
        )


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


if __name__ == "__main__":
    main(*sys.argv[1:])
