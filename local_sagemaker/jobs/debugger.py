"""The platform's side of SageMaker Debugger: configuration files, tensors and metrics on their way, rule jobs.

The hook is smdebug's, inside the script. The rules run in the image that a request names as RuleEvaluatorImage (its
row in images.yaml says what that is here), each as a processing job beside the training job: it finds its task in
the file RULE_CONFIG and leaves its answer in the file RULE_STATUS, see docs/contracts.md.
"""

import hashlib
import json
import logging
import re
import shutil
import signal
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from local_sagemaker.api.protocol import Document, invalid
from local_sagemaker.api.resources import Resources
from local_sagemaker.aws.logs import Shipper
from local_sagemaker.cloud import ClosedError, Cloud
from local_sagemaker.jobs.checks import check_bucket, check_s3_source
from local_sagemaker.jobs.uploads import FolderUpload
from local_sagemaker.processes.keeper import signal_group
from local_sagemaker.processes.mark import MARK
from local_sagemaker.processes.runner import Command, Run, box, environment, job_folder, log_end

log = logging.getLogger(__name__)

TENSORS, PROFILER = "/opt/ml/output/tensors", "/opt/ml/output/profiler"
# The row of images.yaml that samples system metrics, as the platform's agent does on an instance.
AGENT = "local/system-metrics:1"
INTERVAL_MS = 500
RULE_LIMIT_S = 86_400.0
# smdebug reads until this file is there. Where a job is SageMaker's, it leaves the writing to the platform.
END_OF_TENSORS = "training_job_end.ts"
KINDS = {
    "DebugRuleConfigurations": "DebugRuleEvaluationStatuses",
    "ProfilerRuleConfigurations": "ProfilerRuleEvaluationStatuses",
}
DETAILS_LIMIT = 1024


def check_debugger(cloud: Cloud, request: Document) -> None:
    """Raises ApiError for a hook, profiler or rule that could not be carried out."""
    for kind in KINDS:
        names = [rule["RuleConfigurationName"] for rule in request.get(kind, [])]
        if len(set(names)) < len(names):
            raise invalid(f"{kind} has two rules of one name")
        for rule in request.get(kind, []):
            image = cloud.images.find(rule["RuleEvaluatorImage"])
            if not image.process or image.docker:
                raise invalid(
                    f"The image {rule['RuleEvaluatorImage']} of rule {rule['RuleConfigurationName']} has no "
                    "`process` command in images.yaml"
                )
            if uri := _source(rule):
                check_s3_source(cloud, uri, "S3Prefix", request["RoleArn"])
    path = request.get("DebugHookConfig", {}).get("LocalPath", TENSORS)
    if not box(cloud, "TrainingJob", "x").local(path):
        raise invalid(
            f"DebugHookConfig.LocalPath {path} is not below /opt/ml, which is what a job here may use"
        )
    for config in ("DebugHookConfig", "ProfilerConfig"):
        if uri := request.get(config, {}).get("S3OutputPath"):
            check_bucket(cloud, uri)
    if _profiles(request):
        if "S3OutputPath" not in request["ProfilerConfig"]:
            raise invalid("ProfilerConfig.S3OutputPath is required")
        cloud.images.find(AGENT)


def _profiles(job: Document) -> bool:
    return "ProfilerConfig" in job and not job["ProfilerConfig"].get("DisableProfiler", False)


@dataclass
class _Live:
    """A training job whose processes run."""

    job: Document
    run: Run
    folder: Path
    """debug-output/ and profiler-output/ of all hosts, until the last rule has read them."""
    rules: list[threading.Thread] = field(default_factory=list)
    abandoned: threading.Event = field(default_factory=threading.Event)
    """Set when another attempt at the job begins: what the rules say of this one is not wanted."""
    agent: Any = None
    cleaner: threading.Thread | None = None
    """Removes the folder once the last rule has ended; nothing else does, so none can take a later attempt's."""

    @property
    def ended(self) -> Path:
        return self.folder / "training-ended"


