"""Trains the tail of a network on cached features or on images (SageMaker training job).

    SM_CHANNEL_TRAIN=var/features/train SM_CHANNEL_VALIDATION=var/features/validation \\
    SM_CHANNEL_TRUNK=var/features/trunk SM_MODEL_DIR=var/model SM_OUTPUT_DATA_DIR=var/output \\
        python train.py --lr 0.03 --batch-size 64 --epochs 20

One script for tuning and for retraining. On two cores of an AVX2 server CPU the digits' 20 epochs take 0.3 s,
4 s with the debugger hook at the demo's intervals; importing torch comes before that (3 to 4 s, nothing in a
warm process). Test accuracy 0.97 to 0.98 for lr 0.001 to 0.1, batch sizes 32 to 128 and 8 to 20 epochs.

With SM_CHECKPOINT_DIR an interrupted training goes on from its last checkpoint (model/checkpoint.py). On several
hosts, or several GPUs of one, it becomes one training of several processes (model/launch.py).

Hyperparameters, channels, log lines and files: docs/contracts.md. A failure is one sentence, on stderr and in
$SM_OUTPUT_DIR/failure, and exit status 1.
"""

import copy
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.preprocessing import Preprocessing
from model import artifact, launch
from model.batches import step_sizes
from model.checkpoint import Checkpoints, fingerprint
from model.distributed import Group
from model.extraction import device
from model.hyperparameters import Hyperparameters, parse
from model.material import Material, from_features, from_images
from model.optimization import build_criterion
from model.stability import repeat_trials
from model.training import Trainer, TrainingError, evaluation_steps
from model.whitening import Whitening, zero_head
from profiler.watch import Watch

CODE = Path(__file__).resolve().parent
SERVED = {
    "inference.py": "inference.py",
    "data": "data",
    "model": "model",
    "requirements-inference.txt": "requirements.txt",
}
"""What the model archive carries, and under which name: the served code is the code that the model was made with."""
EXPECTED = (ValueError, OSError, TrainingError, launch.LaunchError)
"""What a failing job's owner can do something about; everything else comes with a traceback."""
LOGGED = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "seconds")


@dataclass(frozen=True)
class Job:
    """What SageMaker says through the environment."""

    train: Path
    validation: Path
    trunk: Path | None
    weights: Path | None
    model: Path
    output: Path
    checkpoints: Path | None
    name: str
    cpus: int

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Job":
        """:raises ValueError: naming a variable that is missing."""

        def path(name: str) -> Path:
            if not environment.get(name):
                raise ValueError(f"the environment lacks {name}: see the command at the top of train.py")
            return Path(environment[name])

        def optional(name: str) -> Path | None:
            return Path(environment[name]) if environment.get(name) else None

        return cls(
            train=path("SM_CHANNEL_TRAIN"),
            validation=path("SM_CHANNEL_VALIDATION"),
            trunk=optional("SM_CHANNEL_TRUNK"),
            weights=optional("SM_CHANNEL_WEIGHTS"),
            model=path("SM_MODEL_DIR"),
            output=path("SM_OUTPUT_DATA_DIR"),
            checkpoints=optional("SM_CHECKPOINT_DIR"),
            name=environment.get("TRAINING_JOB_NAME") or "local",
            cpus=int(environment.get("SM_NUM_CPUS") or os.cpu_count() or 1),
        )


def main(argv: Sequence[str] | None = None) -> int:
    """0, or 1 after one sentence on what went wrong."""
    argv = sys.argv[1:] if argv is None else argv
    folder = os.environ.get("SM_OUTPUT_DIR")
    try:
        settings, job = parse(argv), Job.from_environment()
        if arguments := launch.torchrun_arguments(os.environ, torch.cuda.device_count()):
            return launch.run(Path(__file__), argv, arguments, Path(folder) / "failure" if folder else None)
        with launch.group(describe) as group:
            run(settings, job, group)
    except Exception as error:
        if not isinstance(error, EXPECTED):
            traceback.print_exc()
        # The platform shows the first kilobyte of this file as the job's FailureReason.
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            (Path(folder) / "failure").write_text(f"train.py: {describe(error)}\n")
        print(f"train.py: {describe(error)}", file=sys.stderr, flush=True)
        return 1
    return 0


def describe(error: BaseException) -> str:
    return str(error) if isinstance(error, EXPECTED) else f"{type(error).__name__}: {error}"


