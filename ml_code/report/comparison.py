"""Two models on the same images: is the challenger better, worse, or as good?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

from report.answers import Correct, Labels

RESAMPLES = 10_000


def compare(challenger: Correct, champion: Correct, confidence: float, seed: int = 0) -> dict[str, Any]:
    """Compare two models by which images each gets right; both arrays are [N], in the same order.

    Returns the accuracy difference (challenger - champion) with its paired bootstrap interval, the
    exact McNemar p-value, and the counts both come from. Raises ValueError when N is 0 or differs.
    """
    if len(challenger) != len(champion) or not len(challenger):
        raise ValueError(f"cannot pair {len(challenger)} and {len(champion)} images")
    wins = int((challenger & ~champion).sum())
    losses = int((champion & ~challenger).sum())
    return {
        "difference": (wins - losses) / len(challenger),
        "difference_interval": paired_bootstrap(wins, losses, len(challenger), confidence, seed),
        "confidence": confidence,
        "mcnemar_p": mcnemar(wins, losses),
        "only_challenger_right": wins,
        "only_champion_right": losses,
    }


def compare_classes(
    challenger: Correct, champion: Correct, labels: Labels, classes: Sequence[str]
) -> list[dict[str, Any]]:
    """Images of each class that only one of the two gets right; arrays are [N], `labels` index `classes`."""
    wins, losses = (
        np.bincount(labels[won], minlength=len(classes))
        for won in (challenger & ~champion, champion & ~challenger)
    )
    counts = np.bincount(labels, minlength=len(classes))
    return [
        {
            "class": name,
            "count": int(counts[i]),
            "only_challenger_right": int(wins[i]),
            "only_champion_right": int(losses[i]),
        }
        for i, name in enumerate(classes)
    ]


def paired_bootstrap(wins: int, losses: int, count: int, confidence: float, seed: int = 0) -> list[float]:
    """Percentile bootstrap interval of the mean of the paired differences, as [low, high].

    Each of `count` images contributes +1 (only the challenger is right), -1 (only the champion) or 0,
    so resampling the images with replacement is a multinomial draw of the three counts: the same
    distribution (Efron and Tibshirani, 1993, chapter 13) in memory that does not grow with the images.
    Without any disagreement the interval is [0, 0]: these images hold no evidence of a difference.
    """
    shares = np.array([wins, losses, count - wins - losses]) / count
    draws = np.random.default_rng(seed).multinomial(count, shares, size=RESAMPLES)
    tail = (1 - confidence) / 2
    low, high = np.quantile((draws[:, 0] - draws[:, 1]) / count, [tail, 1 - tail])
    return [float(low), float(high)]


def mcnemar(wins: int, losses: int) -> float:
    """Two-sided exact McNemar p-value: a binomial test of the images on which one model is right."""
    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
