"""Judge a retrained model: debugger rules, test set, champion, report.

    python assess.py --model DIR --training-output DIR --test DIR --context FILE [--champion DIR] --output DIR

--model            folder that holds model.tar.gz, as the training job wrote it
--training-output  folder that holds output.tar.gz: history, smdebug tensors, system metrics, step clock
--test             the test split, an ImageFolder; nothing before this job has seen it
--context          context.json: run, dataset, tuning, champion, rules and gate, written by the DAG
--train-sample     some of the training images, an ImageFolder, to compare the test split with; may be left out
--validation       the validation split, an ImageFolder, to judge an int8 network by where the context asks for one
--champion         folder that holds model.tar.gz of the model now serving; left out when nothing serves
--debug-output, --profiler-output   what SageMaker itself uploaded of them; otherwise output.tar.gz has them
--output           where report.html, report.json, model_card.md, predictions.jsonl, smoke/ and more go

Prints one line per stage with its seconds, and the decision last. The exit status says whether there is
a report, not what it decides: the decision is `verdict.decision` in report.json. With a ResNet18, 500
images of 64 x 64 and a champion take about 25 s of processor time, a quarter of it imports.
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

from data.allocator import release_freed
from report.cost import with_assessment
from report.document import finite
from report.explanations import explanations
from report.importance import importance
from report.int8 import quantised
from report.lineage import with_artefacts
from report.loaded import load, unpack
from report.models import Tested, against_champion, measured, not_comparable, run_model
from report.output import write
from report.profiler_report import write_where_possible
from report.splits import compare_splits
from report.stability import stability
from report.training_output import TrainingOutput, read_training_output
from report.verdict import Gate, decide
from rules import Outputs, actions, evaluate
from rules.managed import overrule
from rules.verdict import Policy, Verdict

_LIBRARIES = ("torch", "torchvision", "numpy", "scikit-learn", "scipy", "smdebug")
NOTHING = Outputs()
# Where AWS writes it.
PROFILER_REPORT = "rule-output/ProfilerReport"
PROFILER_PAGE = f"{PROFILER_REPORT}/profiler-output/profiler-report.html"
# Members of context.json that report.json repeats.
_REPEATED = ("dataset", "features", "weights", "tuning", "code", "gate", "assess", "managed_rules")
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
            release_freed()
            self.seconds[name] = round(time.perf_counter() - start, 3)
            print(f"stage={name.replace(' ', '-')} seconds={self.seconds[name]:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("model", "training-output", "test", "context", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("champion", "train-sample", "validation", "debug-output", "profiler-output"):
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
        arguments.train_sample,
        arguments.validation,
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
    train_sample: Path | None = None,
    validation: Path | None = None,
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
            loaded = load(model / "model.tar.gz", scratch / "challenger")
        with clock.stage("int8"):
            bound = (context.get("assess") or {}).get("int8_max_accuracy_loss")
            loaded, int8 = quantised(loaded, scratch / "challenger", validation, bound, output)
        with clock.stage("test"):
            prior = (context.get("dataset") or {}).get("splits", {}).get("train")
            challenger = run_model(loaded, test, output / "predictions.jsonl", gate.confidence, prior=prior)
        with clock.stage("latency and robustness"):
            challenger.metrics.update(measured(challenger, test, gate.confidence))
        with clock.stage("splits"):
            splits = compare_splits(loaded.model, train_sample, challenger.predictions, test, output)
        rival = None
        if champion is not None:
            with clock.stage("champion"):
                rival = against_champion(
                    challenger,
                    champion / "model.tar.gz",
                    test,
                    scratch / "champion",
                    output / "champion-predictions.jsonl",
                    gate.confidence,
                )
        elif serving := context.get("champion"):
            rival = not_comparable(f"its archive {serving['model_data']} is not there.")
    verdict = decide(challenger.metrics, rival, verdicts, gate, loaded.archive_bytes)
    with clock.stage("explanations"):
        wanted = (context.get("assess") or {}).get("explanations", "summary")
        explained, pictures = explanations(
            wanted, loaded.model, challenger.predictions, test, gate.confidence, output / "explanations"
        )
    report = _document(
        context, challenger, rival, verdicts, verdict, training, explained, splits, int8, clock
    )
    report["profiler"]["page"] = PROFILER_PAGE if (output / PROFILER_PAGE).is_file() else None
    with clock.stage("page"):
        write(output, report, challenger.predictions, training, pictures, test, train_sample)
    print(f"decision={verdict['decision']} accuracy={challenger.metrics['accuracy']:.4f}", flush=True)
    for reason in verdict["reasons"]:
        print(f"  {reason}", flush=True)
    return report


def judge(outputs: Outputs, context: dict[str, Any], output: Path) -> list[Verdict]:
    """The verdicts on context.json's rules, ProfilerReport's page, and messages to those who wait for one."""
    rules = context["rules"]
    verdicts = evaluate(outputs, rules)
    if "ProfilerReport" in rules:
        parameters = rules["ProfilerReport"].get("parameters") or {}
        write_where_possible(outputs.profiler, output / PROFILER_REPORT, parameters)
    managed = context.get("managed_rules")
    if managed is not None:
        return overrule(verdicts, managed)
    return [_tell(verdict, rules[verdict.name].get("notify", [])) for verdict in verdicts]


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
    explained: dict[str, Any],
    splits: dict[str, Any],
    int8: dict[str, Any],
    clock: Clock,
) -> dict[str, Any]:
    """report.json, without numbers that JSON lacks."""
    loaded = challenger.loaded
    report, not_finite = finite(
        {
            "schema_version": 1,
            "verdict": verdict,
            "metrics": challenger.metrics,
            "champion": rival,
            "explanations": explained,
            "splits": splits,
            "int8": int8,
            "rules": [one.as_json() for one in verdicts],
            "model": {
                **loaded.model.manifest,
                "archive_sha256": loaded.archive_sha256,
                "archive_bytes": loaded.archive_bytes,
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
            **{key: context.get(key) for key in _REPEATED},
            "importance": importance(context.get("tuning")),
            "stability": stability(training.stability, context.get("tuning")),
            "cost": with_assessment(
                context.get("cost"),
                round(sum(clock.seconds.values()), 1),
                challenger.metrics["latency"]["images_per_second"],
            ),
            "lineage": with_artefacts(
                context.get("lineage"),
                loaded.model.manifest,
                loaded.archive_sha256,
                {name: version(name) for name in _LIBRARIES},
            ),
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


if __name__ == "__main__":
    main()
