"""What the assessment knows of a model's origin: libraries and hashes, from the artefacts themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def with_artefacts(
    lineage: Mapping[str, Any] | None,
    manifest: Mapping[str, Any],
    archive_sha256: str,
    libraries: Mapping[str, str],
) -> dict[str, Any]:
    """report.json's `lineage`: the context's, with `libraries` and `hashes`.

    :param manifest: model.json, which names the libraries of the training and the hash of the weights.
    :param libraries: of the assessment, name → version.
    """
    return {
        **(lineage or {}),
        "libraries": {"training": manifest.get("libraries", {}), "assessment": dict(libraries)},
        "hashes": {"model_archive": archive_sha256, "weights": manifest.get("sha256")},
    }
