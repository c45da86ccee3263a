"""boto3 with requests as they are written: what its own validation would refuse reaches the service.

Every answer is held against botocore's model of the operation.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.model import ListShape, MapShape, Shape, StringShape, StructureShape

from tests.local_sagemaker.cloud_client import Json

# What any operation may answer besides the errors that it declares.
COMMON = {"ValidationException", "SerializationException", "RequestEntityTooLargeException"}
TYPES: dict[str, Any] = {
    "string": str,
    "integer": int,
    "long": int,
    "float": (int, float),
    "double": (int, float),
    "timestamp": (int, float),
    "boolean": bool,
    "list": list,
    "map": dict,
    "structure": dict,
}


class Wire:
    """A client of the control plane."""

    def __init__(self, url: str, limit_s: float) -> None:
        """No call may take longer than the limit."""
        self.client = boto3.client(
            "sagemaker",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(
                parameter_validation=False, retries={"total_max_attempts": 1}, read_timeout=limit_s
            ),
        )
        self.model = self.client.meta.service_model
        self.methods = {name: method for method, name in self.client.meta.method_to_api_mapping.items()}
        self.answers: Counter[tuple[str, str]] = Counter()
        self.slowest = (0.0, "")
        self._body = b""
        self._answer: Any = {}
        self.client.meta.events.register("before-call.sagemaker", self._write)
        self.client.meta.events.register("before-parse.sagemaker", self._read)

    def call(self, operation: str, request: Any) -> tuple[str, Json]:
        """Send a request; the error's code or "", and the answer. Asserts what holds for every answer."""
        self._body = json.dumps(request).encode()
        started = time.monotonic()
        error: Any = None
        try:
            getattr(self.client, self.methods[operation])()
        except ClientError as raised:
            error = raised.response
        code = error["Error"]["Code"] if error else ""
        self.slowest = max(self.slowest, (time.monotonic() - started, operation))
        self.answers[operation, code] += 1
        if error:
            declared = {shape.name for shape in self.model.operation_model(operation).error_shapes}
            assert 400 <= error["ResponseMetadata"]["HTTPStatusCode"] < 500, (operation, request, error)
            assert code in declared | COMMON, (operation, request, error)
            assert error["Error"]["Message"], (operation, request)
        else:
            shape = self.model.operation_model(operation).output_shape
            wrong = list(differences(shape, self._answer, operation)) if shape else []
            assert not wrong, (wrong, request, self._answer)
        return code, self._answer

    def ok(self, operation: str, request: Any) -> Json:
        code, answer = self.call(operation, request)
        assert not code, (operation, request, answer)
        return answer

    def _write(self, params: Any, **_: Any) -> None:
        params["body"] = self._body

    def _read(self, response_dict: Any, **_: Any) -> None:
        self._answer = json.loads(response_dict["body"] or b"{}")


def differences(shape: Shape, value: Any, path: str) -> Iterator[str]:
    """Where an answer is not as its shape: members that are missing or unknown, types, enums."""
    expected = TYPES[shape.type_name]
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        yield f"{path} is {value!r}, not a {shape.type_name}"
    elif isinstance(shape, StructureShape):
        for name in shape.required_members:
            if name not in value:
                yield f"{path}.{name} is missing"
        for name, item in value.items():
            if name not in shape.members:
                yield f"{path}.{name} is unknown"
            else:
                yield from differences(shape.members[name], item, f"{path}.{name}")
    elif isinstance(shape, ListShape):
        for number, item in enumerate(value):
            yield from differences(shape.member, item, f"{path}[{number}]")
    elif isinstance(shape, MapShape):
        for key, item in value.items():
            yield from differences(shape.value, item, f"{path}[{key}]")
    elif isinstance(shape, StringShape) and shape.enum and value not in shape.enum:
        yield f"{path} is {value!r}, not in {shape.enum}"
