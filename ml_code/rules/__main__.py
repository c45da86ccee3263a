"""Evaluate debugger and profiler rules from the command line, over any training's output.

    python -m rules s3://bucket/prefix/JOB                 # debug-output/ and profiler-output/ below it
    python -m rules debug-output --rules '{"Overfit": {"parameters": {"patience": "2"}}}'
    python -m rules debug-output --custom my_rules.py:TooLarge --rules '{"TooLarge": {"parameters": {"limit": "3"}}}'

OUTPUT is a folder or an S3 prefix: what smdebug wrote (collections/, events/, index/), what SageMaker's profiler wrote
(system/, framework/), or a folder that holds them as debug-output/ and profiler-output/. Without --rules every rule
that there is a folder for runs at AWS's defaults. Prints one line per rule on stderr and the verdicts as JSON on
stdout; with --report DIR the profiler's report too. Exit status 0 whatever the verdicts are: they are the answer.
About 3 s over 400 steps of a small tail, most of it imports.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from report.profiler_report import write_where_possible
from rules import Outputs, evaluate
from rules.custom import evaluate_custom


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", metavar="OUTPUT", help="a folder or s3:// prefix that a training job wrote")
    parser.add_argument(
        "--rules", type=json.loads, help="JSON of context.json's `rules`; all, with defaults, when left out"
    )
    parser.add_argument("--custom", metavar="FILE.py:CLASS", help="a rule of your own, on top of those")
    parser.add_argument("--report", type=Path, metavar="DIR", help="where ProfilerReport writes its page")
    arguments = parser.parse_args()
    rules = arguments.rules
    verdicts = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(arguments.output)
        if arguments.output.startswith("s3://"):
            folder = download(arguments.output, Path(scratch))
        outputs = find(folder)
        if arguments.custom:
            file, _, name = arguments.custom.rpartition(":")
            own = (rules or {}).get(name, {}).get("parameters", {})
            rules = {key: value for key, value in rules.items() if key != name} if rules else rules
            verdicts.append(evaluate_custom(outputs.debug or folder, Path(file), name, own))
        verdicts += evaluate(outputs, rules)
        if arguments.report:
            parameters = (rules or {}).get("ProfilerReport", {}).get("parameters", {})
            page = write_where_possible(outputs.profiler, arguments.report, parameters)
            print(page or "there is no profile to report", file=sys.stderr)
    for verdict in verdicts:
        print(f"{verdict.status:14}{verdict.name}: {verdict.detail}", file=sys.stderr)
    print(json.dumps([verdict.as_json() for verdict in verdicts], indent=2))


def find(folder: Path) -> Outputs:
    """:raises SystemExit: when there is nothing in it that a training wrote for its debugger or profiler."""
    debug, profiler = (
        next((one for one in (folder / f"{name}-output", folder) if any((one / part).is_dir() for part in parts)), None)
        for name, parts in (("debug", ["collections"]), ("profiler", ["system", "framework"]))
    )  # fmt: skip
    if not (debug or profiler):
        raise SystemExit(
            f"{folder}: neither collections/, which smdebug writes, nor system/ or framework/, which the profiler "
            "writes, nor debug-output/ or profiler-output/ with them"
        )
    return Outputs(debug, profiler)


def download(uri: str, folder: Path) -> Path:
    """The objects below an S3 prefix, with boto3's own credentials and endpoint."""
    import boto3  # comes with smdebug

    place = urlsplit(uri)
    prefix = place.path.strip("/")
    bucket = boto3.resource("s3").Bucket(place.netloc)
    objects = 0
    for objects, item in enumerate(bucket.objects.filter(Prefix=f"{prefix}/" if prefix else ""), 1):
        relative = item.key.removeprefix(prefix).lstrip("/")
        target = (folder / relative).resolve()
        if item.key.endswith("/") or not target.is_relative_to(folder.resolve()):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        bucket.download_file(item.key, str(target))
        if objects % 500 == 0:
            print(f"{objects} objects of {uri} read", file=sys.stderr, flush=True)
    if not objects:
        raise SystemExit(f"{uri}: there are no objects below it")
    return folder


if __name__ == "__main__":
    main()
