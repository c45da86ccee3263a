"""Whether other pictures are like the training split's, and what a later comparison needs to know of the latter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2
from sklearn.decomposition import PCA

from report.sample import Sample, Values

_BINS = 10
_COMPONENTS = 8
# The customary limit of a population stability index, under which a change is called small.
LIMIT = 0.1
# How often chance alone may pass for drift.
CHANCE = 0.01
_UNITS = {"brightness": "of 1", "contrast": "of 1", "shorter side": "pixels"}


@dataclass(frozen=True)
class Snapshot:
    """The training sample's distributions: of each measure the bins' inner edges, and the share of images in each."""

    images: int
    classes: Sequence[str]
    edges: Mapping[str, Values]
    counts: Mapping[str, npt.NDArray[np.int64]]
    mean: Values
    """[d], of the embeddings."""
    components: Values
    """[k, d], the directions in which the embeddings differ most."""

    @classmethod
    def of(cls, sample: Sample, classes: Sequence[str]) -> Snapshot:
        components = min(_COMPONENTS, *sample.embeddings.shape)
        fitted = PCA(components, svd_solver="randomized", random_state=0).fit(sample.embeddings)
        mean, directions = (np.asarray(one, dtype=np.float64) for one in (fitted.mean_, fitted.components_))
        values = _values(sample, mean, directions)
        edges = {
            name: np.unique(np.quantile(column, np.linspace(0, 1, _BINS + 1)[1:-1]))
            for name, column in values.items()
        }
        snapshot = cls(len(sample.files), classes, edges, {}, mean, directions)
        return replace(snapshot, counts=snapshot.count(sample))

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Snapshot:
        """What `as_json` has written; raises KeyError when it has not."""
        images, measures = document["images"], document["measures"]
        return cls(
            images,
            document["classes"],
            {name: np.array(one["edges"]) for name, one in measures.items() if one["edges"] is not None},
            {
                name: np.rint(np.array(one["shares"]) * images).astype(np.int64)
                for name, one in measures.items()
            },
            np.array(document["embedding"]["mean"]),
            np.array(document["embedding"]["components"]),
        )

    def count(self, sample: Sample) -> dict[str, npt.NDArray[np.int64]]:
        """How many of the sample's images are in each of the bins, of each measure."""
        values = _values(sample, self.mean, self.components)
        found = {name: _counts(column, self.edges[name]) for name, column in values.items()}
        return {**found, "prediction": np.bincount(sample.predicted, minlength=len(self.classes))}

    def as_json(self) -> dict[str, Any]:
        """snapshot.json: what a monitor compares with later."""
        return {
            "images": self.images,
            "classes": list(self.classes),
            "measures": {
                name: {
                    "edges": self.edges[name].tolist() if name in self.edges else None,
                    "shares": (counts / counts.sum()).tolist(),
                }
                for name, counts in self.counts.items()
            },
            "embedding": {"mean": self.mean.tolist(), "components": self.components.tolist()},
        }


def drift(snapshot: Snapshot, sample: Sample, limit: float = LIMIT) -> dict[str, Any]:
    """report.json's `drift`: a population stability index for each measure, and whether it is more than chance.

    PSI is the sum of (q - p) ln(q / p) over the bins, p the training's share and q the sample's; half an image is added
    to each bin, so that an empty one has a logarithm. Of samples of n and m images from one distribution it is about
    (1/n + 1/m) chi2 with one degree of freedom less than bins (Yurdakul and Naranjo, 2020), which gives `chance`: the
    value that in one of a hundred comparisons some measure exceeds. A measure has drifted above both that and `limit`.
    """
    chance = CHANCE / len(snapshot.counts)
    values = _values(sample, snapshot.mean, snapshot.components)
    found = snapshot.count(sample)
    rows = [_measured(name, snapshot.counts[name], found[name], limit, chance) for name in snapshot.counts]
    for row in rows:
        column = values.get(row["name"])
        row["mean"] = None if column is None or row["name"] not in _UNITS else float(column.mean())
        row["unit"] = _UNITS.get(row["name"])
    return {"train_images": snapshot.images, "images": len(sample.files), "limit": limit, "measures": rows}


def _values(sample: Sample, mean: Values, components: Values) -> dict[str, Values]:
    along = (sample.embeddings - mean) @ components.T
    return {
        "brightness": sample.brightness,
        "contrast": sample.contrast,
        "shorter side": sample.pixels,
        **{f"embedding {number}": along[:, number - 1] for number in range(1, len(components) + 1)},
    }


def _counts(column: Values, edges: Values) -> npt.NDArray[np.int64]:
    return np.bincount(np.searchsorted(edges, column), minlength=len(edges) + 1)


def _measured(
    name: str, train: npt.NDArray[np.int64], found: npt.NDArray[np.int64], limit: float, chance: float
) -> dict[str, Any]:
    p, q = ((counts + 0.5) / (counts + 0.5).sum() for counts in (train, found))
    # Four digits after the point: the rest is chance.
    index = round(float(((q - p) * np.log(q / p)).sum()), 4)
    noise = 1 / max(train.sum(), 1) + 1 / max(found.sum(), 1)
    exceeded = round(float(chi2.ppf(1 - chance, max(len(train) - 1, 1)) * noise), 4)
    return {
        "name": name,
        "bins": len(train),
        "psi": index,
        "chance": exceeded,
        "drifted": index > max(limit, exceeded),
    }
