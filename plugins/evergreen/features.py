"""Cached features in S3: where they are, which images they cover, and whether they are complete.

The format is ml_code's (docs/contracts.md); here are only its JSON documents read.
"""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from airflow.providers.amazon.aws.hooks.s3 import S3Hook

from evergreen import names
from evergreen.plan import Plan

SPLITS = ("train", "validation")
EXAMPLES = 100


class FeaturesError(ValueError):
    """The features cannot be trained on; the message is one sentence."""


def address(plan: Plan, dataset: dict[str, Any], code: dict[str, Any], weights: dict[str, Any] | None) -> str:
    """Where features of this content are: everything that they depend on is in the digest.

    The image stands for the library versions; the code's hash is over the files that compute features.
    """
    model = plan.pipeline.model
    return plan.uri(
        "features",
        names.digest(
            dataset["version"],
            model.arch,
            (weights or {"uri": "none"})["uri"],
            model.tail,
            model.image_size,
            model.views,
            model.flip,
            plan.pipeline.tuning.seed,
            plan.feature_image or plan.training_image,
            code["features_hash"],
        ),
    )


def find(s3: S3Hook, uri: str) -> dict[str, Any] | None:
    """What `finish` wrote; None when the features are not there, or not complete."""
    key = f"{uri}/complete.json"
    return json.loads(s3.read_key(key)) if s3.check_for_key(key) else None


def missing(s3: S3Hook, uri: str, manifests: dict[str, str]) -> dict[str, str]:
    """The manifests of the images that no part covers yet; a split that is covered has none."""
    left = {}
    for split in SPLITS:
        covered = {file for part in _parts(s3, uri, split) for file in part["files"]}
        if not covered:
            left[split] = manifests[split]
            continue
        prefix, *keys = json.loads(s3.read_key(manifests[split]))
        if rest := [key for key in keys if key not in covered]:
            left[split] = f"{uri}/missing/{split}-{names.digest(*rest)}.manifest"
            s3.load_string(json.dumps([prefix, *rest]), left[split], replace=True)
    return left


def has_trunk(s3: S3Hook, uri: str) -> bool:
    # Its manifest is written after its weights.
    return bool(
        s3.check_for_key(f"{uri}/trunk/trunk.json") and s3.check_for_key(f"{uri}/trunk/trunk.safetensors")
    )


def finish(
    s3: S3Hook, uri: str, dataset: dict[str, Any], max_unreadable: float, job_name: str | None
) -> dict[str, Any]:
    """Look at the whole, and mark it complete: features without the mark are not used.

    :raises FeaturesError: when images are missing, too many are unreadable, or a class has none to train on.
    """
    summary: dict[str, Any] = {
        "processing_job": job_name,
        "counts": {},
        "unreadable": {"count": 0, "examples": []},
    }
    unreadable = summary["unreadable"]
    for split in SPLITS:
        counts, total = Counter[str](), sum(dataset["counts"][split].values())
        set_apart: list[dict[str, str]] = []
        for part in _parts(s3, uri, split):
            counts.update(part["classes"])
            set_apart += part["unreadable"]
        _check(split, counts, total, set_apart, max_unreadable)
        summary["counts"][split] = dict(counts)
        unreadable["count"] += len(set_apart)
        unreadable["examples"] += [{"split": split, **entry} for entry in set_apart][:EXAMPLES]
    s3.load_string(json.dumps(summary), f"{uri}/complete.json", replace=True)
    return summary


def _check(
    split: str, counts: Counter[str], total: int, unreadable: list[dict[str, str]], max_unreadable: float
) -> None:
    found = sum(counts.values()) + len(unreadable)
    if found < total:
        raise FeaturesError(
            f"the features cover {found} of {total} images of the {split} split: run the task again"
        )
    if len(unreadable) > max_unreadable * total:
        first = unreadable[0]
        raise FeaturesError(
            f"{len(unreadable)} of {total} images of the {split} split are unreadable, more than the "
            f"{max_unreadable:.1%} of dataset.max_unreadable; the first is {first['file']}: {first['reason']}"
        )
    if split == "train" and (empty := sorted(name for name, count in counts.items() if not count)):
        raise FeaturesError(f"class {empty[0]} has no readable image to train on")


def _parts(s3: S3Hook, uri: str, split: str) -> Iterator[dict[str, Any]]:
    """The JSON documents of the parts whose tensors are there too."""
    bucket, prefix = S3Hook.parse_s3_url(f"{uri}/{split}/")
    keys = set(s3.list_keys(bucket, prefix) or [])
    for key in sorted(keys):
        if key.endswith(".json") and f"{key.removesuffix('.json')}.safetensors" in keys:
            yield json.loads(s3.read_key(key, bucket))
