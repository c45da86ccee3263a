"""Compare what an endpoint was asked with what its model was trained on (SageMaker processing job).

    python monitor.py --model DIR --snapshot DIR --capture DIR --output DIR

--model            folder that holds model.tar.gz of the model now serving
--snapshot         folder that holds snapshot.json, which assess.py wrote of that model's training images
--capture          data capture of the endpoint: JSON lines, in any folders
--output           where drift.json and drift.html go
--psi-limit        above which, and above chance, a measure has drifted
--minimum-images   with fewer captured images nothing is evaluated

Prints the finding. The exit status says whether there is a result, not what it is: that is `evaluated` and `drifted`
in drift.json. 500 images of 64 pixels and a ResNet18 take about 6 s on 2 cores, half of it imports.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data import captured
from data.captured import Captured
from report.document import write_json
from report.drift import Snapshot, drift
from report.drift_page import render
from report.loaded import load
from report.sample import IMAGES, look
from report.splits import SNAPSHOT

# Of the measures that part, those that part most are in the sentence.
_TOLD = 3


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    for name in ("model", "snapshot", "capture", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--psi-limit", type=float, default=0.25)
    parser.add_argument("--minimum-images", type=int, default=200)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    monitor(
        arguments.model,
        arguments.snapshot / SNAPSHOT,
        arguments.capture,
        arguments.output,
        arguments.psi_limit,
        arguments.minimum_images,
    )


def monitor(
    model: Path, snapshot: Path, capture: Path, output: Path, limit: float, minimum_images: int
) -> dict[str, Any]:
    """Write drift.json and drift.html below `output`; return the former's document.

    Looks at no more than 500 images, drawn from all; memory and time do not grow with what was captured.
    """
    output.mkdir(parents=True, exist_ok=True)
    known = Snapshot.from_json(json.loads(snapshot.read_text(encoding="utf-8")))
    with tempfile.TemporaryDirectory() as name:
        images = Path(name, "images")
        images.mkdir()
        found = captured.sample(capture, images, IMAGES)
        loaded = load(model / "model.tar.gz", Path(name, "model"))
        seen = look(loaded.model, images, found.files)
    # A file with an image's head may still be no image.
    undecoded = len(found.files) - len(seen.files)
    enough = len(seen.files) >= max(minimum_images, 1)
    document = {
        "schema_version": 1,
        "evaluated": enough,
        "drifted": False,
        "sentence": "",
        "limit": limit,
        "images": len(seen.files),
        "training_images": known.images,
        "measures": [],
        "model_version": loaded.model.manifest["version"],
        "captured": _captured(found, undecoded),
    }
    if enough:
        document["measures"] = drift(known, seen, limit)["measures"]
        document["drifted"] = any(row["drifted"] for row in document["measures"])
    document["sentence"] = _sentence(document, minimum_images)
    write_json(output / "drift.json", document)
    page = render(document, known if enough else None, seen if enough else None)
    (output / "drift.html").write_text(page, encoding="utf-8")
    print(document["sentence"], flush=True)
    return document


def _captured(found: Captured, undecoded: int) -> dict[str, Any]:
    return {
        "requests": found.requests,
        "images": found.images,
        "first": found.first,
        "last": found.last,
        "unreadable": {"count": found.unreadable + undecoded, "examples": found.examples},
    }


def _sentence(document: dict[str, Any], minimum_images: int) -> str:
    """The finding, in one sentence."""
    if not document["evaluated"]:
        unreadable = document["captured"]["unreadable"]
        why = f"; {unreadable['count']} requests hold none that can be read" if unreadable["count"] else ""
        first = f", the first: {unreadable['examples'][0]['reason']}" if unreadable["examples"] else ""
        return (
            f"not evaluated: {document['images']} captured images are fewer than the {minimum_images} asked for"
            f"{why}{first}"
        )
    rows = sorted(document["measures"], key=lambda row: -row["psi"])
    drifted = [row for row in rows if row["drifted"]]
    told = ", ".join(
        f"{row['name']} (PSI {row['psi']:.2g}, by chance up to {row['chance']:.2g})"
        for row in drifted[:_TOLD] or rows[:1]
    )
    if drifted:
        more = f" and {len(drifted) - _TOLD} more" if len(drifted) > _TOLD else ""
        return f"{document['images']} captured images part from the training images in {told}{more}"
    return (
        f"{document['images']} captured images do not part from the training images beyond PSI "
        f"{document['limit']:g}; furthest is {told}"
    )


if __name__ == "__main__":
    main()
