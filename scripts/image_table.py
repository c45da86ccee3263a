"""Write plugins/evergreen/images.json: what the SageMaker SDK knows of the images that a run may need.

    python -m scripts.image_table

About 5 s, without a network: the SDK's tables come with its package. Run it when the SDK in
requirements-airflow-dev.txt is a newer one; a test holds the two together.
"""

import json
from importlib.resources import files
from typing import Any

from sagemaker.core import common_utils

from scripts.local_stack import REPOSITORY

TABLE = REPOSITORY / "plugins/evergreen/images.json"
# ml_code needs Python 3.11, which these images have.
OLDEST = (2, 3)
SCOPES = ("training", "inference", "inference_graviton")


def build() -> dict[str, Any]:
    """`registries`: region → host; `debugger`: region → URI; `pytorch`: scope → version → image, regions without it."""
    tables = {
        scope: {
            version: entry
            for version, entry in _sdk("pytorch")[scope]["versions"].items()
            if tuple(int(part) for part in version.split(".")) >= OLDEST
        }
        for scope in SCOPES
    }
    # What the SDK takes the hosts' names from, once for all of them.
    resolver = common_utils._botocore_resolver()
    registries: dict[str, str] = {}
    for versions in tables.values():
        for entry in versions.values():
            for region, account in entry["registries"].items():
                host = _host(resolver, account, region)
                if registries.setdefault(region, host) != host:
                    raise ValueError(f"the registries of {region} differ from version to version")
    rules = _sdk("debugger")["versions"]["latest"]
    return {
        "registries": dict(sorted(registries.items())),
        "debugger": {
            region: f"{_host(resolver, account, region)}/{rules['repository']}:latest"
            for region, account in sorted(rules["registries"].items())
        },
        "pytorch": {
            scope: {
                version: {
                    "image": _image(version, entry),
                    "not_in": sorted(registries.keys() - entry["registries"].keys()),
                }
                for version, entry in versions.items()
            }
            for scope, versions in tables.items()
        },
    }


def _host(resolver: Any, account: str, region: str) -> str:
    found = resolver.construct_endpoint("ecr", region)
    return f"{account}.dkr.{found['hostname'] if found else f'ecr.{region}.amazonaws.com'}"


def _sdk(name: str) -> dict[str, Any]:
    text = files("sagemaker.core").joinpath(f"image_uri_config/{name}.json").read_text()
    document: dict[str, Any] = json.loads(text)
    return document


def _image(version: str, entry: dict[str, Any]) -> str:
    (python,) = entry["py_versions"]
    # Graviton's images have the system's version in their tag, and run on nothing but its processors.
    system = f"-{entry['container_version']['cpu']}-sagemaker" if "container_version" in entry else ""
    return f"{entry['repository']}:{version}-{{processor}}-{python}{system}"


if __name__ == "__main__":
    TABLE.write_text(json.dumps(build(), indent=1) + "\n")
