"""The SQLite file of traces and counters: how it is made, written, trimmed, read, and rescued.  (floor 4)

Every process that works in the same STATE_DIR uses the same file. Each write is one short
transaction in WAL mode, so readers never wait for writers; a trace and what was counted while it
grew are one write, so that they agree whatever happens in between. Old traces are trimmed,
counters never. A damaged file is moved aside, never
deleted; a file that a newer version of this program made is left alone, since only that version
knows what it would break. What this does not do: promise that the last traces survive a power
cut (`synchronous = NORMAL`; the file stays whole), or keep the event loop free (`traces.py` does).
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from errors import AgentError
from safe_text import encodable, one_line
from stores.private import private_file, private_folder

if TYPE_CHECKING:
    from stores.traces import Counts

T = TypeVar("T")

SCHEMA_VERSION = 2
"""1 had no counters; a file of version 1 gets them with the first write."""

TRACE_BYTES_MAX = 4_000_000
"""Of one trace. The recorder's own limits keep it below; this one keeps a single trace from
pushing all others out."""

BUSY_S = 0.25
"""How long SQLite waits for another process's lock before it says so."""

LOCKED_S_MAX = 2.0
"""How long a write tries again before it gives up: SQLite's lock has no queue, so a process can be
unlucky several times, and the switch to WAL does not wait at all."""

DAMAGED_KEPT_MAX = 5
"""Damaged files kept. A disk that damages more than these will not get better by making a sixth."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS traces (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    status TEXT, user TEXT, session TEXT,
    bytes INTEGER NOT NULL,
    trace TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS traces_size ON traces (number, bytes);
CREATE TABLE IF NOT EXISTS counters (
    name TEXT NOT NULL, labels TEXT NOT NULL, value NOT NULL,
    PRIMARY KEY (name, labels)
) WITHOUT ROWID;
"""
_SAVE = """
INSERT INTO traces (id, status, user, session, bytes, trace) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET status = excluded.status, bytes = excluded.bytes, trace = excluded.trace
"""
_COUNT = """
INSERT INTO counters (name, labels, value) VALUES (?, ?, ?)
ON CONFLICT (name, labels) DO UPDATE SET value = value + excluded.value
"""
# By order of arrival, not by the wall clock: a clock set back must not make new traces look old.
_TRIM = """
DELETE FROM traces WHERE number <= (
    SELECT max(number) FROM (
        SELECT number, row_number() OVER newest AS place, sum(bytes) OVER newest AS total FROM traces
        WINDOW newest AS (ORDER BY number DESC)
    ) WHERE place > ? OR total > ?
)
"""


