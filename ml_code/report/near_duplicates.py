"""Pictures of the test split that are nearly one of training's."""

from __future__ import annotations

from typing import Any

import numpy as np

from report.sample import Sample

# Of scikit-learn's digits, which resemble one another like few pictures, no two of 500,000 pairs reach it; the same
# picture saved again as a JPEG, or a little smaller, does.
ALIKE = 0.995
_EXAMPLES = 20


def near_duplicates(train: Sample, test: Sample) -> dict[str, Any]:
    """report.json's `near_duplicates`: pairs whose 32 x 32 grey thumbnails correlate by 0.995 and more.

    Flat pictures correlate with nothing. Each test image counts once, with the training image most like it.
    """
    alike = test.thumbnails @ train.thumbnails.T
    nearest = alike.argmax(axis=1)
    closeness = alike[np.arange(len(alike)), nearest]
    order = [int(i) for i in np.argsort(-closeness, kind="stable") if closeness[i] >= ALIKE]
    return {
        "alike_from": ALIKE,
        "train_images": len(train.files),
        "test_images": len(test.files),
        "count": len(order),
        "examples": [
            {
                "test": test.files[i],
                "train": train.files[int(nearest[i])],
                "correlation": min(1.0, float(closeness[i])),
            }
            for i in order[:_EXAMPLES]
        ],
    }
