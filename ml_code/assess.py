"""Judge a retrained model: debugger rules, test set, champion, report.

    python assess.py --model DIR --training-output DIR --test DIR --context FILE [--champion DIR] --output DIR

--model            folder that holds model.tar.gz, as the training job wrote it
--training-output  folder that holds output.tar.gz: history, smdebug tensors, system metrics, step clock
--test             the test split, an ImageFolder; nothing before this job has seen it
--context          context.json: run, dataset, tuning, champion, rules and gate, written by the DAG
--champion         folder that holds model.tar.gz of the model now serving; left out when nothing serves
--debug-output, --profiler-output   what SageMaker itself uploaded of them; otherwise output.tar.gz has them
--output           where report.html, report.json, rules.json, predictions.jsonl, smoke/ and more go

Prints one line per stage with its seconds, and the decision last. The exit status says whether there is
a report, not what it decides: the decision is `verdict.decision` in report.json. On two cores and a
ResNet18, 360 images of 64 x 64 with a champion take about 12 s, half of it imports.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import shutil
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

from report.document import SCHEMA, finite, validate, write_json
from report.illustrate import illustrate
from report.models import Tested, against_champion, run_model, unpack
from report.page import render
from report.pictures import smoke_sample
from report.predictions import Predictions
from report.training_output import TrainingOutput, read_training_output
from report.verdict import Gate, decide
from rules import Outputs, actions, evaluate
from rules.managed import overrule
from rules.verdict import Policy, Verdict

_LIBRARIES = ("torch", "torchvision", "numpy", "scikit-learn", "scipy", "smdebug")
NOTHING = Outputs()
# Members of context.json that report.json repeats.
_REPEATED = ("dataset", "features", "weights", "tuning", "code", "gate", "managed_rules")
# What the page asks for, for a context that does not name the training job.
_NO_TRAINING = dict.fromkeys(("name", "instance_type", "seconds", "billable_seconds", "hyperparameters"))


@dataclass
class Clock:
    """Seconds per stage, printed as each ends."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Generator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(time.perf_counter() - start, 3)
            print(f"stage={name.replace(' ', '-')} seconds={self.seconds[name]:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("model", "training-output", "test", "context", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("champion", "debug-output", "profiler-output"):
        parser.add_argument(f"--{name}", type=Path)
    arguments = parser.parse_args()
    assess(
        arguments.model,
        arguments.training_output,
        arguments.test,
        read_context(arguments.context),
        arguments.champion,
        arguments.output,
        Outputs(arguments.debug_output, arguments.profiler_output),
    )


def read_context(path: Path) -> dict[str, Any]:
    """context.json; raises ValueError when what decides (gate, rules, run) is missing or wrong."""
    context: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for key in ("run", "rules", "gate"):
        if not isinstance(context.get(key), dict):
            raise ValueError(f"context.json has no {key}")
    for name, rule in context["rules"].items():
        if rule.get("policy") not in get_args(Policy):
            raise ValueError(
                f"context.json: policy of {name} is {rule.get('policy')!r}, not fail, warn or ignore"
            )
    return context


def assess(
    model: Path,
    training_output: Path,
    test: Path,
    context: dict[str, Any],
    champion: Path | None,
    output: Path,
    platform: Outputs = NOTHING,
) -> dict[str, Any]:
    """Do it all, write everything below `output` and return report.json's document.

    :param platform: what SageMaker uploaded of the training's debugger and profiler; the rest is in its archive.
    """
    clock, gate = Clock(), Gate(**context["gate"])
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        with clock.stage("unpack"):
            unpacked = unpack(training_output / "output.tar.gz", scratch / "training")
        outputs = Outputs(
            platform.debug or unpacked / "debug-output", platform.profiler or unpacked / "profiler-output"
        )
        with clock.stage("rules"):
            verdicts = judge(outputs, context, output)
        with clock.stage("training output"):
            training = read_training_output(unpacked, outputs)
            if outputs.profiler and outputs.profiler.is_dir():
                shutil.copytree(outputs.profiler, output / "profiler-output", dirs_exist_ok=True)
        with clock.stage("challenger"):
            challenger = run_model(model / "model.tar.gz", test, scratch / "challenger", gate.confidence)
        rival = None
        if champion is not None:
            with clock.stage("champion"):
                archive = champion / "model.tar.gz"
                rival = against_champion(challenger, archive, test, scratch / "champion", gate.confidence)
    verdict = decide(challenger.metrics, rival, verdicts, gate)
    report = _document(context, challenger, rival, verdicts, verdict, training, clock)
    with clock.stage("page"):
        _write(output, report, challenger.predictions, training, test)
    print(f"decision={verdict['decision']} accuracy={challenger.metrics['accuracy']:.4f}", flush=True)
    for reason in verdict["reasons"]:
        print(f"  {reason}", flush=True)
    return report


def judge(outputs: Outputs, context: dict[str, Any], output: Path) -> list[Verdict]:
    """The verdicts on context.json's rules, ProfilerReport's page, and messages to those who wait for one."""
    verdicts = evaluate(outputs, context["rules"])
    managed = context.get("managed_rules")
    if managed is not None:
        return overrule(verdicts, managed)
    return [_tell(verdict, context["rules"][verdict.name].get("notify", [])) for verdict in verdicts]


def _tell(verdict: Verdict, receivers: Sequence[str]) -> Verdict:
    """Send the finding to its receivers; the verdict says so where that failed."""
    if verdict.status != "IssuesFound" or not receivers:
        return verdict
    messages = [
        {"name": "sms" if receiver.startswith("+") else "email", "endpoint": receiver}
        for receiver in receivers
    ]
    problems = actions.carry_out(verdict.name, json.dumps(messages), verdict.detail)
    return dataclasses.replace(verdict, detail=" ".join([verdict.detail, *problems]))


def _document(
    context: dict[str, Any],
    challenger: Tested,
    rival: dict[str, Any] | None,
    verdicts: Sequence[Verdict],
    verdict: dict[str, Any],
    training: TrainingOutput,
    clock: Clock,
) -> dict[str, Any]:
    """report.json, without numbers that JSON lacks."""
    report, not_finite = finite(
        {
            "schema_version": 1,
            "verdict": verdict,
            "metrics": challenger.metrics,
            "champion": rival,
            "rules": [one.as_json() for one in verdicts],
            "model": {
                **challenger.manifest,
                "archive_sha256": challenger.archive_sha256,
                "archive_bytes": challenger.archive_bytes,
            },
            "profiler": training.profiler(),
            "training": {
                **_NO_TRAINING,
                **(context.get("training") or {}),
                "history": training.history,
                "hook_errors": training.hook_errors,
            },
            "serving": context.get("champion"),
            "run": context["run"],
            **{
                key: context.get(key)
                for key in ("dataset", "features", "weights", "tuning", "code", "gate", "managed_rules")
            },
            "unreadable": [
                *training.unreadable,
                *({"split": "test", **entry} for entry in challenger.predictions.unreadable),
            ],
            "assessment": {
                "at": datetime.now(UTC).isoformat(timespec="seconds"),
                "seconds": clock.seconds,
                "seconds_per_image": challenger.seconds_per_image,
                "libraries": {name: version(name) for name in _LIBRARIES},
                "python": platform.python_version(),
            },
        }
    )
    return {**report, "not_finite": not_finite}


def _write(
    output: Path, report: dict[str, Any], predictions: Predictions, training: TrainingOutput, test: Path
) -> None:
    validate(report)
    page = render(report, illustrate(report, predictions, training, test))
    (output / "report.html").write_text(page, encoding="utf-8")
    write_json(output / "report.json", report)
    shutil.copyfile(SCHEMA, output / SCHEMA.name)
    write_json(output / "rules.json", report["rules"])
    predictions.write(output / "predictions.jsonl")
    _write_smoke(output / "smoke", predictions, test)


def _write_smoke(folder: Path, predictions: Predictions, test: Path) -> None:
    """Copy the images to ask a new endpoint about, under names without folders, and what it must answer."""
    folder.mkdir(exist_ok=True)
    rows = []
    for number, i in enumerate(smoke_sample(predictions)):
        source = test / predictions.files[i]
        file = f"{number}{source.suffix.lower()}"
        shutil.copyfile(source, folder / file)
        rows.append({**predictions.row(i), "file": file})
    write_json(folder / "smoke.json", rows)


if __name__ == "__main__":
    main()
