"""Documents in SQLite: one row for each SageMaker resource, its body in the shape in which Describe answers.

Every change is a transaction, so that a killed service finds either the old document or the new one.
"""

import json
import sqlite3
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from local_sagemaker.api.protocol import Document

SCHEMA_VERSION = 1
SCHEMA = """
create table documents (
    number integer primary key autoincrement,
    kind text not null,
    name text not null,
    arn text not null,
    body text not null,
    unique (kind, name)
);
create index documents_by_arn on documents (arn);
"""


class ExistsError(Exception):
    """A document of this kind and name is already there."""


class Store:
    """The documents of one state directory. Methods may be called from any thread."""

    def __init__(self, path: Path) -> None:
        """Open or create the file. Raises RuntimeError when another version of the service wrote it."""
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = normal")
        version = self._db.execute("pragma user_version").fetchone()[0]
        if version == 0:
            self._db.executescript(f"begin; {SCHEMA} pragma user_version = {SCHEMA_VERSION}; commit;")
        elif version != SCHEMA_VERSION:
            raise RuntimeError(
                f"{path} was written by another version of local_sagemaker (schema {version}, this one has "
                f"{SCHEMA_VERSION}); start that version, or give --state another directory"
            )

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def create(self, kind: str, name: str, arn: str, document: Document) -> None:
        """Add a document. Raises ExistsError."""
        with self._lock:
            try:
                self._db.execute(
                    "insert into documents (kind, name, arn, body) values (?, ?, ?, ?)",
                    (kind, name, arn, json.dumps(document)),
                )
            except sqlite3.IntegrityError as error:
                raise ExistsError(f"{kind} {name}") from error

    def get(self, kind: str, name: str) -> Document | None:
        with self._lock:
            row = self._db.execute(
                "select body from documents where kind = ? and name = ?", (kind, name)
            ).fetchone()
        return None if row is None else dict(json.loads(row[0]))

    def find(self, arn: str) -> tuple[str, str] | None:
        """Kind and name of the document with this ARN."""
        with self._lock:
            row = self._db.execute("select kind, name from documents where arn = ?", (arn,)).fetchone()
        return None if row is None else (str(row[0]), str(row[1]))

    def all(self, kind: str) -> list[Document]:
        """Every document of a kind, oldest first."""
        with self._lock:
            rows = self._db.execute(
                "select body from documents where kind = ? order by number", (kind,)
            ).fetchall()
        return [json.loads(body) for (body,) in rows]

    def counts(self, kind: str, member: str) -> dict[str, int]:
        """How many documents of a kind have each value of a member."""
        query = "select json_extract(body, ?), count(*) from documents where kind = ? group by 1"
        with self._lock:
            return dict(self._db.execute(query, (f"$.{member}", kind)).fetchall())

    def delete(self, kind: str, name: str) -> bool:
        """Whether the document was there."""
        with self._lock:
            return (
                self._db.execute("delete from documents where kind = ? and name = ?", (kind, name)).rowcount
                > 0
            )

    @contextmanager
    def change(self, kind: str, name: str) -> Generator[Document, None, None]:
        """Read, change in place, write: `with store.change("Model", "m") as model: model["X"] = 1`.

        Nothing is written when the block raises. Raises KeyError when there is no such document.
        """
        with self._lock:
            document = self.get(kind, name)
            if document is None:
                raise KeyError(f"{kind} {name}")
            yield document  # ruff: ignore[fallible-context-manager] - an exception leaves all as it was
            if "LastModifiedTime" in document:
                document["LastModifiedTime"] = time.time()
            self._db.execute(
                "update documents set body = ? where kind = ? and name = ?",
                (json.dumps(document), kind, name),
            )
