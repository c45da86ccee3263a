"""A tuning job while it is in progress: its trials, from the first one or from where a killed service left it.

The tuning job's document has the seed and the trials: number, values, names of training jobs, and whether the tuner
stopped it. A trial is written down before its training job is created. With these, the training jobs and their logs
the search is made anew after a crash and goes on: what ended is told again, what is running is waited for, what is
missing is created, what was lost is tried again.
"""

import hashlib
import logging
import math
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from local_sagemaker.api.protocol import Document
from local_sagemaker.cloud import ClosedError, Cloud
from local_sagemaker.jobs.metrics import MetricLog
from local_sagemaker.jobs.training import TrainingJobs
from local_sagemaker.processes.runner import box
from local_sagemaker.tuning.client import SearchEndedError, Searches, Session
from local_sagemaker.tuning.completion import Progress
from local_sagemaker.tuning.early_stopping import is_hopeless
from local_sagemaker.tuning.request import Definition, child_request, definitions, turns
from local_sagemaker.tuning.summaries import is_lost, is_over, objective_value
from local_sagemaker.tuning.warm_start import findings, parent_names

log = logging.getLogger(__name__)

KIND = "HyperParameterTuningJob"
POLL_S = 0.1
RETRIES = 3


@dataclass
class Trial:
    """Values that are tried: in one training job, or in several where the first were lost."""

    index: int
    """Its place among the document's Trials."""
    definition: int
    number: int
    """The search's."""
    values: dict[str, str]
    children: list[str]
    stopped_at: int | None = None
    """The epoch after which the tuner stopped its training job, if that had not ended."""
    is_over: bool = False
    is_decided: bool = False
    """Whether it is too late to stop it."""
    log: MetricLog | None = None
    curve: list[float] = field(default_factory=list)
    """Its objective after each epoch."""

    @property
    def child(self) -> str:
        """The training job that counts."""
        return self.children[-1]


class Tuner:
    """Carries out one tuning job."""

    def __init__(
        self,
        cloud: Cloud,
        training: TrainingJobs,
        searches: Searches,
        name: str,
        stop: threading.Event,
    ) -> None:
        self._cloud = cloud
        self._store = cloud.store
        self._training = training
        self._searches = searches
        self._name = name
        self._stop = stop

    def run(self) -> tuple[str, str | None]:
        """To the end: the job's final status, and its FailureReason. Raises ClosedError when the service ends."""
        try:
            return self._run()
        except SearchEndedError:
            if self._cloud.closing.is_set():
                raise ClosedError from None
            log.warning("tuning job %s: its search ended and is made anew", self._name)
        return self._run()

    def _run(self) -> tuple[str, str | None]:
        job = self._store.get(KIND, self._name)
        assert job
        with self._searches.session(self._name) as session:
            return _Tuning(self._cloud, self._training, session, job, self._stop).run()


