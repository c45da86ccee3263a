"""Ask an endpoint about image files; an answer a line, in the order of the files.

    python -m serving.client IMAGE …                                         # a server on http://127.0.0.1:8080
    python -m serving.client IMAGE … --url http://HOST:PORT                  # another
    python -m serving.client IMAGE … --endpoint NAME                         # SageMaker, with your AWS credentials
    python -m serving.client IMAGE … --endpoint NAME --endpoint-url http://127.0.0.1:7700   # the local cloud

Exit status 1 and one sentence on stderr when one is not answered.
"""

import argparse
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

CONTENT_TYPE, TIMEOUT_S = "application/x-image", 60
LOOPBACK = ("127.0.0.1", "localhost", "::1")

Ask = Callable[[bytes], bytes]


class NotAnsweredError(Exception):
    """One sentence."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m serving.client", description="Ask an endpoint about images."
    )
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="of a server, without /invocations")
    parser.add_argument("--endpoint", metavar="NAME", help="of SageMaker, in place of --url")
    parser.add_argument(
        "--endpoint-url", metavar="URL", help="of SageMaker's runtime: the local cloud's, for one"
    )
    parser.add_argument("--region", help="of AWS; as your AWS configuration says unless you do")
    arguments = parser.parse_args(argv)
    try:
        if arguments.endpoint:
            ask = sagemaker(arguments.endpoint, arguments.endpoint_url, arguments.region)
        else:
            ask = server(arguments.url)
        for image in arguments.images:
            print(json.dumps(json.loads(ask(image.read_bytes()))), flush=True)
    except (NotAnsweredError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def server(url: str) -> Ask:
    """POST URL/invocations."""
    if urlsplit(url).scheme not in {"http", "https"}:
        raise NotAnsweredError(f"{url} is no http:// or https:// address")

    def ask(image: bytes) -> bytes:
        request = urllib.request.Request(
            f"{url.rstrip('/')}/invocations", image, {"Content-Type": CONTENT_TYPE}
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            raise NotAnsweredError(
                f"{url} answered {error.code}: {error.read().decode(errors='replace')}"
            ) from error
        except OSError as error:
            raise NotAnsweredError(f"{url} did not answer: {getattr(error, 'reason', error)}") from error

    return ask


def sagemaker(endpoint: str, endpoint_url: str | None, region: str | None) -> Ask:
    """InvokeEndpoint."""
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    # The local cloud checks no signature, so nobody needs credentials for it.
    local = bool(endpoint_url) and urlsplit(endpoint_url).hostname in LOOPBACK
    options: dict[str, Any] = {"signature_version": UNSIGNED} if local else {}
    try:
        runtime = boto3.client(
            "sagemaker-runtime", endpoint_url=endpoint_url,
            region_name=region or ("us-east-1" if local else None), config=Config(**options),
        )  # fmt: skip
    except BotoCoreError as error:
        raise NotAnsweredError(str(error)) from error

    def ask(image: bytes) -> bytes:
        try:
            answer = runtime.invoke_endpoint(
                EndpointName=endpoint, Body=image, ContentType=CONTENT_TYPE, Accept="application/json"
            )
            return bytes(answer["Body"].read())
        except (BotoCoreError, ClientError) as error:
            raise NotAnsweredError(f"{endpoint} did not answer: {error}") from error

    return ask


if __name__ == "__main__":
    sys.exit(main())
