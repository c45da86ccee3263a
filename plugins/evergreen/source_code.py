"""`ml_code/` as an archive that is the same whenever its files are the same."""

import gzip
import hashlib
import io
import subprocess
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from airflow.providers.common.compat.sdk import conf

REPOSITORY = Path(__file__).resolve().parents[2]
NAME = "ml_code"
# Beside train.py where there is no git checkout: the commit that `make mwaa` has packed.
REVISION = "revision"
# What features depend on, besides the libraries: another report, or another training loop, leaves them as they are.
COMPUTES_FEATURES = (
    "features.py", "data/", "model/architectures.py", "model/extraction.py", "model/folding.py", "model/keys.py",
    "model/network.py", "model/parts.py", "model/weights.py", "requirements-image.txt", "requirements.txt",
)  # fmt: skip
_SHIPPED = frozenset({".py", ".txt", ".json", ".html", ".css", ".j2"})


@dataclass(frozen=True)
class SourceCode:
    files: tuple[tuple[str, bytes], ...]
    """(path below ml_code/, content), sorted by path."""

    @property
    def hash(self) -> str:
        return _hash(self.files)

    @property
    def features_hash(self) -> str:
        """Of the files that compute features."""
        return _hash(file for file in self.files if file[0].startswith(COMPUTES_FEATURES))

    def archive(self) -> bytes:
        """The files as a tar.gz, without times, owners or modes of this machine."""
        tarred = io.BytesIO()
        with tarfile.open(fileobj=tarred, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for path, content in self.files:
                member = tarfile.TarInfo(path)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return gzip.compress(tarred.getvalue(), mtime=0)


def _hash(files: Iterable[tuple[str, bytes]]) -> str:
    hashed = hashlib.sha256()
    for path, content in files:
        hashed.update(f"{path}\0{len(content)}\0".encode() + content)
    return hashed.hexdigest()[:16]


def ml_code() -> Path:
    """The folder, beside `plugins/`, or among the DAGs, as on MWAA, which has nothing beside them."""
    beside = REPOSITORY / NAME
    return beside if beside.is_dir() else Path(conf.get("core", "dags_folder")) / NAME


def read(folder: Path | None = None) -> SourceCode:
    """:raises FileNotFoundError: when the folder is not deployed."""
    folder = folder or ml_code()
    if not (folder / "train.py").is_file():
        raise FileNotFoundError(
            f"there is no train.py in {folder}: deploy ml_code/ beside plugins/, or in the folder of the DAGs"
        )
    return SourceCode(
        tuple(
            (path.relative_to(folder).as_posix(), path.read_bytes())
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.suffix in _SHIPPED and "__pycache__" not in path.parts
        )
    )


def local_path(setting: str) -> Path:
    """A path as a pipeline file names it: absolute, or relative to the repository."""
    return REPOSITORY / Path(setting).expanduser()


def git_revision() -> str | None:
    """The checked-out commit, `-dirty` behind it when files differ; None where nobody has noted it."""
    noted = ml_code() / REVISION
    if noted.is_file():
        return noted.read_text().strip()
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=REPOSITORY, capture_output=True, text=True, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        return None
    return described.stdout.strip() or None