def run(settings: Hyperparameters, job: Job, group: Group) -> None:
    """:raises ValueError: when settings or data are wrong. :raises TrainingError: when a loss is not finite."""
    torch.set_num_threads(max(1, job.cpus // group.local_size))
    torch.backends.cudnn.deterministic = True
    job.output.mkdir(parents=True, exist_ok=True)
    with Watch(settings, job.output, group) as watch:
        if job.trunk:
            material = from_features(settings, job.trunk, job.train, job.validation)
        else:
            material = from_images(settings, job.train, job.validation, job.weights, job.cpus)
        best = fit(material, settings, job, group, watch)
    if group.first:
        save(material, settings, job, best)
        print(
            line(best, f"best epoch={best['epoch']}", ("validation_loss", "validation_accuracy")), flush=True
        )


def fit(
    material: Material, settings: Hyperparameters, job: Job, group: Group, watch: Watch
) -> dict[str, Any]:
    """Trains the tail in place; the best epoch's numbers. Writes what there is to know even when it fails."""
    network, target = material.network, device()
    checkpoints = None
    if job.checkpoints and group.first:
        mark = fingerprint(settings, material)
        checkpoints = Checkpoints(job.checkpoints, mark, settings.checkpoint_seconds)
    state = group.from_first(checkpoints.read() if checkpoints else None)
    train, validation, whitening = material.train, material.validation, None
    if material.manifest["tail"] == "fc":
        whitening = Whitening.fit(train)
        zero_head(network.fc)
        train, validation = whitening(train), whitening(validation)
        # One layer's steps are too small to share: with two threads they take 0.7 ms each on an idle machine,
        # and 25 ms where another job keeps a core busy.
        torch.set_num_threads(1)
    if train.inputs.ndim > 3:
        artifact.channels_last(network.tail)
    network.tail.to(target)
    criterion = build_criterion(settings, train.labels, len(material.manifest["classes"]))
    # Before the debugger looks at it.
    untrained = copy.deepcopy(network.tail) if settings.stability and group.size == 1 else None
    trainer = Trainer(network.tail, criterion, settings, target, watch.clock, group)
    trainer.prepare = preparation(train.inputs, material.preprocessing)
    done = len(state["epochs"]) if state else 0
    if state:
        print(f"going on after epoch {done}, from the checkpoint in {job.checkpoints}", flush=True)
    training_steps = len(step_sizes(len(train.labels), settings.batch_size))
    watch.attach(trainer, done * training_steps, done * evaluation_steps(validation, settings))

    def report(epoch: dict[str, Any]) -> None:
        print(line(epoch, f"epoch={epoch['epoch']}", LOGGED), flush=True)

    try:
        best = trainer.fit(train, validation, report, checkpoints, state)
    finally:
        history = {"epochs": trainer.epochs, "unreadable": material.unreadable} | watch.finish()
        if group.first:
            artifact.write_json(job.output / "history.json", history)
            artifact.write_json(job.output / "steps.json", watch.clock.seconds)
    if untrained:
        classes = len(material.manifest["classes"])
        repeated = repeat_trials(untrained, train, validation, settings, trainer.prepare, classes, target)
        artifact.write_json(job.output / "stability.json", repeated)
    network.tail.cpu()
    if whitening:
        whitening.fold(network.fc)
    return best


def preparation(inputs: Tensor, preprocessing: Preprocessing) -> Callable[[Tensor], Tensor]:
    """From some of a split's inputs, on the device, to the tail's: float32, and channels last where it has any."""
    convert = preprocessing.normalize if inputs.dtype == torch.uint8 else Tensor.float
    if inputs.ndim == 3:
        return convert
    return lambda rows: convert(rows).contiguous(memory_format=torch.channels_last)


def save(material: Material, settings: Hyperparameters, job: Job, best: dict[str, Any]) -> None:
    """The model archive's content: weights, manifest and the code that serves them."""
    metrics = {name: best[name] for name in LOGGED if name.startswith("validation_")}
    manifest = material.manifest | {
        "job": job.name,
        "hyperparameters": settings.to_dict(),
        "validation": metrics | {"epoch": best["epoch"]},
        "counts": {"train": len(material.train.labels), "validation": len(material.validation.labels)},
    }
    artifact.save_model(job.model, material.network, manifest)
    (job.model / "code").mkdir(exist_ok=True)
    for name, served in SERVED.items():
        if (CODE / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(CODE / name, job.model / "code" / served, ignore=ignored, dirs_exist_ok=True)
        else:
            shutil.copyfile(CODE / name, job.model / "code" / served)


def line(numbers: dict[str, Any], head: str, names: Sequence[str]) -> str:
    """What SageMaker's metric definitions read: name=number, separated by spaces."""
    return " ".join([head, *(f"{name}={numbers[name]:.4f}" for name in names)])


if __name__ == "__main__":
    sys.exit(main())
