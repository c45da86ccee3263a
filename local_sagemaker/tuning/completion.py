"""When a tuning job has seen enough: TuningJobCompletionCriteria, TuningJobCompletionDetails, and giving up."""

from dataclasses import dataclass

from local_sagemaker.api.protocol import Document

# As on AWS: when this many jobs have failed and none has succeeded, the rest would fail too.
GIVE_UP_AFTER = 5
SIGNIFICANT = 0.01
CONVERGED_AFTER = 10


@dataclass
class Progress:
    """The objective values of a tuning job's training jobs, in the order in which they ended."""

    maximize: bool
    dimensions: int
    """How many hyperparameters are tuned."""
    best: float | None = None
    ended: int = 0
    not_improving: int = 0
    """TuningJobCompletionDetails.NumberOfTrainingJobsObjectiveNotImproving: how many evaluated training jobs in
    succession, up to the last one, did not improve the best objective before them by more than 1 % of it."""

    def add(self, value: float | None) -> None:
        """Count a training job that has ended; None when it has no objective, which says nothing about others."""
        self.ended += 1
        if value is None:
            return
        if self.best is None:
            self.best = value
            return
        gain = value - self.best if self.maximize else self.best - value
        self.not_improving = 0 if gain > SIGNIFICANT * abs(self.best) else self.not_improving + 1
        if gain > 0:
            self.best = value

    @property
    def converged(self) -> bool:
        """Whether no significant improvement (more than 1 %) is to be expected.

        Amazon's algorithm is not public. Here: none of the last ten evaluated training jobs, or twice as many as
        hyperparameters are tuned where that is more, improved the best objective by more than 1 %.
        """
        return self.not_improving >= max(CONVERGED_AFTER, 2 * self.dimensions)

    @property
    def is_hopeless(self) -> bool:
        return self.best is None and self.ended >= GIVE_UP_AFTER

    def meets(self, criteria: Document) -> bool:
        """Whether any of a TuningJobCompletionCriteria is met."""
        target = criteria.get("TargetObjectiveMetricValue")
        if target is not None and self._reaches(target):
            return True
        limit = criteria.get("BestObjectiveNotImproving", {}).get("MaxNumberOfTrainingJobsNotImproving")
        if limit is not None and self.not_improving >= limit:
            return True
        wanted = criteria.get("ConvergenceDetected", {}).get("CompleteOnConvergence") == "Enabled"
        return wanted and self.converged

    def _reaches(self, target: float) -> bool:
        if self.best is None:
            return False
        return self.best >= target if self.maximize else self.best <= target
