"""The built-in k-nearest-neighbors algorithm's contract, by scikit-learn: a pattern for stand-ins of one's own.

    python knn.py train    # channels train and, for the metric, test: CSV, the label first, no header
    python knn.py serve    # GET /ping, POST /invocations on SAGEMAKER_BIND_TO_PORT (8080)

AWS does not give its built-in algorithms' images away, so a row of images.yaml puts this in the place of theirs.
Hyperparameters, metrics and formats are those of the SageMaker Developer Guide (kNN_hyperparameters, kNN-tuning,
kNN-inference-formats). Neighbors are exact, so what only steers AWS's approximate index has no effect; records in
protobuf, dimension reduction and verbose answers are refused.
"""

import csv
import io
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

INPUT = Path(os.environ.get("SM_INPUT_DIR", "/opt/ml/input"))
MODEL = Path(os.environ.get("SM_MODEL_DIR", "/opt/ml/model"))
REQUIRED = {"feature_dim", "k", "predictor_type", "sample_size"}
WITHOUT_EFFECT = {"faiss_index_ivf_nlists", "faiss_index_pq_m", "index_type", "mini_batch_size"}
METRICS = {"L2": "euclidean", "COSINE": "cosine"}
PREDICTORS = {"classifier": KNeighborsClassifier, "regressor": KNeighborsRegressor}

Array = np.ndarray[Any, np.dtype[np.float32]]


class ClientError(Exception):
    """What is wrong with a request or its data."""


# Training


def train() -> None:
    settings = _settings(json.loads((INPUT / "config/hyperparameters.json").read_text()))
    labels, features = _channel("train", settings["feature_dim"])
    kept = np.random.default_rng(0).permutation(len(labels))[: settings["sample_size"]]
    model = {"labels": labels[kept], "features": features[kept]}
    predictor = _predictor(settings, model)
    if (INPUT / "data/test").is_dir():
        labels, features = _channel("test", settings["feature_dim"])
        predicted = predictor.predict(features)
        if settings["predictor_type"] == "classifier":
            _report("accuracy <score>", np.mean(predicted == labels))
        else:
            _report("mse <loss>", np.mean((predicted - labels) ** 2))
    np.savez(MODEL / "model.npz", labels=model["labels"], features=model["features"])
    (MODEL / "settings.json").write_text(json.dumps(settings))


def _settings(given: dict[str, str]) -> dict[str, Any]:
    """Raises ClientError."""
    given = {key: value for key, value in given.items() if key != "_tuning_objective_metric"}
    if lacking := sorted(REQUIRED - given.keys()):
        raise ClientError(f"the hyperparameters {', '.join(lacking)} are required")
    if unknown := sorted(given.keys() - REQUIRED - WITHOUT_EFFECT - {"index_metric"}):
        raise ClientError(f"the hyperparameters {', '.join(unknown)} are not known here")
    settings: dict[str, Any] = {"index_metric": "L2", **given}
    for key, allowed in (("predictor_type", PREDICTORS), ("index_metric", METRICS)):
        if settings[key] not in allowed:
            raise ClientError(f"{key} is one of {', '.join(allowed)} here, not {settings[key]}")
    for key in ("feature_dim", "k", "sample_size"):
        if not settings[key].isdecimal() or int(settings[key]) < 1:
            raise ClientError(f"{key} is a number above 0, not {settings[key]}")
        settings[key] = int(settings[key])
    return settings


def _channel(name: str, width: int) -> tuple[Array, Array]:
    """Labels and features, (rows,) and (rows, width). Raises ClientError."""
    parts = []
    for file in sorted((INPUT / "data" / name).rglob("*")):
        if file.is_file():
            parts.append(_rows(file.read_text(), width + 1, file.name))
    if not parts:
        raise ClientError(f"the channel {name} has no file")
    table = np.concatenate(parts)
    return table[:, 0], table[:, 1:]


