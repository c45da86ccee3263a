"""What answers without looking at the picture would reach: a model must be worth more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from report.answers import Labels


def baselines(labels: Labels, classes: Sequence[str], prior: Mapping[str, int] | None) -> dict[str, Any]:
    """Expected measures of scikit-learn's DummyClassifier, computed instead of drawn.

    `majority` (strategy most_frequent) always answers the commonest class; `stratified` draws each answer from the
    classes' shares, which are also the probabilities that it states.

    :param prior: training images of each class; without them the shares are the test split's own.
    """
    count = len(classes)
    images = np.bincount(labels, minlength=count)
    given = np.array([prior.get(name, 0) if prior else 0 for name in classes])
    source = "train" if given.sum() else "test"
    shares = (given if given.sum() else images) / (given.sum() or images.sum())
    tested, present = images / images.sum(), images > 0
    largest = int(shares.argmax())
    stated = np.clip(shares, np.finfo(float).eps, 1)
    return {
        "prior": source,
        "majority": {
            "class": classes[largest],
            "accuracy": float(tested[largest]),
            "balanced_accuracy": float(present[largest] / present.sum()),
        },
        "stratified": {
            "accuracy": float((shares * tested).sum()),
            "balanced_accuracy": float(shares[present].mean()),
            "log_loss": float(-(tested * np.log(stated)).sum()),
        },
    }
