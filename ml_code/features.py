"""Features of every training and validation image, computed once (SageMaker processing job).

    python features.py --train var/data/digits/train --validation var/data/digits/valid --output var/features \\
        --arch resnet18 --weights none --tail fc --image-size 64 --seed 0

The 1,437 digits take 4 s on two cores of an AVX2 server CPU (import of torch apart), 6,680 photographs at
224 pixels about 4 minutes; the output is the same, bit for bit, for the same machine and libraries.

Writes, below --output: features.json, trunk/, train/ and validation/ (docs/contracts.md).
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from data.images import ImageDataset, ImageListing, list_images
from model import architectures, weights
from model.artifact import save_backbone, write_json
from model.extraction import Split, extract
from model.material import FEATURES
from model.network import assemble


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Computes the frozen trunk's features.", allow_abbrev=False)
    parser.add_argument("--train", type=Path, required=True, help="ImageFolder")
    parser.add_argument("--validation", type=Path, required=True, help="ImageFolder with the same classes")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--arch", default="resnet18", help=", ".join(architectures.HEADS))
    parser.add_argument("--weights", default="none", help="none, DEFAULT, a torchvision name or a file")
    parser.add_argument("--tail", default="fc", help="fc or layer4: what stays trainable")
    parser.add_argument("--image-size", type=int, default=224, help="pixels a side")
    parser.add_argument("--seed", type=int, default=0, help="of random weights")
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
    cpus = int(os.environ.get("SM_NUM_CPUS") or os.cpu_count() or 1)
    torch.set_num_threads(cpus)
    preprocessing = weights.preprocessing(options.arch, options.weights, options.image_size)
    train = list_images(options.train)
    listings = {"train": train, "validation": list_images(options.validation, train.classes)}
    architectures.check(options.arch, options.tail)
    backbone = weights.backbone(options.arch, options.weights, options.seed)
    torch.manual_seed(options.seed)
    network = assemble(backbone, options.arch, options.tail, len(train.classes))
    manifest = {
        "arch": options.arch,
        "tail": options.tail,
        "weights": options.weights,
        "image_size": options.image_size,
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "preprocessing": preprocessing.to_dict(),
        "seed": options.seed,
        "classes": list(train.classes),
    }
    save_backbone(options.output / "trunk", network, manifest)
    report: dict[str, Any] = {"splits": {}, "unreadable": []}
    for name, listing in listings.items():
        dataset = ImageDataset(getattr(options, name), listing, preprocessing)
        split, unreadable = extract(network.trunk, dataset, name, options.max_unreadable, cpus)
        _save(options.output / name, split)
        report["splits"][name] = _counts(listing, split)
        report["unreadable"] += [{"split": name} | asdict(file) for file in unreadable]
    report["seconds"] = round(time.monotonic() - start, 3)
    write_json(options.output / "features.json", report)
    print(f"wrote {options.output} seconds={report['seconds']:.1f} unreadable={len(report['unreadable'])}")


def _save(folder: Path, split: Split) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"features": split.inputs.squeeze(1), "labels": split.labels}, folder / FEATURES)
    (folder / FEATURES).chmod(0o644)  # safetensors writes for the owner alone


def _counts(listing: ImageListing, split: Split) -> dict[str, Any]:
    counted = torch.bincount(split.labels, minlength=len(listing.classes)).tolist()
    return {"count": sum(counted), "classes": dict(zip(listing.classes, counted, strict=True))}


if __name__ == "__main__":
    sys.exit(main())
