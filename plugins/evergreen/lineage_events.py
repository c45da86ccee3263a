"""OpenLineage: what a task has read and written, for Airflow's provider, which asks when a transport is configured.

Of S3 the datasets are named as OpenLineage's naming has it, by bucket and key; what a pipeline stores by version or
digest is one dataset with versions. SageMaker's models, endpoints and the like are datasets too, so that data, jobs and
what serves are one graph.

https://openlineage.io/docs/spec/naming
"""

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from evergreen.plan import Plan

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from openlineage.client.event_v2 import Dataset

# Key below which lies what a pipeline keeps by version: (dataset's name, version).
VERSIONED = re.compile(r"(?P<root>.*)/(?P<kind>dataset-versions|features)/(?P<version>[0-9a-f]{10})(/.*)?")
NAMES = {"dataset-versions": "dataset"}
# Members of a job's description.
READ = ("ProcessingInputs", "InputDataConfig", "TransformInput")
WRITTEN = ("ProcessingOutputConfig", "ModelArtifacts", "TransformOutput")


def facets(reads: Iterable[str], writes: Iterable[str], count: int | None = None) -> "OperatorLineage":
    """What an operator's `get_openlineage_facets_on_complete` returns.

    :param reads: URIs, as `writes`. :param count: images in what is written, where that is known.
    """
    # Takes a second to import, and may not be installed: only the provider asks for it.
    from airflow.providers.openlineage.extractors import OperatorLineage

    return OperatorLineage(
        inputs=[dataset(*one) for one in _places(reads)],
        outputs=[dataset(*one, count) for one in _places(writes)],
    )


def of_job(description: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a job reads and writes, by its description."""
    definition = description.get("TrainingJobDefinition", description)
    given = definition.get("StaticHyperParameters") or description.get("HyperParameters") or {}
    read = [description.get(name) for name in READ] + [definition.get("InputDataConfig")]
    code = [given["sagemaker_submit_directory"]] if "sagemaker_submit_directory" in given else []
    return (
        tuple(dict.fromkeys([*_uris(read), *code])),
        tuple(dict.fromkeys(_uris([description.get(name) for name in WRITTEN]))),
    )


def sagemaker(plan: Plan, kind: str, name: str) -> str:
    """URI of a resource that is no file; `kind` as in its ARN."""
    return f"sagemaker://{plan.region}/{kind}/{name}"


def place(uri: str) -> tuple[str, str, str | None]:
    """Namespace, name and version of the dataset that a URI belongs to."""
    scheme, _, rest = uri.partition("://")
    authority, _, key = rest.partition("/")
    namespace, key = f"{scheme}://{authority}", key.rstrip("/")
    if scheme == "file":
        return "file", f"/{key}", None
    if found := VERSIONED.fullmatch(key):
        kind = found["kind"]
        return namespace, f"{found['root']}/{NAMES.get(kind, kind)}", found["version"]
    return namespace, key, None


def _places(uris: Iterable[str]) -> list[tuple[str, str, str | None]]:
    """Of several files of one dataset, it."""
    return list(dict.fromkeys(place(uri) for uri in uris))


def dataset(namespace: str, name: str, version: str | None, count: int | None = None) -> "Dataset":
    from openlineage.client.event_v2 import Dataset, OutputDataset
    from openlineage.client.facet_v2 import (
        DatasetFacet,
        dataset_version_dataset,
        output_statistics_output_dataset,
    )

    facets: dict[str, DatasetFacet] = {}
    if version:
        facets["version"] = dataset_version_dataset.DatasetVersionDatasetFacet(version)
    if count is None:
        return Dataset(namespace=namespace, name=name, facets=facets)
    statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(fileCount=count)
    return OutputDataset(
        namespace=namespace, name=name, facets=facets, outputFacets={"outputStatistics": statistics}
    )


def _uris(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _uris(item)
    elif isinstance(value, str) and value.startswith("s3://"):
        yield value
