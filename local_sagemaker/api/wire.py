"""Requests and answers on the wire: limited bodies, JSON, and errors in AWS's shape."""

import json
import re
import uuid

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from local_sagemaker.api.protocol import ApiError, Document


def region_of(request: Request) -> str:
    """The region in the signature's credential scope."""
    found = re.search(r"Credential=[^/]*/\d+/([a-z0-9-]+)/", request.headers.get("authorization", ""))
    return found.group(1) if found else "us-east-1"


async def body_of(request: Request, limit: int, code: str) -> bytes:
    """The body. Raises ApiError when it is over the limit in bytes, without reading the rest."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise ApiError(code, f"The body is over the limit of {limit} bytes", 413)
    except ClientDisconnect as error:
        raise ApiError(code, "The request ended before its body did") from error
    return bytes(body)


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
