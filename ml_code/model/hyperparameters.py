"""train.py's hyperparameters: both spellings, SageMaker's quoting, and one sentence for each mistake."""

import argparse
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from model import architectures

OPTIMIZERS = ("sgd", "adamw")
OBJECTIVES = ("validation_loss", "validation_accuracy")
CLASS_WEIGHTS = ("none", "balanced")
PRECISIONS = ("auto", "fp32", "bf16")


class HyperparameterError(ValueError):
    """A hyperparameter is missing or wrong; the message names it and what it must be."""


@dataclass(frozen=True)
class Hyperparameters:
    lr: float
    batch_size: int
    epochs: int
    optimizer: str
    weight_decay: float
    warmup_epochs: float
    label_smoothing: float
    class_weights: str
    patience: int
    objective: str
    precision: str
    seed: int
    arch: str | None
    """This and the next three: None means what trunk.json says; needed when there is no trunk."""
    tail: str | None
    weights: str | None
    image_size: int | None
    max_unreadable: float
    views: int
    """This and the next matter where there is no trunk: features have theirs."""
    flip: bool
    debug_hook_config: dict[str, Any] | None
    stop_rules: dict[str, dict[str, str]] | None
    stability: dict[str, Any] | None
    profiler_interval_ms: int
    profiler_num_steps: int
    checkpoint_seconds: float

    def to_dict(self) -> dict[str, Any]:
        """As `model.json` records them, under the names that train.py takes."""
        values = {name.replace("_", "-"): value for name, value in asdict(self).items()}
        return {name: value for name, value in values.items() if value is not None}


def parse(argv: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> Hyperparameters:
    """From the command line, and `debug-hook-config`, `stop-rules` and `stability` from SM_HPS.

    SageMaker's training toolkit rewrites a hyperparameter that holds a JSON object as `key=value,…` on the
    command line (sagemaker_training/mapping.py); SM_HPS has it unharmed.

    :raises HyperparameterError: naming the hyperparameter.
    """
    arguments, unknown = _parser().parse_known_args(argv)
    # A tuner adds _tuning_objective_metric, the toolkit passes some sagemaker_ names on.
    names = [argument for argument in unknown if argument.startswith("--")]
    if foreign := [name for name in names if not name.startswith(("--_", "--sagemaker_"))]:
        raise HyperparameterError(f"hyperparameter {foreign[0].removeprefix('--')} is unknown to train.py")
    values = vars(arguments)
    for name in ("debug-hook-config", "stop-rules", "stability"):
        key = name.replace("-", "_")
        values[key] = _json_object(name, values[key], environment)
    if any(not isinstance(parameters, dict) for parameters in (values["stop_rules"] or {}).values()):
        raise HyperparameterError("hyperparameter stop-rules must be {RULE: {PARAMETER: STRING}}")
    if values["stability"] is not None:
        _check_stability(values["stability"])
    if values["warmup_epochs"] >= values["epochs"]:
        raise HyperparameterError(
            f"hyperparameter warmup-epochs is {values['warmup_epochs']:g} and epochs {values['epochs']}: "
            "the warm-up must end before the training does"
        )
    return Hyperparameters(**values)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="train.py", description="Trains the tail of a network.", allow_abbrev=False)

    def add(name: str, kind: Callable[[str], Any], default: Any, text: str, *aliases: str) -> None:
        spellings = dict.fromkeys([name, *aliases, name.replace("-", "_")])
        parser.add_argument(
            *(f"--{spelling}" for spelling in spellings),
            dest=name.replace("-", "_"), type=kind, default=default, help=text,
        )  # fmt: skip

    positive, whole = _number(float, 0, exclusive=True), _number(int, 1)
    add("lr", positive, 0.03, "highest learning rate; after the warm-up it falls to 0 along a cosine",
        "learning-rate", "learning_rate")  # fmt: skip
    add("batch-size", whole, 64, "images per step")
    add("epochs", whole, 10, "passes over the training images")
    add("optimizer", _choice(OPTIMIZERS), "sgd", "sgd (Nesterov momentum 0.9) or adamw")
    add("weight-decay", _number(float, 0), 0.0, "of the optimizer")
    add("warmup-epochs", _number(float, 0), 0.0, "in which the learning rate rises to lr; parts of one too")
    add(
        "label-smoothing",
        _number(float, 0, below=1),
        0.0,
        "share of a label given to all classes, in training",
    )
    add(
        "class-weights",
        _choice(CLASS_WEIGHTS),
        "none",
        "balanced: in training, rare classes count as much as others",
    )
    add("patience", _number(int, 0), 0, "epochs without a better objective before training ends; 0 is off")
    add(
        "objective",
        _choice(OBJECTIVES),
        "validation_loss",
        "by which the epoch is chosen whose weights are kept",
    )
    add("precision", _choice(PRECISIONS), "auto", "auto takes bf16 where a GPU has it and it helps")
    add("seed", _number(int, 0), 0, "of the order of images and of new layers")
    add("arch", _choice(tuple(architectures.HEADS)), None, "torchvision architecture")
    add("tail", _choice(architectures.TAILS), None, "what is trained: fc, layer4 or all")
    add("weights", _text, None, "none, DEFAULT, a torchvision name or a file")
    add("image-size", whole, None, "pixels a side")
    add("views", whole, 1, "pictures of each training image; 1 is the centre")
    add("flip", _boolean, True, "mirror every other view")
    add("max-unreadable", _number(float, 0), 0.01, "largest share of unreadable images")
    add("debug-hook-config", _text, None, "SageMaker's DebugHookConfig as JSON; no hook without it")
    add("stop-rules", _text, None, "{RULE: {PARAMETER: STRING}} as JSON: rules whose issues end the training")
    add("stability", _text, None, "{seeds, trials} as JSON: trials to repeat afterwards with further seeds")
    add("profiler-interval-ms", _number(int, 0), 0, "between system metrics, 100 to 60000; 0 is off")
    add(
        "profiler-num-steps", _number(int, 0), 0, "first training steps that torch.profiler watches; 0 is off"
    )
    add("checkpoint-seconds", _number(float, 0), 10.0, "at least, between checkpoints in SM_CHECKPOINT_DIR")
    return parser


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise HyperparameterError(f"hyperparameter {message.removeprefix('argument ')}")


