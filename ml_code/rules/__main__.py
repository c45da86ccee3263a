"""Evaluate the debugger rules from the command line.

    python -m rules DEBUG_OUTPUT_DIR
    python -m rules DEBUG_OUTPUT_DIR --rules '{"Overfit": {"parameters": {"patience": "2"}}}'

Prints the verdicts as JSON. About 3 s for the five rules over 400 steps of a small tail, most of it
imports. Exit status 0 whatever the verdicts are: they are the answer.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rules import Outputs, evaluate


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("debug_output", type=Path, help="folder that smdebug wrote")
    parser.add_argument(
        "--rules", type=json.loads, help="JSON of context.json's `rules`; all, with defaults, when left out"
    )
    arguments = parser.parse_args()
    verdicts = evaluate(Outputs(arguments.debug_output), arguments.rules)
    print(json.dumps([verdict.as_json() for verdict in verdicts], indent=2))


if __name__ == "__main__":
    main()
