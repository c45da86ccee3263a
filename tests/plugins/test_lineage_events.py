"""What an OpenLineage event says; that they are one graph is in tests/end_to_end/test_demo.py."""

from typing import Any

import pytest

from evergreen import lineage_events, requests
from tests.plugins.test_requests import CODE, DATASET, FEATURES, plan

ROOT = "evergreen/digits"


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        (
            f"s3://b/{ROOT}/dataset-versions/0123456789/train.manifest",
            ("s3://b", f"{ROOT}/dataset", "0123456789"),
        ),
        (f"s3://b/{ROOT}/features/0123456789/train/", ("s3://b", f"{ROOT}/features", "0123456789")),
        (f"s3://b/{ROOT}/features/0123456789", ("s3://b", f"{ROOT}/features", "0123456789")),
        ("s3://b/my/features/x.jpg", ("s3://b", "my/features/x.jpg", None)),
        ("s3://b/prefix/", ("s3://b", "prefix", None)),
        ("file:///data/pets", ("file", "/data/pets", None)),
        ("sagemaker://us-east-1/model/m", ("sagemaker://us-east-1", "model/m", None)),
    ],
)
def test_a_uri_is_a_dataset_and_its_version(uri: str, place: tuple[str, str, str | None]) -> None:
    assert lineage_events.place(uri) == place


def test_a_jobs_description_says_what_it_reads_and_writes() -> None:
    # DescribeHyperParameterTuningJob has what the request had.
    described: dict[str, Any] = requests.tune(plan(), DATASET, FEATURES, CODE)
    reads, writes = lineage_events.of_job(described)
    assert set(reads) == {
        *(f"{FEATURES['uri']}/{name}/" for name in ("train", "validation", "trunk")),
        CODE["archive"],
    }
    assert writes == ()


def test_several_files_of_a_dataset_are_one() -> None:
    pytest.importorskip("airflow.providers.openlineage")
    uris = [f"s3://b/{ROOT}/features/0123456789/{name}/" for name in ("train", "validation")]
    facets = lineage_events.facets(uris, ["s3://b/x"], 12)
    (read,) = facets.inputs
    assert (read.name, read.facets["version"].datasetVersion) == (f"{ROOT}/features", "0123456789")
    assert facets.outputs[0].outputFacets["outputStatistics"].fileCount == 12
