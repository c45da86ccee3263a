"""Features of training and validation images, computed once (SageMaker processing job).

    python features.py --train var/data/digits/train --validation var/data/digits/valid --output var/features \\
        --arch resnet18 --weights none --tail fc --image-size 64 --seed 0

The 1,437 digits take 3 s on two cores of an AVX2 server CPU (import of torch apart), 6,680 photographs at
224 pixels about 3 minutes; the output is the same, bit for bit, for the same machine and libraries.

Writes, below --output: trunk/, and parts of features in train/ and validation/ (docs/contracts.md). Several
instances may each have some of the images: --dataset says what there is in all, --resource-config who is first.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from data.images import ImageDataset, Unreadable, check_readable, list_images
from data.preprocessing import Preprocessing
from data.views import ONE_VIEW, Views
from model import architectures, weights
from model.artifact import save_backbone
from model.extraction import Forward, extracted
from model.network import Network, assemble
from model.parts import PartWriter

SPLITS = ("train", "validation")


@dataclass(frozen=True)
class Whole:
    """The dataset of which this instance may have a part."""

    classes: tuple[str, ...]
    images: dict[str, int]
    """Of each split, on all instances."""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Computes the frozen trunk's features.", allow_abbrev=False)
    parser.add_argument("--train", type=Path, help="ImageFolder; may be left out when its parts are there")
    parser.add_argument(
        "--validation", type=Path, help="ImageFolder with the same classes; may be left out too"
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--dataset", type=Path, help="dataset.json: classes, and images of each split and class"
    )
    parser.add_argument("--resource-config", type=Path, help="SageMaker's resourceconfig.json")
    parser.add_argument("--arch", default="resnet18", help=", ".join(architectures.HEADS))
    parser.add_argument("--weights", default="none", help="none, DEFAULT, a torchvision name or a file")
    parser.add_argument("--weights-file", type=Path, help="where they have been fetched to")
    parser.add_argument("--tail", default="fc", help="fc or layer4: what stays trainable")
    parser.add_argument("--image-size", type=int, default=224, help="pixels a side")
    parser.add_argument(
        "--views", type=int, default=1, help="pictures of each training image; 1 is the centre"
    )
    parser.add_argument("--flip", choices=("true", "false"), default="true", help="mirror every other view")
    parser.add_argument("--seed", type=int, default=0, help="of random weights and views")
    parser.add_argument("--max-unreadable", type=float, default=0.01, help="share of images set apart")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """0, or 1 after one sentence on what is wrong with the settings or the data."""
    options = parse(argv)
    try:
        run(options)
    except (ValueError, OSError) as error:
        print(f"features.py: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


def run(options: argparse.Namespace) -> None:
    """:raises ValueError: when a setting is wrong, or too many images are unreadable."""
    start = time.monotonic()
    if options.tail == "all":
        raise ValueError("tail 'all' leaves nothing frozen: there are no features to compute")
    if options.views < 1:
        raise ValueError(f"views must be at least 1: got {options.views}")
    architectures.check(options.arch, options.tail)
    cpus = int(os.environ.get("SM_NUM_CPUS") or os.cpu_count() or 1)
    torch.set_num_threads(cpus)
    whole = read_whole(options)
    preprocessing = weights.preprocessing(options.arch, options.weights, options.image_size)
    forward = Forward(build(options, preprocessing, whole.classes).trunk, preprocessing)
    unreadable = 0
    for name in SPLITS:
        if getattr(options, name):
            unreadable += compute(options, name, forward, whole, cpus)
    print(f"wrote {options.output} seconds={time.monotonic() - start:.1f} unreadable={unreadable}")


def read_whole(options: argparse.Namespace) -> Whole:
    """From --dataset, or what lies here where this instance has all.

    :raises ValueError: when there is neither.
    """
    if options.dataset:
        document = json.loads(options.dataset.read_text())
        images = {name: sum(document["counts"][name].values()) for name in SPLITS}
        return Whole(tuple(document["classes"]), images)
    if not (options.train and options.validation):
        raise ValueError("--train and --validation are needed where there is no --dataset")
    train = list_images(options.train)
    validation = list_images(options.validation, train.classes)
    return Whole(train.classes, {"train": len(train.samples), "validation": len(validation.samples)})


def build(options: argparse.Namespace, preprocessing: Preprocessing, classes: Sequence[str]) -> Network:
    """The network; the first instance writes it down."""
    backbone = weights.backbone(options.arch, options.weights, options.seed, options.weights_file)
    torch.manual_seed(options.seed)
    network = assemble(backbone, options.arch, options.tail, len(classes))
    if is_first(options.resource_config):
        manifest = {
            "arch": options.arch,
            "tail": options.tail,
            "weights": options.weights,
            "image_size": options.image_size,
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "preprocessing": preprocessing.to_dict(),
            "views": options.views,
            "seed": options.seed,
            "classes": list(classes),
        }
        save_backbone(options.output / "trunk", network, manifest)
    return network


def is_first(resource_config: Path | None) -> bool:
    if resource_config is None:
        return True
    document = json.loads(resource_config.read_text())
    return bool(document["current_host"] == min(document["hosts"]))


def compute(options: argparse.Namespace, name: str, forward: Forward, whole: Whole, cpus: int) -> int:
    """Write the parts of a split; how many images were set apart.

    :raises ValueError: when they are more than the share of the whole split that is allowed.
    """
    root: Path = getattr(options, name)
    listing = list_images(root, whole.classes, may_be_empty=options.dataset is not None)
    views = Views(options.views, options.flip == "true", options.seed) if name == "train" else ONE_VIEW
    dataset = ImageDataset(root, listing, forward.preprocessing, views)
    writer = PartWriter(options.output / name, whole.classes)
    unreadable: list[Unreadable] = []
    for rows in extracted(forward, dataset, name, cpus):
        writer.add(rows, [listing.samples[index][0] for index in rows.batch.indices.tolist()])
        unreadable += rows.batch.unreadable
        check_readable(unreadable, whole.images[name], options.max_unreadable)
    writer.close()
    return len(unreadable)


if __name__ == "__main__":
    sys.exit(main())
