"""What sync knows of a dataset, in SQLite, so that its memory does not grow with the dataset.

The file holds facts, which stay true whatever is killed and whoever runs beside it: what a local file with this stat
holds, and what an object with this ETag holds. Losing it costs reading the dataset once more. What one run sees, the
dataset and the listing of its destination, is in temporary tables of its own connection, which SQLite keeps on disk.
"""

import hashlib
import json
import logging
import sqlite3
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from evergreen.listing import Object

log = logging.getLogger(__name__)

BATCH = 1000
EXAMPLES, PAIRS = 100, 20
# Of another process that syncs to the same place; each of its transactions is a batch.
BUSY_S = 120
# A file changed twice within one tick of the file system's clock, to the same size, keeps its stat.
SETTLED_NS = 2_000_000_000

# The file outlives the code: what comes to mean something else needs another name.
_FACTS = """
CREATE TABLE IF NOT EXISTS files (
  path TEXT PRIMARY KEY, size INT, mtime_ns INT, ctime_ns INT, inode INT, checksum TEXT, md5 TEXT, doubt TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS objects (path TEXT PRIMARY KEY, etag TEXT, checksum TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS last (id INTEGER PRIMARY KEY CHECK (id = 1), source TEXT, listing TEXT, found TEXT);
"""
_RUN = """
CREATE TEMP TABLE seen (
  path TEXT PRIMARY KEY, split TEXT, class TEXT, source TEXT,
  size INT, mtime_ns INT, ctime_ns INT, inode INT, checksum TEXT, md5 TEXT, doubt TEXT
) WITHOUT ROWID;
CREATE TEMP TABLE ignored (file TEXT PRIMARY KEY, reason TEXT) WITHOUT ROWID;
CREATE TEMP TABLE listed (path TEXT PRIMARY KEY, size INT, etag TEXT) WITHOUT ROWID;
CREATE TEMP TABLE changed (path TEXT PRIMARY KEY) WITHOUT ROWID;
"""
# An object is what it should be when its size is right and its ETag says what is in it: the MD5 of the content, or,
# where the bucket's ETags are no MD5, one that came with the answer to our own request.
_COMPARE = """
INSERT INTO changed SELECT seen.path FROM seen
LEFT JOIN listed ON listed.path = seen.path
LEFT JOIN objects ON objects.path = seen.path AND objects.etag = listed.etag
WHERE listed.size IS NOT seen.size OR NOT (listed.etag IS seen.md5 OR objects.checksum IS seen.checksum)
"""


class Stat(NamedTuple):
    """A file that was not touched has these as they were."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


class File(NamedTuple):
    path: str
    """`SPLIT/CLASS/NAME` with SPLIT one of `dataset.SPLITS`."""
    source: str
    """Local path, or key in the source bucket."""
    stat: Stat
    checksum: str | None = None
    """SHA-256 of a local file, ETag of an object."""
    md5: str | None = None
    """The ETag that the file will have in S3, as far as ETags are MD5s."""
    doubt: str | None = None
    """Why it is hardly an image, although its name says so."""


class Last(NamedTuple):
    """The last sync that found nothing to do, or left nothing to do: what it saw, and what that comes to."""

    source: str
    """Digest of the files' paths and stats."""
    listing: str
    """Digest of the destination's listing."""
    found: dict[str, Any]


class Amount(NamedTuple):
    files: int
    size: int
    """Bytes."""