class Debugger:
    """Carries out the debugger's and profiler's members of training jobs."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._rule_jobs = Resources(cloud.store, "ProcessingJob")
        self._live: dict[str, _Live] = {}
        self._earlier: dict[str, _Live] = {}
        """Attempts whose processes have ended and whose rules may not have."""

    def announce(self, document: Document) -> None:
        """Give a new training job the statuses that its rules have from the start."""
        for kind, statuses in KINDS.items():
            if kind in document:
                document[statuses] = [_status(rule) for rule in document[kind]]
        if _profiles(document):
            document["ProfilingStatus"] = "Enabled"

    def check_update(self, job: Document, request: Document) -> list[Document]:
        """UpdateTrainingJob's new profiler rules. Raises ApiError."""
        known = {rule["RuleConfigurationName"] for rule in job.get("ProfilerRuleConfigurations", [])}
        rules = request.get("ProfilerRuleConfigurations", [])
        new = [rule for rule in rules if rule["RuleConfigurationName"] not in known]
        profiler = {**job.get("ProfilerConfig", {}), **request.get("ProfilerConfig", {})}
        changed = {"ProfilerConfig": profiler} if profiler else {}
        check_debugger(self._cloud, {**job, **changed, "ProfilerRuleConfigurations": new})
        return new

    def write_update(self, job: Document, request: Document, new: list[Document]) -> None:
        """Change the document `job` as the request asks."""
        if "ProfilerConfig" in request:
            job["ProfilerConfig"] = {**job.get("ProfilerConfig", {}), **request["ProfilerConfig"]}
        if new:
            statuses = KINDS["ProfilerRuleConfigurations"]
            job["ProfilerRuleConfigurations"] = [*job.get("ProfilerRuleConfigurations", []), *new]
            job[statuses] = [*job.get(statuses, []), *map(_status, new)]
        job["ProfilingStatus"] = "Enabled" if _profiles(job) else "Disabled"

    def carry_out_update(self, job: Document, new: list[Document]) -> None:
        """Let the processes of a job that runs follow its document."""
        if live := self._live.get(job["TrainingJobName"]):
            live.job = job
            self._start_profiler(live)
            for rule in new:
                self._start_rule(live, "ProfilerRuleConfigurations", rule)

    @contextmanager
    def watching(self, job: Document, run: Run) -> Generator[None, None, None]:
        """Everything between the start of a job's processes and their end; the rules go on after it."""
        name = job["TrainingJobName"]
        self._abandon(name)
        live = _Live(job, run, job_folder(self._cloud, "TrainingJob", name) / "debug")
        rules = [(kind, rule) for kind in KINDS for rule in job.get(kind, [])]
        if not (rules or "DebugHookConfig" in job or "ProfilerConfig" in job):
            yield
            return
        shutil.rmtree(live.folder, ignore_errors=True)
        self._share(live)
        self._configure_hook(live)
        self._live[name] = live
        try:
            self._start_profiler(live)
            for kind, rule in rules:
                self._start_rule(live, kind, rule)
            yield
        finally:
            self._earlier[name] = self._live.pop(name)
            self._stop_profiler(live)
            live.ended.touch()
            live.cleaner = threading.Thread(
                target=self._clean_up, args=(live,), name=f"debugger {name}", daemon=True
            )
            live.cleaner.start()

    def end_lost_rules(self, job: Document) -> None:
        """Give a job that has ended the last word on rules that never ran, or whose processes were lost."""
        if job["TrainingJobName"] in self._earlier:
            return
        details = (
            "ClientError: the rule was not evaluated: its process was lost, or the training job's never ran"
        )
        for statuses in KINDS.values():
            for status in job.get(statuses, []):
                if status["RuleEvaluationStatus"] == "InProgress":
                    status |= {"RuleEvaluationStatus": "Error", "StatusDetails": details}

    def has_lost_rules(self, job: Document) -> bool:
        """Whether end_lost_rules() has something to do."""
        entries = [status for statuses in KINDS.values() for status in job.get(statuses, [])]
        return any(status["RuleEvaluationStatus"] == "InProgress" for status in entries)

    def is_evaluating(self, name: str) -> bool:
        """Whether rules of an ended job are still at work on its files."""
        earlier = self._earlier.get(name)
        return earlier is not None and any(rule.is_alive() for rule in earlier.rules)

    def _abandon(self, name: str) -> None:
        """End the rules of an earlier attempt at a job."""
        if earlier := self._earlier.get(name):
            earlier.abandoned.set()
            if earlier.cleaner:
                earlier.cleaner.join()

    def _clean_up(self, live: _Live) -> None:
        for rule in live.rules:
            rule.join()
        shutil.rmtree(live.folder, ignore_errors=True)
        self._earlier.pop(live.job["TrainingJobName"], None)

    def _share(self, live: _Live) -> None:
        """Let all hosts write into the same two folders: S3 has one prefix for all of them too."""
        hook = live.job.get("DebugHookConfig", {})
        for output, path in (("debug-output", hook.get("LocalPath", TENSORS)), ("profiler-output", PROFILER)):
            (live.folder / output).mkdir(parents=True)
            for host in live.run.boxes:
                link = host.local(path)
                assert link, "check_debugger() has seen to that"
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(live.folder / output)

    def _configure_hook(self, live: _Live) -> None:
        name = live.job["TrainingJobName"]
        if hook := live.job.get("DebugHookConfig"):
            output = live.folder / "debug-output"
            for host in live.run.boxes:
                local = host.here(hook.get("LocalPath", TENSORS))
                host.write_config("debughookconfig", {**hook, "LocalPath": local})

            def end(final: bool) -> None:
                if final:
                    (output / END_OF_TENSORS).touch()

            live.run.watch.add(end)
            uri = f"{hook['S3OutputPath'].rstrip('/')}/{name}/debug-output"
            live.run.watch.add(FolderUpload(self._cloud.s3, [output], uri).send)
        if uri := live.job.get("ProfilerConfig", {}).get("S3OutputPath"):
            uri = f"{uri.rstrip('/')}/{name}/profiler-output"
            # Before the last upload, so that the last sample is in it.
            live.run.watch.add(lambda final: self._stop_profiler(live) if final else None)
            metrics = FolderUpload(self._cloud.s3, [live.folder / "profiler-output"], uri, growing=True)
            live.run.watch.add(metrics.send)

    def _start_profiler(self, live: _Live) -> None:
        """Start, or start anew, what samples the machine, and tell the script's hook."""
        self._stop_profiler(live)
        config = live.job.get("ProfilerConfig")
        if config is None:
            return
        for host in live.run.boxes:
            parameters = {"LocalPath": host.here(PROFILER), **config.get("ProfilingParameters", {})}
            content = {**config, "DisableProfiler": not _profiles(live.job)}
            # Without parameters smdebug leaves framework profiling off, which is what a request without them asks for.
            if "ProfilingParameters" in config:
                content["ProfilingParameters"] = parameters
            host.write_config("profilerconfig", content)
        if not _profiles(live.job):
            return
        image = self._cloud.images.find(AGENT)
        interval = str(config.get("ProfilingIntervalInMilliseconds", INTERVAL_MS))
        variables = {
            **environment(self._cloud, image, live.run.box.tmp, live.job["Region"]),
            # Not the job's, with whose processes it would be swept.
            MARK: self._cloud.settings.mark,
        }
        argv = [*image.process, "--output", str(live.folder / "profiler-output"), "--interval-ms", interval]
        output = live.folder / "system-metrics.log"
        live.agent = self._cloud.warm.start(image, argv, variables, live.folder, output)

    def _stop_profiler(self, live: _Live) -> None:
        if live.agent:
            _end(live.agent)
            live.agent = None

    def _start_rule(self, live: _Live, kind: str, rule: Document) -> None:
        name = live.job["TrainingJobName"]
        thread = threading.Thread(
            target=self._run_rule, args=(live, kind, rule), name=f"rule {name}", daemon=True
        )
        live.rules.append(thread)
        thread.start()

    def _run_rule(self, live: _Live, kind: str, rule: Document) -> None:
        """Carry out one rule job. Never raises: what goes wrong is the rule's StatusDetails."""
        job, rule_name = live.job, rule["RuleConfigurationName"]
        try:
            status, details = self._evaluate(live, rule)
        except ClosedError:
            return
        except Exception as error:
            if self._cloud.closing.is_set():
                return
            log.exception("rule %s of %s", rule_name, job["TrainingJobName"])
            status, details = "Error", f"InternalServerError: {type(error).__name__}: {error}"
        if live.abandoned.is_set():
            return
        with self._cloud.store.change("TrainingJob", job["TrainingJobName"]) as document:
            for entry in document.get(KINDS[kind], []):
                if entry["RuleConfigurationName"] == rule_name:
                    entry |= {"RuleEvaluationStatus": status, "LastModifiedTime": time.time()}
                    entry["StatusDetails"] = details[:DETAILS_LIMIT] or None
        log.info("rule %s of %s: %s", rule_name, job["TrainingJobName"], status)

    def _evaluate(self, live: _Live, rule: Document) -> tuple[str, str]:
        """Run the rule's process to its end; status and details."""
        job, image = live.job, self._cloud.images.find(rule["RuleEvaluatorImage"])
        identifier = rule_job_name(job["TrainingJobName"], rule["RuleConfigurationName"])
        self._record(job, rule, identifier)
        place = box(self._cloud, "ProcessingJob", identifier)
        place.clean()
        place.create()
        output = place.ml / "processing/output"
        output.mkdir(parents=True)
        config = {
            "RuleConfigurationName": rule["RuleConfigurationName"],
            "RuleParameters": rule.get("RuleParameters", {}),
            "TrainingJobName": job["TrainingJobName"],
            "TrainingJobArn": job["TrainingJobArn"],
            "DebugOutputPath": str(live.folder / "debug-output"),
            "ProfilerOutputPath": str(live.folder / "profiler-output"),
            "TrainingEndedPath": str(live.ended),
            "OutputPath": str(output),
        }
        if uri := _source(rule):
            source = place.ml / "input" / uri.rpartition("/")[2]
            self._cloud.s3.download_file(uri, source)
            config["SourcePath"] = str(source)
        place.write_config("ruleconfig", config)
        status = place.ml / "output/rule-status.json"
        stream = f"{identifier}/{place.root.name}-{int(time.time())}"
        run = Run(
            cloud=self._cloud,
            name=f"ProcessingJob/{identifier}",
            boxes=[place],
            shippers=[Shipper(self._cloud.aws, place.log, "/aws/sagemaker/ProcessingJobs", stream)],
            stop=live.abandoned,
            interruption=threading.Event(),
            limit_s=RULE_LIMIT_S,
        )
        upload = FolderUpload(self._cloud.s3, [output], _rule_output(job, rule))
        run.watch.add(upload.send)
        variables = environment(self._cloud, image, place.tmp, job["Region"])
        own = {
            "RULE_CONFIG": str(place.ml / "input/config/ruleconfig.json"),
            "RULE_STATUS": str(status),
            "PROCESSING_JOB_ARN": self._rule_jobs.get(identifier)["ProcessingJobArn"],
        }
        outcome = run.execute(image, [Command(place, image.process, place.base, variables, own)])
        result = _read(status) if outcome.exit_code == 0 else None
        answer = result or ("Error", f"ClientError: the rule's process gave no answer: {log_end(place.log)}")
        self._rule_jobs.set(
            identifier,
            ProcessingJobStatus="Failed" if answer[0] == "Error" else "Completed",
            ProcessingEndTime=time.time(),
            ExitMessage=answer[1][:DETAILS_LIMIT],
        )
        place.clean()
        return answer

    def _record(self, job: Document, rule: Document, identifier: str) -> None:
        """The processing job that a rule is, so that its ARN can be described. Once for all of a job's attempts."""
        cluster = {
            "InstanceCount": 1,
            "InstanceType": rule.get("InstanceType", "ml.t3.medium"),
            "VolumeSizeInGB": rule.get("VolumeSizeInGB", 1),
        }
        document = {
            "ProcessingJobName": identifier,
            "ProcessingJobStatus": "InProgress",
            "AppSpecification": {"ImageUri": rule["RuleEvaluatorImage"]},
            "Environment": rule.get("RuleParameters", {}),
            "ProcessingResources": {"ClusterConfig": cluster},
            "StoppingCondition": {"MaxRuntimeInSeconds": int(RULE_LIMIT_S)},
            "RoleArn": job["RoleArn"],
            "TrainingJobArn": job["TrainingJobArn"],
            "ProcessingStartTime": time.time(),
            "Region": job["Region"],
        }
        self._rule_jobs.store.delete("ProcessingJob", identifier)
        arn = self._rule_jobs.create(identifier, job["Region"], document)
        with self._cloud.store.change("TrainingJob", job["TrainingJobName"]) as changed:
            for statuses in KINDS.values():
                for entry in changed.get(statuses, []):
                    if entry["RuleConfigurationName"] == rule["RuleConfigurationName"]:
                        entry |= {"RuleEvaluationJobArn": arn, "RuleEvaluationStatus": "InProgress"}


