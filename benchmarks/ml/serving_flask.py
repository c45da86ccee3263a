"""The usual way to serve a network: Flask below one gunicorn worker, torchvision's transforms, eager float32.

MODEL=FOLDER gunicorn --workers 1 --bind 127.0.0.1:PORT benchmarks.ml.serving_flask:app
"""

import io
import os
from pathlib import Path
from typing import Any

import torch
from flask import Flask, jsonify, request  # type: ignore[import-not-found]  # the benchmark's own environment has it
from PIL import Image
from torchvision import transforms

from model.artifact import load_model

TRANSFORM = transforms.Compose(
    [
        transforms.Resize(256),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
)

app = Flask(__name__)
loaded = load_model(Path(os.environ["MODEL"]))
network = loaded.network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # stubs lack it


def ping() -> str:
    return ""


def invocations() -> Any:
    image = Image.open(io.BytesIO(request.get_data())).convert("RGB")
    with torch.no_grad():
        probabilities = network(TRANSFORM(image)[None]).softmax(1)[0]
    values, indices = probabilities.topk(5)
    top = [
        {"label": loaded.classes[index], "probability": value}
        for value, index in zip(values.tolist(), indices.tolist(), strict=True)
    ]
    return jsonify(top)


app.add_url_rule("/ping", view_func=ping)
app.add_url_rule("/invocations", view_func=invocations, methods=["POST"])