class Manifest:
    """:param file: where the facts are kept; None, or what cannot be written, for facts that go with the process."""

    def __init__(self, file: Path | None) -> None:
        self.db = _open(file)
        self.db.executescript(_RUN)

    def close(self) -> None:
        self.db.close()

    def __enter__(self) -> "Manifest":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The dataset

    def see(self, files: Iterable[File]) -> None:
        """Files of the dataset; what is known of their content by their stat is remembered with `recall`."""
        with self._transaction():
            self.db.executemany(
                "INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", map(_row, files)
            )

    def ignore(self, file: str, reason: str) -> None:
        """A file that is set apart; it is no part of the dataset, whatever was seen of it before."""
        self.db.execute("INSERT OR REPLACE INTO ignored VALUES (?, ?)", (file, reason))
        self.db.execute("DELETE FROM seen WHERE path = ?", (file,))

    def recall(self) -> Amount:
        """Take over what is known of files whose stat is as it was; returns what has to be read."""
        self.db.execute(
            "UPDATE seen SET checksum = f.checksum, md5 = f.md5, doubt = f.doubt FROM files f "
            "WHERE f.path = seen.path AND f.size = seen.size AND f.mtime_ns = seen.mtime_ns "
            "AND f.ctime_ns = seen.ctime_ns AND f.inode = seen.inode"
        )
        return Amount(*self._one("SELECT count(*), total(size) FROM seen WHERE checksum IS NULL"))

    def unread(self) -> Iterator[list[File]]:
        """Files whose content is not known, in batches; `learn` and `ignore` may be called between two."""
        return self._batches("SELECT * FROM seen WHERE checksum IS NULL AND path > ? ORDER BY path LIMIT ?")

    def learn(self, files: list[File]) -> None:
        """What was read of files; kept for the next run unless a file may still be changing."""
        self.see(files)
        settled = time.time_ns() - SETTLED_NS
        with self._transaction():
            self.db.executemany(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (file.path, *file.stat, file.checksum, file.md5, file.doubt)
                    for file in files
                    if max(file.stat.mtime_ns, file.stat.ctime_ns) < settled
                ],
            )

    def found(self) -> dict[str, Any]:
        """What there is to say of the dataset, in JSON of bounded size."""
        return {
            "version": self.version(),
            "counts": self.counts(),
            "ignored": self.ignored(),
            "doubtful": self.doubtful(),
            "duplicates": self.duplicates(),
        }

    def settled(self, began_ns: int) -> bool:
        """Whether no file was touched so shortly before this time that another touch would not show."""
        newest = self._one("SELECT max(max(mtime_ns, ctime_ns)) FROM seen")[0]
        return bool(newest < began_ns - SETTLED_NS)

    def counts(self) -> dict[str, dict[str, int]]:
        """Images per split and class."""
        counted: dict[str, dict[str, int]] = {}
        for split, name, count in self.db.execute(
            "SELECT split, class, count(*) FROM seen GROUP BY split, class ORDER BY split, class"
        ):
            counted.setdefault(split, {})[name] = count
        return counted

    def version(self) -> str:
        """10 hex digits of SHA-256 over the paths and checksums, in the order of the paths' bytes."""
        hashed = hashlib.sha256()
        for path, checksum in self.db.execute("SELECT path, checksum FROM seen ORDER BY path"):
            hashed.update(f"{path}\0{checksum}\0".encode())
        return hashed.hexdigest()[:10]

    def ignored(self) -> dict[str, Any]:
        """How many files were set apart, and the first of them with the reason."""
        return self._examples("SELECT file, reason FROM ignored")

    def doubtful(self) -> dict[str, Any]:
        """How many files of the dataset are hardly images, and the first of them with the reason."""
        return self._examples("SELECT path AS file, doubt AS reason FROM seen WHERE doubt IS NOT NULL")

    def duplicates(self) -> dict[str, Any]:
        """How many contents lie in more than one split, and a path in each of two splits for the first of them."""
        shared = (
            "SELECT min(path) AS one, max(path) AS other FROM seen GROUP BY checksum, size "
            "HAVING min(split) <> max(split)"
        )
        count = self._one(f"SELECT count(*) FROM ({shared})")[0]  # ruff: ignore[hardcoded-sql-expression]
        pairs = self.db.execute(f"{shared} ORDER BY one LIMIT ?", (PAIRS,)) if count else ()
        return {"count": count, "examples": [list(pair) for pair in pairs]}

    def files(self, split: str) -> Iterator[str]:
        """Paths of a split, in order."""
        for (path,) in self.db.execute("SELECT path FROM seen WHERE split = ? ORDER BY path", (split,)):
            yield path

    def entries(self) -> Iterator[tuple[str, int, str, str]]:
        """Path, size, checksum and ETag in S3 of each file that the listing has, in order."""
        yield from self.db.execute(
            "SELECT path, seen.size, checksum, etag FROM seen JOIN listed USING (path) ORDER BY path"
        )

    # Its destination

    def last(self) -> Last | None:
        row = self._one("SELECT source, listing, found FROM last")
        return Last(row[0], row[1], json.loads(row[2])) if row else None

    def remember(self, last: Last) -> None:
        self.db.execute(
            "INSERT OR REPLACE INTO last VALUES (1, ?, ?, ?)",
            (last.source, last.listing, json.dumps(last.found)),
        )

    def compare(self, pages: Iterable[list[Object]]) -> Amount:
        """What of the dataset is not in this listing, or not as it should be."""
        with self._transaction():
            self.db.execute("DELETE FROM listed")
        for page in pages:
            with self._transaction():
                self.db.executemany("INSERT OR REPLACE INTO listed VALUES (?, ?, ?)", page)
        return self.compare_again()

    def compare_again(self) -> Amount:
        with self._transaction():
            self.db.execute("DELETE FROM changed")
            self.db.execute(_COMPARE)
        return Amount(*self._one("SELECT count(*), total(size) FROM seen JOIN changed USING (path)"))

    def unexplained(self) -> bool:
        """Whether this manifest is new, and objects of the right size have ETags that it knows nothing about."""
        return bool(
            self._one("PRAGMA user_version")[0] == 0
            and self._one(
                "SELECT EXISTS (SELECT 1 FROM changed JOIN seen USING (path) JOIN listed USING (path) "
                "WHERE listed.size = seen.size AND path NOT IN (SELECT path FROM objects))"
            )[0]
        )

    def changed(self) -> Iterator[File]:
        """What `compare` found; `learn`, `ignore` and `sent` may be called between two."""
        for batch in self._batches(
            "SELECT seen.* FROM changed JOIN seen USING (path) WHERE path > ? ORDER BY path LIMIT ?"
        ):
            yield from batch

    def sent(self, objects: Iterable[tuple[str, str, str]]) -> None:
        """(path, ETag, checksum) of objects whose ETag is known to stand for this content."""
        with self._transaction():
            self.db.executemany("INSERT OR REPLACE INTO objects VALUES (?, ?, ?)", objects)

    def removed(self) -> Amount:
        """What the listing has and the dataset has not."""
        return Amount(
            *self._one("SELECT count(*), total(size) FROM listed WHERE path NOT IN (SELECT path FROM seen)")
        )

    def removed_paths(self) -> Iterator[list[str]]:
        last = ""
        query = "SELECT path FROM listed WHERE path > ? AND path NOT IN (SELECT path FROM seen) ORDER BY path LIMIT ?"
        while batch := [path for (path,) in self.db.execute(query, (last, BATCH))]:
            yield batch
            last = batch[-1]

    def settle(self) -> None:
        """All of the dataset is where it should be: drop the facts about files that it no longer has."""
        with self._transaction():
            self.db.execute("PRAGMA user_version = 1")
            for table in ("files", "objects"):
                self.db.execute(f"DELETE FROM {table} WHERE path NOT IN (SELECT path FROM seen)")  # ruff: ignore[hardcoded-sql-expression]

    def _batches(self, query: str) -> Iterator[list[File]]:
        """Batches in the order of the paths; each is a query of its own, so that tables may change between them."""
        last = ""
        while rows := self.db.execute(query, (last, BATCH)).fetchall():
            yield [
                File(row[0], row[3], Stat(*row[4:8]), checksum=row[8], md5=row[9], doubt=row[10])
                for row in rows
            ]
            last = rows[-1][0]

    def _examples(self, query: str) -> dict[str, Any]:
        count = self._one(f"SELECT count(*) FROM ({query})")[0]  # ruff: ignore[hardcoded-sql-expression]
        rows = self.db.execute(f"{query} ORDER BY file LIMIT ?", (EXAMPLES,)) if count else ()
        return {"count": count, "examples": [{"file": file, "reason": reason} for file, reason in rows]}

    def _one(self, query: str) -> Any:
        return self.db.execute(query).fetchone()

    @contextmanager
    def _transaction(self) -> Generator[None]:
        self.db.execute("BEGIN")
        try:
            yield
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")


def _row(file: File) -> tuple[Any, ...]:
    split, name, _ = file.path.split("/", 2)
    return (file.path, split, name, file.source, *file.stat, file.checksum, file.md5, file.doubt)


def _open(file: Path | None) -> sqlite3.Connection:
    if file is None:
        return _connect("")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return _connect(str(file))
    except (OSError, sqlite3.OperationalError) as error:
        log.warning("%s cannot be written (%s): the next sync will read every file again", file, error)
        return _connect("")
    except sqlite3.DatabaseError as error:
        log.warning("%s is no manifest (%s): every file is read again", file, error)
        file.unlink()
        return _connect(str(file))


def _connect(name: str) -> sqlite3.Connection:
    # Without Python's own transactions, which begin and end with certain statements.
    db = sqlite3.connect(name, timeout=BUSY_S, isolation_level=None)
    db.executescript(_FACTS)
    return db
