"""The demo's dataset: `make demo` and `make up` in a fresh clone may write it at the same time."""

import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
ML = REPOSITORY / "var/venv/ml/bin/python"


def test_two_may_write_the_digits_at_once(tmp_path: Path) -> None:
    command = [ML, "-m", "scripts.digits", tmp_path / "digits"]
    both = [subprocess.Popen(command, cwd=REPOSITORY) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]

    assert [folder.name for folder in tmp_path.iterdir()] == ["digits"]
    counts = {split.name: sum(1 for _ in split.rglob("*.jpg")) for split in (tmp_path / "digits").iterdir()}
    assert counts == {"train": 1257, "valid": 180, "test": 360}


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "digits").write_text("not a folder")
    process = subprocess.run(
        [ML, "-m", "scripts.digits", tmp_path / "digits"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert process.returncode != 0
    assert "NotADirectoryError" in process.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]
