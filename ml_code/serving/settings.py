"""What the environment says, read once. The table is in server.py."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from serving.logs import FORMATS

BACKENDS = ("int8", "onnxruntime", "openvino", "eager", "compile")


@dataclass(frozen=True)
class Settings:
    model_dir: Path
    code_dir: Path
    program: str = "inference.py"
    host: str = "127.0.0.1"
    port: int = 8080
    default_accept: str = "application/json"
    backends: tuple[str, ...] = ("int8", "onnxruntime", "openvino", "eager")
    max_batch: int = 8
    max_waiting: int = 128
    max_body: int = 25 * 1024 * 1024
    body_timeout_s: float = 30.0
    drain_s: float = 0.5
    log_format: str = "text"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        """:raises ValueError: naming the variable whose value is not what it has to be."""

        def number(name: str, default: float, least: float) -> float:
            text = environment.get(name, "")
            try:
                value = float(text or default)
            except ValueError:
                value = least - 1
            if not least <= value < float("inf"):
                raise ValueError(f"{name} has to be a number of at least {least:g}: got {text!r}")
            return value

        base = environment.get("SAGEMAKER_BASE_DIR") or "/opt/ml"
        model_dir = Path(environment.get("SM_MODEL_DIR") or f"{base}/model")
        names = environment.get("SERVING_BACKENDS") or ",".join(cls.backends)
        backends = tuple(name.strip() for name in names.split(",") if name.strip())
        if not backends or set(backends) - set(BACKENDS):
            raise ValueError(f"SERVING_BACKENDS has to be some of {', '.join(BACKENDS)}: got {names!r}")
        log_format = environment.get("SERVING_LOG_FORMAT") or cls.log_format
        if log_format not in FORMATS:
            raise ValueError(f"SERVING_LOG_FORMAT has to be one of {', '.join(FORMATS)}: got {log_format!r}")
        return cls(
            model_dir=model_dir,
            code_dir=Path(environment.get("SAGEMAKER_SUBMIT_DIRECTORY") or model_dir / "code"),
            program=environment.get("SAGEMAKER_PROGRAM") or cls.program,
            host=environment.get("SAGEMAKER_BIND_HOST") or cls.host,
            port=int(number("SAGEMAKER_BIND_TO_PORT", cls.port, 1)),
            default_accept=environment.get("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT") or cls.default_accept,
            backends=backends,
            max_batch=int(number("SERVING_MAX_BATCH", cls.max_batch, 1)),
            max_waiting=int(number("SERVING_MAX_WAITING", cls.max_waiting, 1)),
            max_body=int(number("SERVING_MAX_BODY_MB", cls.max_body / 2**20, 1) * 2**20),
            body_timeout_s=number("SERVING_BODY_TIMEOUT_S", cls.body_timeout_s, 1),
            drain_s=number("SERVING_DRAIN_S", cls.drain_s, 0),
            log_format=log_format,
        )
