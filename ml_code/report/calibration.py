"""How far stated probabilities can be taken at their word."""

from __future__ import annotations

from typing import Any

import numpy as np

from report.answers import Answers

BINS = 15


def reliability(answers: Answers) -> list[dict[str, Any]]:
    """A reliability diagram's bins: 15 equal ranges (low, high] of the prediction's probability.

    `confidence` is the mean probability of a bin's images and `accuracy` the share of them that is right; null
    where it has none.
    """
    bins = np.clip(np.ceil(answers.confidence * BINS).astype(int) - 1, 0, BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    confidence = np.bincount(bins, weights=answers.confidence, minlength=BINS)
    correct = np.bincount(bins, weights=answers.correct, minlength=BINS)
    return [
        {
            "low": i / BINS,
            "high": (i + 1) / BINS,
            "count": int(count),
            "confidence": float(confidence[i] / count) if count else None,
            "accuracy": float(correct[i] / count) if count else None,
        }
        for i, count in enumerate(counts)
    ]


def expected_calibration_error(bins: list[dict[str, Any]]) -> float:
    """|confidence - accuracy| averaged over `reliability`'s bins, weighted by their images.

    Source: Guo et al., "On Calibration of Modern Neural Networks", 2017, equation 3.
    """
    gaps = [one["count"] * abs(one["confidence"] - one["accuracy"]) for one in bins if one["count"]]
    return float(sum(gaps) / sum(one["count"] for one in bins))
