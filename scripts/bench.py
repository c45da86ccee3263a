"""Run one benchmark or fault run by its name.

    make bench NAME=dag-import      # benchmarks/dag_import.py
    make chaos NAME=airflow-kill    # benchmarks/chaos/airflow_kill.py

Each prints one JSON object as its last line: name, figures, conditions, ok. The exit status is 0 when `ok` is true.
"""

import importlib
import json
import os
import platform
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any


def conditions(*packages: str, **more: Any) -> dict[str, Any]:
    """What a figure depends on besides the code."""
    return {
        "cpus": os.cpu_count(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        **more,
    }


def uv() -> str:
    """The installer, as the Makefile finds it."""
    return shutil.which("uv") or "var/venv/uv/bin/uv"


def main() -> None:
    folder = Path(sys.argv[1])
    available = sorted(path.stem.replace("_", "-") for path in folder.glob("*.py") if path.stem != "__init__")
    name = sys.argv[2] if len(sys.argv) > 2 else ""
    if name not in available:
        sys.exit(f"NAME is one of: {', '.join(available)}")
    # What is measured is imported as Airflow does.
    sys.path.append("plugins")
    module = importlib.import_module(f"{'.'.join(folder.parts)}.{name.replace('-', '_')}")
    result = {"name": name, **module.run()}
    print(json.dumps(result))
    sys.exit(0 if result["ok"] else 1)


if __name__ == "__main__":
    main()