class TraceFile:
    """The file as its one writer in this process sees it; belongs to one thread.

    Args:
        path: of the file; its folder is made with mode 0700 when missing.
        traces_max, bytes_max: the oldest traces beyond either are deleted.
        warn: told when a damaged file was moved aside.
    """

    def __init__(self, path: Path, traces_max: int, bytes_max: int, warn: Callable[[str], None]) -> None:
        self._path, self._limits, self._warn = path, (traces_max, bytes_max), warn
        self._connection: sqlite3.Connection | None = None
        self._inode = 0

    def write(self, trace: Mapping[str, Any] | None, counts: Counts) -> None:
        """Keep a trace, or its newer state, which takes the place of the older, and add to the counters.

        Args:
            trace: as JSON; None when there is only something to count.
            counts: by name and labels. Added once, together with the trace, or not at all.

        Raises:
            ValueError: it is too large.
            sqlite3.Error, OSError: it could not be written; the next one may.
            AgentError: the file is not ours to write.
        """
        row = None if trace is None else _row(trace)
        end_s = time.monotonic() + LOCKED_S_MAX
        rescued = False
        while True:
            try:
                return self._insert(row, counts)
            except sqlite3.Error as error:
                self.close()
                if _is(error, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) and not rescued:
                    self._move_aside()
                    rescued = True
                elif _is(error, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and time.monotonic() < end_s:
                    time.sleep(0.01)
                else:
                    raise

    def close(self) -> None:
        """Let go of the file; the next write opens it again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _insert(self, row: tuple[Any, ...] | None, counts: Counts) -> None:
        connection = self._connected()
        with _transaction(connection):
            if row is not None:
                connection.execute(_SAVE, row)
                connection.execute(_TRIM, self._limits)
            connection.executemany(_COUNT, ((*key, value) for key, value in counts.items()))

    def _connected(self) -> sqlite3.Connection:
        """The open file; opened anew when it is no longer the one under its name (moved, deleted)."""
        if self._connection is not None:
            if _inode(self._path) == self._inode:
                return self._connection
            self.close()
        private_folder(self._path.parent)
        private_file(self._path)  # first, since SQLite gives -wal and -shm the mode it finds here
        self._inode = _inode(self._path)
        connection = _connect(self._path)
        try:
            _make_schema(connection)  # first, since a file that is not ours must not be changed
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA journal_size_limit = 4194304")  # SQLite's checkpoint size, 1,000 pages
        except BaseException:  # whatever it is, it goes on; only the handle must not leak
            connection.close()
            raise
        self._connection = connection
        return connection

    def _move_aside(self) -> None:
        """Keep the damaged file under another name; its journal goes along, as rescue tools need it."""
        if _inode(self._path) != self._inode:
            return  # another process was faster
        names = (f"{self._path.name}.damaged-{number}" for number in range(1, DAMAGED_KEPT_MAX + 1))
        free = [aside for name in names if not (aside := self._path.with_name(name)).exists()]
        if not free:
            raise OSError(f"damaged, as {DAMAGED_KEPT_MAX} before it that are kept beside it")
        aside = free[0]
        for suffix in ("-wal", "-shm", ""):
            part = self._path.with_name(self._path.name + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix))
        self._warn(f"the traces in {self._path} are damaged: kept as {aside.name}, a new file begins")


def read(path: Path, ask: Callable[[sqlite3.Connection], list[T]], since_version: int = 1) -> list[T]:
    """Ask the file something; one that is not there (yet), or older than `since_version`, has nothing.

    Raises:
        AgentError: it cannot be read, or a newer version made it.
    """
    try:
        if not path.exists():
            return []
        with closing(_connect(path)) as connection:
            return ask(connection) if _version(connection) >= since_version else []
    except (sqlite3.Error, OSError) as error:
        words = one_line(f"the traces in {path} cannot be read: {error}", 400)
        raise AgentError(words, reason="disk") from error


def _connect(path: Path) -> sqlite3.Connection:
    place = f"{path.absolute().as_uri()}?mode=rw"  # never makes a file: that would get the umask's mode
    return sqlite3.connect(place, uri=True, timeout=BUSY_S, isolation_level=None)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:  # whatever it is, it goes on; only the lock must not stay
        if connection.in_transaction:  # a full disk has rolled back already
            connection.execute("ROLLBACK")
        raise


def _make_schema(connection: sqlite3.Connection) -> None:
    if _version(connection) == SCHEMA_VERSION:
        return
    with _transaction(connection):
        if _version(connection) < SCHEMA_VERSION:  # asked again, now that nobody else can be doing the same
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _version(connection: sqlite3.Connection) -> int:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA_VERSION:
        raise AgentError(
            f"the trace file was made by a newer version of this program "
            f"(its format is {version}, the newest known here {SCHEMA_VERSION})",
            reason="configuration",
            what_now="Update this program, or move the file away.",
        )
    return version


def _is(error: sqlite3.Error, *codes: int) -> bool:
    """Whether the error is one of SQLite's primary codes: the low byte of what it reports."""
    return getattr(error, "sqlite_errorcode", -1) & 0xFF in codes


def _inode(path: Path) -> int:
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return 0


def _row(trace: Mapping[str, Any]) -> tuple[Any, ...]:
    text = json.dumps(trace, default=str)  # ASCII: what no encoder accepts survives as an escape
    if len(text) > TRACE_BYTES_MAX:
        raise ValueError(f"a trace of more than {TRACE_BYTES_MAX:,} bytes")
    labels = (trace["id"], trace.get("status"), trace.get("user"), trace.get("session"))
    columns = (None if label is None else encodable(str(label)) for label in labels)
    return (*columns, len(text), text)
