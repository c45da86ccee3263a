import io
import tarfile
from pathlib import Path

import pytest

from evergreen import source_code


def test_the_archive_depends_on_the_files_alone(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder / "pack").mkdir(parents=True)
        for name in ("train.py", "pack/module.py", "pack/notes.pyc"):
            (tmp_path / folder / name).write_text(name)
    (tmp_path / "b" / "train.py").touch()
    first, second = source_code.read(tmp_path / "a"), source_code.read(tmp_path / "b")
    assert first.archive() == second.archive()
    assert first.hash == second.hash
    with tarfile.open(fileobj=io.BytesIO(first.archive())) as tar:
        assert tar.getnames() == ["pack/module.py", "train.py"]
    (tmp_path / "b" / "train.py").write_text("other")
    assert source_code.read(tmp_path / "b").hash != first.hash


def test_a_missing_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="deploy ml_code/"):
        source_code.read(tmp_path)
