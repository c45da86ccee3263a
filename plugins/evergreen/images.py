"""AWS's images: PyTorch's for training and inference, and the one that evaluates Debugger's rules.

`images.json` is what the SageMaker SDK says of them, written by `python -m scripts.image_table`. The SDK is not asked
when a run is planned: it takes seconds to import, keeps Airflow from sending task logs to S3
(https://github.com/aws/sagemaker-python-sdk/issues/5207), and cannot be installed beside the packages of MWAA's image.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any, Literal

TABLE = Path(__file__).with_suffix(".json")
# ml.c7g.large, ml.m6gd.xlarge: AWS's own processors, with images of their own.
GRAVITON = re.compile(r"ml\.[a-z]+\d+g")
GPU = re.compile(r"ml\.[gp]\d")

Scope = Literal["training", "inference"]


class ImageError(ValueError):
    """AWS has no such image; the sentence says which there are."""


def pytorch(scope: Scope, version: str, region: str, instance_type: str) -> str:
    """URI of AWS's PyTorch image for the version and the type of instance.

    :raises ImageError: when there is none in the region.
    """
    graviton = bool(GRAVITON.match(instance_type))
    versions = table()["pytorch"].get(f"{scope}_graviton" if graviton else scope, {})
    what = f"PyTorch {scope} image{' for Graviton processors' if graviton else ''}"
    if not versions:
        raise ImageError(f"there is no {what}: {instance_type} needs another type, or compute.{scope}_image")
    if version not in versions:
        raise ImageError(f"there is no {what} of version {version!r}, only of {', '.join(versions)}")
    entry = versions[version]
    registry = table()["registries"].get(region)
    if registry is None or region in entry["not_in"]:
        raise ImageError(f"there is no {what} of version {version} in {region}: set compute.{scope}_image")
    processor = "gpu" if GPU.match(instance_type) else "cpu"
    return f"{registry}/{entry['image'].format(processor=processor)}"


def debugger_rules(region: str) -> str:
    """URI of the image that evaluates AWS's rules.

    :raises ImageError: when Debugger is not in the region.
    """
    uri = table()["debugger"].get(region)
    if uri is None:
        raise ImageError(f"AWS evaluates no Debugger rules in {region}: set debugger.mode to self")
    return str(uri)


@cache
def table() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(TABLE.read_text())
    return document
