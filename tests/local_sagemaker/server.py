"""A model server for tests: answers with the model's text; some bodies and texts make it misbehave."""

import http.server
import os
import time
from pathlib import Path

ANSWER = (Path(os.environ["SM_MODEL_DIR"]) / "answer.txt").read_text()


class Handler(http.server.BaseHTTPRequestHandler):
    wbufsize = -1

    asked = False

    def do_GET(self) -> None:
        if ANSWER == "mute" and Handler.asked:
            time.sleep(600)
        self.answer(200, b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        Handler.asked = True
        if ANSWER == "faulty":
            self.answer(500, b"a fault")
        elif ANSWER == "mortal":
            os._exit(4)
        elif body == b"bad":
            self.answer(400, b'{"error": "not an image"}')
        elif body == b"die":
            os._exit(3)
        else:
            if body == b"slow":
                time.sleep(1)
            text = f"{ANSWER}:{self.headers.get('content-type')}:{os.environ.get('EXTRA', '')}:{len(body)}"
            self.answer(200, text.encode())

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.send_header("content-type", "text/plain")
        self.send_header("x-amzn-sagemaker-custom-attributes", "seen")
        self.end_headers()
        self.wfile.write(body)


if ANSWER == "broken":
    raise RuntimeError("this model cannot be loaded")
print("serving", ANSWER, flush=True)
http.server.ThreadingHTTPServer(
    ("127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"])), Handler
).serve_forever()
