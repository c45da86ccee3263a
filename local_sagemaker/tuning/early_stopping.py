"""TrainingJobEarlyStoppingType Auto: which training jobs are not worth their time."""

from collections.abc import Sequence
from statistics import fmean, median


def is_hopeless(values: Sequence[float], earlier: Sequence[Sequence[float]], *, maximize: bool) -> bool:
    """Whether a training job that has logged these objective values, one per epoch, is to be stopped.

    As in Amazon's developer guide, "Stop Training Jobs Early": after each epoch take the running average up to that
    epoch of the objective of each previous training job, and the median of these averages; a job whose current value
    is worse than the median is stopped. Previous are those that completed (so the API reference's
    TrainingJobEarlyStoppingType); one with fewer epochs counts with the average of those that it has.
    """
    averages = [fmean(curve[: len(values)]) for curve in earlier if curve]
    if not averages or not values:
        return False
    middle = median(averages)
    return values[-1] < middle if maximize else values[-1] > middle
