"""The local cloud as the main process of a container, with what `make up` gives it on a laptop.

    python -m scripts.cloud_container --host local-sagemaker

The options are local_sagemaker's. Bucket and role are made at every start, because a local cloud that was killed has
forgotten roles that no job has used; the demo's dataset is written where it is not there.
"""

import json
import signal
import subprocess
import sys

from scripts.local_stack import REPOSITORY, Cloud, make_account, make_digits


def main() -> int:
    make_digits()
    process = subprocess.Popen(
        [sys.executable, "-m", "local_sagemaker", "--state", REPOSITORY / "var/cloud", *sys.argv[1:]],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    # Its end in order takes what it has not written yet to the disk.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: process.terminate())
    assert process.stdout
    # One line when it answers, none when it did not start: then its last words are in the container's log.
    if line := process.stdout.readline():
        print(line, end="", flush=True)
        make_account(Cloud(**json.loads(line)))
    return process.wait()


if __name__ == "__main__":
    sys.exit(main())
