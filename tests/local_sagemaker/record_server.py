"""A model server for transform tests: adds up each record's numbers and tells how many records came with it."""

import http.server
import json
import os
import time
from typing import Any


class Handler(http.server.BaseHTTPRequestHandler):
    wbufsize = -1

    def do_GET(self) -> None:
        asked = self.path == "/execution-parameters"
        self.answer(200, os.environ.get("PARAMETERS", "") if asked else "")

    def do_POST(self) -> None:
        lines = self.body().decode().splitlines()
        if "slow" in lines:
            print("slow", flush=True)
            time.sleep(600)
        if "bad" in lines:
            self.answer(400, "a bad record")
        elif self.headers["content-type"] == "text/csv":
            sums = (sum(map(float, line.split(","))) for line in lines)
            self.answer(200, "\n".join(f"{total:g},{len(lines)}" for total in sums))
        else:
            answers: list[Any] = [{"sum": sum(json.loads(line)), "of": len(lines)} for line in lines]
            self.answer(200, "\n".join(map(json.dumps, answers)))

    def body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers["content-length"]))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        return content

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.send_header("content-type", self.headers.get("accept", "text/plain"))
        self.end_headers()
        self.wfile.write(text.encode())


print("batch", os.environ.get("SAGEMAKER_BATCH"), os.environ.get("SAGEMAKER_BATCH_STRATEGY"), flush=True)
http.server.ThreadingHTTPServer(
    ("127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"])), Handler
).serve_forever()