class _Tuning:
    """A tuning job with its search."""

    def __init__(
        self,
        cloud: Cloud,
        training: TrainingJobs,
        session: Session,
        job: Document,
        stop: threading.Event,
    ) -> None:
        self._cloud = cloud
        self._store = cloud.store
        self._training = training
        self._session = session
        self._stop = stop
        self._job = job
        self._name: str = job["HyperParameterTuningJobName"]
        self._config: Document = job["HyperParameterTuningJobConfig"]
        self._definitions: list[Definition] = definitions(job)
        self._resources = [item.resources(self._config) for item in self._definitions]
        self._early = self._config.get("TrainingJobEarlyStoppingType") == "Auto"
        self._maximize = self._definitions[0].objective["Type"] == "Maximize"
        # With a seed the order of the ends is that of the starts, whichever comes first: the search then learns the
        # same things at the same moments each time, and proposes the same values. Random and Grid do not learn, and
        # what Hyperband stops depends on the moment whatever the order.
        self._in_order = self._config["Strategy"] == "Bayesian" and "RandomSeed" in self._config
        self._parallel: int = self._config["ResourceLimits"]["MaxParallelTrainingJobs"]
        seconds = self._config["ResourceLimits"].get("MaxRuntimeInSeconds", math.inf)
        self._deadline: float = job["CreationTime"] + seconds
        dimensions = max(len(item.ranges) for item in self._definitions)
        self._progress = Progress(self._maximize, dimensions)
        self._curves: list[list[float]] = []
        self._trials: list[Trial] = []
        self._children = 0

    def run(self) -> tuple[str, str | None]:
        self._open()
        running = self._restore()
        order = turns(self._job, self._definitions)
        criteria = self._config.get("TuningJobCompletionCriteria", {})
        done = False
        while True:
            halted = self._is_halted()
            while not (halted or done) and len(running) < self._parallel and len(self._trials) < len(order):
                running.append(self._start(order[len(self._trials)]))
            if halted or done:
                for trial in running:
                    self._training.stop_job(trial.child)
            if not running:
                break
            ended = self._next_end(running, halted)
            if ended is None:
                continue
            child = self._training.get(ended.child)
            if is_lost(child) and not (halted or done) and len(ended.children) <= RETRIES:
                self._try_again(ended)
                continue
            running.remove(ended)
            self._finish(ended, child)
            done = done or self._progress.meets(criteria) or self._progress.is_hopeless
        if self._stop.is_set():
            return "Stopped", None
        if self._progress.best is None:
            return "Failed", (
                f"No training job succeeded after {self._progress.ended} attempts. Please take a look at the training "
                "job failures to get more details."
            )
        # The developer guide calls only those Stopped that were stopped by hand; MaxRuntimeInSeconds completes a job.
        return "Completed", None

    def _open(self) -> None:
        for index, definition in enumerate(self._definitions):
            self._session.open(
                self._config["Strategy"],
                self._job["Seed"],
                definition.ranges,
                maximize=self._maximize,
                parallel=self._parallel,
                resources=self._resources[index],
            )
        for name in parent_names(self._job):
            if parent := self._store.get(KIND, name):
                self._session.learn(0, findings(self._training, parent, self._definitions[0].ranges))

    def _is_halted(self) -> bool:
        """Whether no trial is to be started any more, and those in progress are to stop."""
        return self._stop.is_set() or time.time() > self._deadline

    def _restore(self) -> list[Trial]:
        """The trials of the document, all as if they were running: those that have ended will end at once."""
        running = []
        ends: dict[int, float] = {}
        for index, item in enumerate(self._job["Trials"]):
            trial = Trial(
                index,
                item["Definition"],
                item["Number"],
                item["TunedHyperParameters"],
                item["Children"],
                item.get("StoppedAt"),
            )
            self._trials.append(trial)
            self._children += len(trial.children)
            self._session.restore(trial.definition, trial.number, trial.values)
            child = self._store.get("TrainingJob", trial.child)
            if child is None and self._is_halted():
                continue
            if child is None:
                self._create(trial)
            self._watch(trial)
            if child and is_over(child):
                trial.is_over = trial.is_decided = True
                ends[index] = child["TrainingEndTime"]
            if trial.stopped_at is not None:
                self._training.stop_job(trial.child)
            running.append(trial)
        if not self._in_order:
            running.sort(key=lambda trial: ends.get(trial.index, math.inf))
        return running

    def _start(self, definition: int) -> Trial:
        number, values = self._session.ask(definition)
        trial = Trial(len(self._trials), definition, number, values, [self._next_name()])
        with self._store.change(KIND, self._name) as job:
            job["Trials"].append(
                {
                    "Definition": definition,
                    "Number": number,
                    "TunedHyperParameters": values,
                    "Children": trial.children,
                }
            )
        self._trials.append(trial)
        self._create(trial)
        self._watch(trial)
        return trial

    def _try_again(self, trial: Trial) -> None:
        log.info("tuning job %s: %s was lost, its values are tried again", self._name, trial.child)
        trial.children.append(self._next_name())
        trial.stopped_at = None
        with self._store.change(KIND, self._name) as job:
            item = job["Trials"][trial.index]
            item["Children"] = trial.children
            item.pop("StoppedAt", None)
        self._create(trial)
        self._watch(trial)
        trial.is_over = trial.is_decided = False

    def _next_name(self) -> str:
        self._children += 1
        suffix = hashlib.sha256(f"{self._name}/{self._children}".encode()).hexdigest()[:8]
        return f"{self._name}-{self._children:03d}-{suffix}"

    def _create(self, trial: Trial) -> None:
        """Create the trial's training job."""
        definition = self._definitions[trial.definition]
        self._training.create_job(
            child_request(self._job, definition, trial.child, trial.values),
            self._job["Region"],
            TuningJobArn=self._job["HyperParameterTuningJobArn"],
            TuningJobName=self._name,
            TunedHyperParameters=trial.values,
            Objective=definition.objective,
            **({"TrainingJobDefinitionName": definition.name} if definition.name else {}),
        )

    def _next_end(self, running: list[Trial], halted: bool) -> Trial | None:
        """A trial whose training job has ended; None when the tuning job is to halt first."""
        candidates = running[:1] if self._in_order else running
        while True:
            for trial in running:
                self._follow(trial)
            for trial in candidates:
                if self._training.wait(trial.child, POLL_S / len(candidates)):
                    return trial
            if self._cloud.closing.is_set():
                raise ClosedError
            if not halted and self._is_halted():
                return None

    def _watch(self, trial: Trial) -> None:
        """Read the objective of a training job from its log from now on, where something depends on it."""
        if self._early or self._resources[trial.definition]:
            path = log_of(self._cloud, trial.child)
            trial.log = MetricLog(path, self._definitions[trial.definition].metric())
            trial.curve = []

    def _follow(self, trial: Trial) -> None:
        """Stop a training job whose objective has become hopeless."""
        if not trial.log:
            return
        for value in trial.log.read(ended=trial.is_over):
            trial.curve.append(value)
            if self._is_to_stop(trial) and not trial.is_decided and trial.stopped_at is None:
                trial.stopped_at = len(trial.curve)
                with self._store.change(KIND, self._name) as job:
                    job["Trials"][trial.index]["StoppedAt"] = trial.stopped_at
                log.info("tuning job %s: %s stopped at %d", self._name, trial.child, trial.stopped_at)
                self._training.stop_job(trial.child)

    def _is_to_stop(self, trial: Trial) -> bool:
        epoch = len(trial.curve)
        resources = self._resources[trial.definition]
        if not resources:
            return is_hopeless(trial.curve, self._curves, maximize=self._maximize)
        # What a job logs between the decision and its end would make the search depend on the moment.
        if trial.stopped_at is not None and epoch > trial.stopped_at:
            return False
        pruned = self._session.report(trial.definition, trial.number, epoch, trial.curve[-1])
        return pruned or epoch >= resources[1]

    def _finish(self, trial: Trial, child: Document) -> None:
        """Tell the search of a trial's end, and count it."""
        resources, value = self._resources[trial.definition], objective_value(child)
        trial.is_over = True
        # What Hyperband decides is what the search is told, however fast the training job was.
        trial.is_decided = trial.is_decided or resources is None
        self._follow(trial)
        pruned = resources is not None and trial.stopped_at is not None and trial.stopped_at < resources[1]
        self._session.tell(trial.definition, trial.number, value, pruned=pruned)
        if child["TrainingJobStatus"] == "Completed":
            self._curves.append(trial.curve)
        self._progress.add(value)
        with self._store.change(KIND, self._name) as job:
            details = job["TuningJobCompletionDetails"]
            details["NumberOfTrainingJobsObjectiveNotImproving"] = self._progress.not_improving
            if self._progress.converged:
                details.setdefault("ConvergenceDetectedTime", time.time())


def log_of(cloud: Cloud, training_job: str) -> Path:
    """The file that a training job's first host writes to."""
    return box(cloud, "TrainingJob", training_job).log
