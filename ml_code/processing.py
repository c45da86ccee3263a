"""The entry point of every processing job: installs what the image lacks, then runs a script.

    python processing.py SCRIPT.py --argument value …

SCRIPT.py and the requirements lie beside this file.
"""

import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

import packages


def main(argv: Sequence[str]) -> None:
    """Ends with the script's own exit status; 2 when there is no such script."""
    folder = Path(__file__).resolve().parent
    if not argv or not (folder / argv[0]).is_file():
        name = argv[0] if argv else "no script"
        sys.exit(f"processing.py: {name} was named, and {folder} holds no such file")
    packages.install_missing(folder)
    # Threads that wait for one another sleep instead of spinning, which costs dearly on cores shared with another
    # job. Read when the script imports torch.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    script = str(folder / argv[0])
    sys.argv = [script, *argv[1:]]
    sys.path.insert(0, str(folder))
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