def _predictor(settings: dict[str, Any], model: dict[str, Array]) -> Any:
    # A sample smaller than k has no more neighbors than it has rows.
    k = min(settings["k"], len(model["labels"]))
    kind = PREDICTORS[settings["predictor_type"]]
    return kind(n_neighbors=k, metric=METRICS[settings["index_metric"]]).fit(
        model["features"], model["labels"]
    )


def _report(metric: str, value: np.floating[Any]) -> None:
    host = json.loads((INPUT / "config/resourceconfig.json").read_text())["current_host"]
    print(f"#quality_metric: host={host}, test {metric}={value:.12g}", flush=True)


# Serving


def read(body: str, content_type: str, width: int) -> Array:
    """The features of a request, (rows, width). Raises ClientError."""
    kind = content_type.partition(";")[0].strip()
    if kind == "text/csv":
        return _rows(body, width, "the request")
    try:
        if kind == "application/json":
            records = json.loads(body)["instances"]
        elif kind == "application/jsonlines":
            records = [json.loads(line) for line in body.splitlines() if line.strip()]
        else:
            raise ClientError(
                f"content type {content_type} is none of text/csv, application/json, application/jsonlines"
            )
        rows = [_features(record) for record in records]
    except (KeyError, TypeError, ValueError) as error:
        raise ClientError(f"the request is not a list of instances with features: {error!r}") from error
    return _rows("\n".join(",".join(map(str, row)) for row in rows), width, "the request")


def _features(record: dict[str, Any]) -> list[float]:
    features = record["data"]["features"] if "data" in record else record["features"]
    return list(features["values"] if isinstance(features, dict) else features)


def _rows(text: str, width: int, where: str) -> Array:
    """Raises ClientError."""
    rows = [row for row in csv.reader(io.StringIO(text)) if row]
    if not rows or {len(row) for row in rows} != {width}:
        raise ClientError(f"{where} is not rows of {width} numbers")
    try:
        return np.array(rows, dtype=np.float32)
    except ValueError as error:
        raise ClientError(f"{where}: {error}") from error


def write(predicted: Array, accept: str) -> tuple[str, str]:
    """An answer and its content type. Raises ClientError."""
    labels = [float(label) for label in predicted]
    if accept in {"*/*", "application/json"}:
        return json.dumps(
            {"predictions": [{"predicted_label": label} for label in labels]}
        ), "application/json"
    if accept == "application/jsonlines":
        return "".join(json.dumps({"predicted_label": label}) + "\n" for label in labels), accept
    if accept == "text/csv":
        return "".join(f"{label}\n" for label in labels), accept
    raise ClientError(f"accept {accept} is none of application/json, application/jsonlines, text/csv")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    settings: dict[str, Any]
    predictor: Any

    def do_GET(self) -> None:
        self._answer(200 if self.path == "/ping" else 404, "", "text/plain")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        accept = self.headers.get("Accept", "*/*")
        try:
            features = read(body, self.headers.get("Content-Type", "text/csv"), self.settings["feature_dim"])
            text, kind = write(self.predictor.predict(features), accept)
        except ClientError as error:
            self._answer(400, str(error), "text/plain")
        else:
            self._answer(200, text, kind)

    def _answer(self, status: int, text: str, kind: str) -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        if self.path != "/ping":
            super().log_message(format, *args)


def serve() -> None:
    Handler.settings = json.loads((MODEL / "settings.json").read_text())
    with np.load(MODEL / "model.npz") as model:
        Handler.predictor = _predictor(Handler.settings, dict(model))
    address = (
        os.environ.get("SAGEMAKER_BIND_HOST", "127.0.0.1"),
        int(os.environ.get("SAGEMAKER_BIND_TO_PORT", 8080)),
    )
    ThreadingHTTPServer(address, Handler).serve_forever()


if __name__ == "__main__":
    try:
        {"train": train, "serve": serve}[sys.argv[1]]()
    except ClientError as error:
        sys.exit(f"Customer Error: {error}")