def rule_job_name(training_job: str, rule: str) -> str:
    """JOB-RULE-HASH, as seen on AWS: the job's first 26 characters, the rule's in lower case.

    A rule's name may hold anything, what comes out is a name that a processing job may have.

    >>> rule_job_name("train", "../My rule")
    'train-my-rule-90b3c4ff'
    """
    digest = hashlib.sha256(f"{training_job}/{rule}".encode()).hexdigest()[:8]
    middle = re.sub(r"[^a-z0-9]+", "-", rule.lower()).strip("-")[:26].rstrip("-")
    return "-".join(filter(None, [training_job[:26].rstrip("-"), middle, digest]))


def _end(process: Any) -> None:
    """End the agent kindly: it takes a last sample."""
    signal_group(process.pid, signal.SIGTERM)
    if process.wait(5) is None:
        signal_group(process.pid, signal.SIGKILL)
        process.wait(5)


def _status(rule: Document) -> Document:
    return {
        "RuleConfigurationName": rule["RuleConfigurationName"],
        "RuleEvaluationStatus": "InProgress",
        "LastModifiedTime": time.time(),
    }


def _source(rule: Document) -> str | None:
    """Where the code of a rule of the user's own is."""
    uri: str | None = rule.get("RuleParameters", {}).get("source_s3_uri")
    return uri


def _rule_output(job: Document, rule: Document) -> str:
    parent = rule.get("S3OutputPath", job["OutputDataConfig"]["S3OutputPath"]).rstrip("/")
    return f"{parent}/{job['TrainingJobName']}/rule-output/{rule['RuleConfigurationName']}"


def _read(status: Path) -> tuple[str, str] | None:
    """The answer of a rule's process; None when it is none."""
    try:
        content = json.loads(status.read_text())
        answer, details = content["Status"], content.get("Details", "")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return (answer, str(details)) if answer in {"NoIssuesFound", "IssuesFound", "Error"} else None
