"""Pretrained weights, fetched once for all later jobs (SageMaker processing job).

    python fetch_weights.py --arch resnet18 --weights DEFAULT --output var/weights

Downloads what torchvision calls so (45 MB for a ResNet18), checks the hash in its name, and writes weights.safetensors
and weights.json below --output. No other job needs a network.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save_file

from model import weights
from model.artifact import sha256_of, write_json


def main(argv: Sequence[str] | None = None) -> int:
    """0, or 1 after one sentence on what is wrong."""
    parser = argparse.ArgumentParser(description="Fetches pretrained weights.", allow_abbrev=False)
    parser.add_argument("--arch", required=True)
    parser.add_argument("--weights", required=True, help="DEFAULT or another torchvision name")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(argv)
    try:
        enum = weights.named(options.arch, options.weights)
        state = weights.download(enum)
        options.output.mkdir(parents=True, exist_ok=True)
        file = options.output / "weights.safetensors"
        save_file(state, file)
        file.chmod(0o644)  # safetensors writes for the owner alone
        document = {"name": str(enum), "url": enum.url, "sha256": sha256_of(file)}
        write_json(options.output / "weights.json", document)
    except (ValueError, OSError) as error:
        print(f"fetch_weights.py: {error}", file=sys.stderr, flush=True)
        return 1
    print(f"wrote {file} name={enum} url={enum.url}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
