"""Answers on the wire: JSON, and errors in AWS's shape."""

import json
import re
import uuid

from starlette.requests import Request
from starlette.responses import Response

from local_sagemaker.protocol import ApiError, Document


def region_of(request: Request) -> str:
    """The region in the signature's credential scope."""
    found = re.search(r"Credential=[^/]*/\d+/([^/]+)/", request.headers.get("authorization", ""))
    return found.group(1) if found else "us-east-1"


def answer(content: Document, status: int, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer with a request id."""
    return Response(
        json.dumps(content),
        status,
        {"x-amzn-requestid": str(uuid.uuid4()), **(headers or {})},
        media_type="application/x-amz-json-1.1",
    )


def error_response(error: ApiError, members: Document | None = None) -> Response:
    """An error, with further members where its shape has them."""
    content = {"__type": error.code, "message": error.message, "Message": error.message, **(members or {})}
    return answer(content, error.status, {"x-amzn-errortype": error.code})