def _text(value: str) -> str:
    """Without the quotes in which SageMaker returns categorical values (`"64"`)."""
    value = value.strip()
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value


def _number(
    kind: type, minimum: float, exclusive: bool = False, below: float = math.inf
) -> Callable[[str], float]:
    bound = f"{'above' if exclusive else 'at least'} {minimum}"
    if below < math.inf:
        bound += f" and below {below}"
    noun = "a whole number" if kind is int else "a number"

    def convert(value: str) -> Any:
        try:
            number = kind(_text(value))
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be {noun} {bound}, got {value!r}") from None
        if not minimum <= number < below or (exclusive and number == minimum):
            raise argparse.ArgumentTypeError(f"must be {noun} {bound}, got {value!r}")
        return number

    return convert


def _choice(choices: Sequence[str]) -> Callable[[str], str]:
    def convert(value: str) -> str:
        if _text(value) not in choices:
            raise argparse.ArgumentTypeError(f"must be one of {', '.join(choices)}, got {value!r}")
        return _text(value)

    return convert


def _boolean(value: str) -> bool:
    """true or false; SageMaker's training toolkit passes the first on as True."""
    return _choice(("true", "false"))(value.lower()) == "true"


def _check_stability(given: dict[str, Any]) -> None:
    trials = given.get("trials")
    if not isinstance(given.get("seeds"), int) or not isinstance(trials, list):
        raise HyperparameterError("hyperparameter stability must be {seeds: NUMBER, trials: [TRIAL, …]}")
    for trial in trials:
        if not isinstance(trial, dict) or not {"name", "lr", "batch-size", "epochs"} <= trial.keys():
            raise HyperparameterError(
                f"hyperparameter stability: a trial needs name, lr, batch-size and epochs, got {trial!r}"
            )


def _json_object(name: str, argument: str | None, environment: Mapping[str, str]) -> dict[str, Any] | None:
    given = json.loads(environment.get("SM_HPS") or "{}").get(name, argument)
    if not given:
        return None
    try:
        config = json.loads(given) if isinstance(given, str) else given
    except ValueError as error:
        raise HyperparameterError(f"hyperparameter {name} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise HyperparameterError(f"hyperparameter {name} must be a JSON object, got {given!r}")
    return config
