"""Rules over labels and predictions: ClassImbalance, Confusion.

Definitions: AWS, "List of Debugger built-in rules". Their implementation is closed; each docstring states how the
text is read here. A script that saves neither has both in its loss: with a collection of include_regex
`CrossEntropyLoss_input`, the predictions are `CrossEntropyLoss_input_0` and the labels `CrossEntropyLoss_input_1`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rules.debug.pairs import Pairs, last, read_pairs
from rules.debug.saved_tensors import Array, Mode, SavedTensors
from rules.debug.short_runs import cut
from rules.verdict import Finding, NotEvaluatedError, Plot, Series

_HOW = (
    "add a collection with include_regex CrossEntropyLoss_input to the debugger hook, and give the rule {labels} "
    "CrossEntropyLoss_input_1 and {predictions} CrossEntropyLoss_input_0; or save tensors by these names with "
    "hook.save_tensor, into a collection that the hook's configuration has"
)
# So many labels of each class, on average, that chance alone makes no ratio of 10: a Poisson count of 20 is 3 or
# less once in 300,000 times.
_PER_CLASS = 20


@dataclass(frozen=True)
class ClassImbalance:
    """Fires when the most frequent class has more than `threshold_imbalance` times the labels of the rarest, or when
    of a class a share above `threshold_misprediction` is mispredicted.

    Readings: classes are those that occur among the labels (a class without any is not known of). Labels count from
    the start of training, and are judged at every step once there are `samples` of them and 20 for each class.
    Mispredictions are judged over the last `samples` labels of the run, since a network that has not learned yet
    mispredicts every class. TRAIN steps are taken where there are any, since it is what was trained on that may be
    out of balance. `argmax` says that predictions have one column per class, which they may have without it.
    A `samples` of 500 is cut where there are fewer labels.
    """

    threshold_imbalance: float = 10.0
    threshold_misprediction: float = 0.7
    samples: int = 500
    argmax: bool = False
    labels_regex: str = ".*labels"
    predictions_regex: str = ".*predictions"

    def check(self, tensors: SavedTensors) -> Finding:
        labels = tensors.names(regex=self.labels_regex)
        predictions = tensors.names(regex=self.predictions_regex)
        if not labels:
            how = _HOW.format(labels="labels_regex", predictions="predictions_regex")
            raise NotEvaluatedError(f"no tensor matching {self.labels_regex!r} was saved; {how}")
        modes: tuple[Mode, ...] = ("TRAIN", "EVAL")
        pairs: list[Pairs] = []
        for mode in modes:
            pairs = pairs or read_pairs(
                tensors, labels, predictions or labels, mode, self.argmax and bool(predictions)
            )
        if not pairs:
            raise NotEvaluatedError(f"{labels[0]} and its predictions were saved at no step together")
        total = sum(len(one.labels) for one in pairs)
        samples, note = cut(
            "samples", self.samples, default=500, needs=self.samples, points=total, least=100, unit="labels"
        )
        balance = self._balance(pairs, samples, labels[0])
        finding, more = balance, ""
        if not predictions:
            more = (
                f"Mispredictions are not evaluated: no tensor matching {self.predictions_regex!r} was saved."
            )
        elif not balance.issue:
            finding, more = self._mispredictions(pairs, samples, predictions[0]), _sentence(balance.detail)
        detail = " ".join(filter(None, [_sentence(finding.detail), more, f"({note}.)" if note else ""]))
        return dataclasses.replace(finding, detail=detail)

    def _balance(self, pairs: Sequence[Pairs], samples: int, tensor: str) -> Finding:
        seen = np.zeros(1 + max(int(one.labels.max()) for one in pairs), np.int64)
        ratios: list[tuple[int, float]] = []
        at, counts = pairs[-1], seen
        for one in pairs:
            seen = seen + np.bincount(one.labels, minlength=len(seen))
            there = seen[seen > 0]
            if seen.sum() < max(samples, _PER_CLASS * len(there)):
                continue
            ratios.append((one.step, float(there.max() / there.min())))
            at, counts = one, seen
            if ratios[-1][1] > self.threshold_imbalance:
                break
        if not ratios:
            raise NotEvaluatedError(
                f"too short: {seen.sum()} labels of {np.count_nonzero(seen)} classes were saved, {_PER_CLASS} for each "
                "are needed"
            )
        most, rarest = int(counts.argmax()), int(np.where(counts > 0, counts, counts.max() + 1).argmin())
        value = ratios[-1][1]
        issue = value > self.threshold_imbalance
        detail = (
            f"class {most} has {counts[most]} of the first {counts.sum()} labels and class {rarest} {counts[rarest]}, "
            f"{value:.3g} times less; the threshold is {self.threshold_imbalance:g} times"
        )
        advice = "Sample rare classes more often (WeightedRandomSampler), or weight the loss by class."
        plot = Plot(
            "class",
            "labels",
            (Series.of("labels seen", enumerate(counts.tolist())),),
            float(counts.max() / self.threshold_imbalance),
        )
        return Finding(
            issue, detail, at.step, tensor, value, self.threshold_imbalance, advice if issue else "", plot
        )

    def _mispredictions(self, pairs: Sequence[Pairs], samples: int, tensor: str) -> Finding:
        labels, predictions = last(pairs, samples)
        shares = {int(one): float(np.mean(predictions[labels == one] != one)) for one in np.unique(labels)}
        worst = max(shares, key=lambda one: shares[one])
        issue = shares[worst] > self.threshold_misprediction
        detail = (
            f"{shares[worst]:.0%} of class {worst} are mispredicted in the last {len(labels)} labels, more than of any "
            f"other class; the threshold is {self.threshold_misprediction:.0%}"
        )
        advice = (
            f"Look at class {worst}: at its labels, at how many it has, and at what it is taken for; weight the loss "
            "by class. Where most classes are mispredicted, the network has not learned yet."
        )
        plot = Plot(
            "class",
            "share mispredicted",
            (Series.of("last labels", shares.items()),),
            self.threshold_misprediction,
        )
        return Finding(
            issue, detail, pairs[-1].step, tensor, shares[worst], self.threshold_misprediction,
            advice if issue else "", plot,
        )  # fmt: skip


@dataclass(frozen=True)
class Confusion:
    """Fires when in the confusion matrix c[label][prediction] of `category_no` classes a diagonal element's ratio is
    < `min_diag`, or one beside the diagonal's > `max_off_diag`.

    AWS writes c[i][i] / sum_j c[j][j] >= min_diag for the diagonal and c[j][i] / sum_j c[j][i] <= max_off_diag beside
    it. The first, a class's share in all that is right, is 1 / classes at best and can never pass at 0.9 with
    two; it is read as the second, with the denominator sum_j c[j][i]: of what was predicted as i, the share that is i
    (precision), and the share that is j. A class that occurs and is never predicted has a ratio of 0.

    Readings: the matrix is "fully populated" by the last evaluation pass, or without EVAL steps by the last 500
    pairs of TRAIN. `category_no` left out means the classes up to the largest that occurs. Tensors are those of
    `labels_collection` and `predictions_collection` whose names contain `labels` and `predictions`, or any such where
    there is no such collection.
    """

    category_no: int | None = None
    labels: str = "labels"
    predictions: str = "predictions"
    labels_collection: str = "labels"
    predictions_collection: str = "predictions"
    min_diag: float = 0.9
    max_off_diag: float = 0.1

    def check(self, tensors: SavedTensors) -> Finding:
        labels = _named(tensors, self.labels_collection, self.labels)
        predictions = _named(tensors, self.predictions_collection, self.predictions)
        for kind, names in (("labels", labels), ("predictions", predictions)):
            if not names:
                how = _HOW.format(labels="labels", predictions="predictions")
                raise NotEvaluatedError(f"no tensor named {getattr(self, kind)!r} was saved; {how}")
        where, pairs = "the last evaluation pass", read_pairs(tensors, labels, predictions, "EVAL", False)
        if pairs:
            last_pass = pairs[-1].global_step - pairs[-1].step
            pairs = [one for one in pairs if one.global_step - one.step == last_pass]
            truth, predicted = last(pairs, None)
        else:
            pairs = read_pairs(tensors, labels, predictions, "TRAIN", False)
            if not pairs:
                raise NotEvaluatedError(f"{labels[0]} and {predictions[0]} were saved at no step together")
            truth, predicted = last(pairs, 500)
            where = f"the last {len(truth)} training images"
        largest = 1 + int(max(truth.max(), predicted.max()))
        categories = self.category_no or largest
        if largest > categories:
            raise ValueError(f"category_no is {categories}, and there is a class {largest - 1}")
        if len(truth) < _PER_CLASS * len(np.unique(truth)):
            raise NotEvaluatedError(
                f"too short: {where} has {len(truth)} labels of {len(np.unique(truth))} classes, {_PER_CLASS} for each "
                "are needed"
            )
        matrix = np.zeros((categories, categories))
        np.add.at(matrix, (truth, predicted), 1)
        return self._judge(matrix, pairs[-1].step, predictions[0], where)

    def _judge(self, matrix: Array, step: int, tensor: str, where: str) -> Finding:
        totals = matrix.sum(axis=0)
        ratios = matrix / np.where(totals > 0, totals, 1)
        occurs = (totals > 0) | (matrix.sum(axis=1) > 0)
        diagonal = np.where(occurs, np.diag(ratios), np.inf)
        beside = ratios - np.diag(np.diag(ratios))
        worst = int(diagonal.argmin())
        label, prediction = (int(one) for one in np.unravel_index(beside.argmax(), beside.shape))
        low, high = float(diagonal[worst]), float(beside[label, prediction])
        diagonal_fails, beside_fails = low < self.min_diag, high > self.max_off_diag
        detail = (
            f"in {where}, {low:.1%} of what was predicted as class {worst} is class {worst}, the least of all classes "
            f"({self.min_diag:.0%} is asked for), and {high:.1%} of what was predicted as class {prediction} is class "
            f"{label}, the most of all pairs ({self.max_off_diag:.0%} is allowed)."
        )
        advice = (
            f"Look at images of class {label} taken for {prediction} and at their labels; train for longer, or with "
            "more of their images."
        )
        beside_only = beside_fails and not diagonal_fails
        plot = Plot(
            "class", "share of its predictions that are right",
            (Series.of("classes", enumerate(diagonal.tolist())),), self.min_diag,
        )  # fmt: skip
        return Finding(
            diagonal_fails or beside_fails,
            detail,
            step,
            tensor,
            high if beside_only else low,
            self.max_off_diag if beside_only else self.min_diag,
            advice if diagonal_fails or beside_fails else "",
            plot,
        )


def _named(tensors: SavedTensors, collection: str, name: str) -> list[str]:
    every = tensors.names(collection=collection) or tensors.names()
    return [one for one in every if name in one]


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
