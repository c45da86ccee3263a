"""train.py in processes of its own: what can be killed, and what trains together."""

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import train


@dataclass(frozen=True)
class Place:
    """One host's folders, and where its checkpoints are."""

    root: Path
    features: Path
    checkpoints: Path | None = None

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """To be used in a `with`; what it prints comes through a pipe."""
        self.root.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {
            "SM_CHANNEL_TRAIN": f"{self.features}/train",
            "SM_CHANNEL_VALIDATION": f"{self.features}/validation",
            "SM_CHANNEL_TRUNK": f"{self.features}/trunk" if (self.features / "trunk").is_dir() else "",
            "SM_MODEL_DIR": f"{self.root}/model",
            "SM_OUTPUT_DATA_DIR": f"{self.root}/output",
            "SM_OUTPUT_DIR": f"{self.root}",
            "SM_NUM_CPUS": "1",
            "SM_CHECKPOINT_DIR": str(self.checkpoints or ""),
            **variables,
        }
        return subprocess.Popen(
            [sys.executable, "-W", "error", train.__file__, *arguments],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(self, *arguments: str, **variables: str) -> str:
        """What it printed, after an end without failure."""
        with self.start(*arguments, **variables) as process:
            printed, _ = process.communicate()
        assert process.returncode == 0, printed
        return printed

    def failure(self) -> str:
        return (self.root / "failure").read_text()


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])
