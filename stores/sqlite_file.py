"""A SQLite file that keeps what it acknowledged, and says so when it could not.  (floor 4)

Every process that works in the same STATE_DIR uses the same file; each piece of work is one
transaction in WAL mode with `synchronous = FULL`, so what has returned survives a power cut. The
file has a version (`PRAGMA user_version`): an older one is brought up step by step, one that a
newer program made is left alone, since only that program knows what it would break.

SQLite keeps no checksum of its pages, so the file is checked whole when it is opened (1 ms a
megabyte or so), and its users check each row (`row_sum`). A damaged file is copied aside, never
deleted, and what can still be read of it, row by row, begins a new one. Opening is done by one
process at a time, so that no half-made file is taken for a damaged one.

What this does not do: keep the event loop free (its callers run it aside), or judge what a row says.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from errors import AgentError
from flow import Gate
from platform_edges import Files
from safe_text import one_line
from stores.file_lock import FileLock
from stores.private import private_file, private_folder

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

BUSY_S = 1.0
"""How long a transaction waits for the one before it, of this process or another; each takes milliseconds."""

CLOSING_S = 0.25
"""How long the end of the program waits for a transaction under way."""

OPENING_S = 2.0
"""How long to wait for another process that is just opening the file."""

DAMAGED_KEPT_MAX = 5
"""Damaged files kept. A disk that damages more than these will not get better by making a sixth."""

FILE_BYTES_MIN = 512
"""A file that is shorter has lost even its first page, which SQLite would silently take for a new file."""

SUM_BYTES = 16


def row_sum(*values: object) -> bytes:
    """The checksum of one row: over its key and all of its values, so that no row passes for another."""
    return hashlib.blake2b(repr(values).encode("utf-8", "surrogatepass"), digest_size=SUM_BYTES).digest()


class SqliteFile:
    """The file, opened when it is first used. For several threads, one at a time.

    Args:
        place: the path of the file, in a folder made 0700 where it is missing; or an open connection.
        migrations: script n leads from version n to n + 1; only ever appended to.
        damaged: told what was damaged and the name under which it is kept.
    """

    def __init__(
        self, place: Path | sqlite3.Connection, migrations: Sequence[str], damaged: Callable[[str, str], None]
    ) -> None:
        self.path = place if isinstance(place, Path) else None
        self._given = None if isinstance(place, Path) else place
        self._migrations, self._damaged = migrations, damaged
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()
        self._inode = 0
        self.generation = 0
        """Counts the times the file was opened: what was true of the one before need not be of this one."""

    def write(self, work: Work[T], gate: Gate | None = None) -> T:
        """Do `work` in one transaction; it is durable when this returns.

        Args:
            gate: claimed right before the commit.

        Raises:
            AgentError: nothing was written.
        """
        return self._run("BEGIN IMMEDIATE", work, gate)

    def read(self, work: Work[T]) -> T:
        """Do `work` on one unchanging view of the file. Raises AgentError when it cannot be read."""
        return self._run("BEGIN", work, None)

    def close(self) -> None:
        """Let go of the file; the next use opens it again."""
        if self._lock.acquire(timeout=CLOSING_S):  # else somebody hangs in it, and the exit must not wait for a disk
            try:
                self._close()
            finally:
                self._lock.release()

    def __del__(self) -> None:
        """A file that nobody uses any more is let go: Python complains of connections that were left open."""
        self._close()

    def keep_copy(self) -> str:
        """Copy the file as it is now, journal included, under a name of its own; the name."""
        if self.path is None:
            return ""
        names = (f"{self.path.name}.damaged-{number}" for number in range(1, DAMAGED_KEPT_MAX + 1))
        free = [aside for name in names if not (aside := self.path.with_name(name)).exists()]
        if not free:
            raise OSError(f"damaged, as {DAMAGED_KEPT_MAX} before it that are kept beside it")
        for suffix in ("", "-wal"):
            part = self.path.with_name(self.path.name + suffix)
            if part.exists():
                copy = free[0].with_name(free[0].name + suffix)
                private_file(copy)
                shutil.copyfile(part, copy)
        return free[0].name

    # --- one transaction ---------------------------------------------------------------------------------

    def _run(self, begin: str, work: Work[T], gate: Gate | None) -> T:
        if not self._lock.acquire(timeout=BUSY_S):
            raise AgentError("the disk does not answer", reason="disk")
        try:
            with _told():
                return self._mended(begin, work, gate)
        finally:
            self._lock.release()

    def _mended(self, begin: str, work: Work[T], gate: Gate | None) -> T:
        try:
            return self._transaction(begin, work, gate)
        except sqlite3.Error as error:
            if self._given is not None or not _is(error, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                self._close()  # a fresh handle finds out what an error has left
                raise
        with self._opening_alone() as path:
            self._rescue(path, "damaged")
        return self._transaction(begin, work, gate)

    def _transaction(self, begin: str, work: Work[T], gate: Gate | None) -> T:
        connection = self._connected()
        connection.execute(begin)
        try:
            result = work(connection)
            if gate is not None and not gate.claim():
                raise AgentError("stopped before it was written", reason="timeout")
            connection.execute("COMMIT")
        except BaseException:  # whatever it is, it goes on; only the lock must not stay
            if connection.in_transaction:  # a full disk has rolled back already
                connection.execute("ROLLBACK")
            raise
        return result

    # --- opening -----------------------------------------------------------------------------------------

    def _connected(self) -> sqlite3.Connection:
        """The open file; opened anew when it is no longer the one under its name (moved, deleted, rescued)."""
        if self._connection is not None and (self.path is None or _inode(self.path) == self._inode):
            return self._connection
        self._close()
        if self._given is not None:
            self._connection = self._given
            self._prepare(self._given)
        else:
            with self._opening_alone() as path:
                self._open(path)
        self.generation += 1
        assert self._connection is not None
        return self._connection

    @contextmanager
    def _opening_alone(self) -> Iterator[Path]:
        assert self.path is not None
        lock = FileLock(self.path.with_name(f"{self.path.name}.lock"))
        if not lock.take(OPENING_S):
            raise OSError("another process has been opening it for too long")
        try:
            yield self.path
        finally:
            lock.release()

    def _open(self, path: Path) -> None:
        private_folder(path.parent)
        is_new = not path.exists()
        self._inode = _inode(path)
        if path.is_file() and path.stat().st_size < FILE_BYTES_MIN:
            self._rescue(path, "empty")
        private_file(path)  # first, since SQLite gives -wal and -shm the mode it finds here
        self._connection, self._inode = _connect(path), _inode(path)
        try:
            self._check_version(self._connection)  # first: a file that is not ours must not be changed
            if self._is_damaged(self._connection):
                self._close()
                self._rescue(path, "damaged")
                self._connection, self._inode = _connect(path), _inode(path)
            self._prepare(self._connection)
            if is_new:  # SQLite makes its own files durable, not the name of one that we made, nor its folder
                for folder in (path.parent, path.parent.parent):
                    with suppress(PermissionError):  # a folder above may be closed to us
                        Files().fsync_path(folder)
        except BaseException:  # whatever it is, it goes on; only the handle must not leak
            self._close()
            raise

    def _is_damaged(self, connection: sqlite3.Connection) -> bool:
        """Whether SQLite finds fault with it, or its tables are not those that its version has."""
        try:
            if connection.execute("PRAGMA integrity_check(1)").fetchone()[0] != "ok":
                return True
            with closing(sqlite3.connect(":memory:", isolation_level=None)) as model:
                self._migrate(model, self._check_version(connection))
                return _schema(model) != _schema(connection)
        except UnicodeDecodeError:  # SQLite's own words may quote the damage
            return True

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.text_factory = lambda data: data.decode("utf-8", "replace")  # checksums judge it, not the decoder
        self._migrate(connection, len(self._migrations))
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_size_limit = 4194304")  # SQLite's checkpoint size, 1,000 pages

    def _migrate(self, connection: sqlite3.Connection, version: int) -> None:
        for number in range(self._check_version(connection), version):
            script = self._migrations[number]
            connection.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number + 1}; COMMIT")

    def _check_version(self, connection: sqlite3.Connection) -> int:
        version, newest = int(connection.execute("PRAGMA user_version").fetchone()[0]), len(self._migrations)
        if version > newest:
            raise AgentError(
                f"its format is {version}, of a newer version of this program (the newest known here is {newest})",
                reason="configuration",
                what_now="Update this program, or move the file away.",
            )
        return version

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and connection is not self._given:
            with suppress(sqlite3.Error):  # a damaged file may refuse to be tidied up
                connection.close()

    # --- rescue ------------------------------------------------------------------------------------------

    def _rescue(self, path: Path, what: str) -> None:
        """Keep a copy of the damaged file; what can be read of it begins a new one, which takes its place."""
        self._close()
        if _inode(path) != self._inode:
            return  # another process was faster
        kept = self.keep_copy()
        fresh = path.with_name(f"{path.name}.new")
        for suffix in ("", "-wal", "-shm"):
            fresh.with_name(fresh.name + suffix).unlink(missing_ok=True)
        private_file(fresh)
        with closing(_connect(fresh)) as new:
            self._migrate(new, len(self._migrations))
            with suppress(sqlite3.Error), closing(_connect(path)) as old:
                _copy_rows(old, new)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        fresh.replace(path)
        self._damaged(f"{path.name} was {what}", kept)


def _copy_rows(old: sqlite3.Connection, new: sqlite3.Connection) -> None:
    tables = [row[0] for row in new.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    new.execute("BEGIN")
    for table in tables:
        with suppress(sqlite3.Error, UnicodeDecodeError):  # of each table, all up to where it is damaged
            rows = old.execute(f"SELECT * FROM {table}")
            names = ", ".join(column[0] for column in rows.description)
            marks = ", ".join("?" for _ in rows.description)
            for row in rows:
                new.execute(f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({marks})", row)
    new.execute("COMMIT")


def _connect(path: Path) -> sqlite3.Connection:
    place = f"{path.absolute().as_uri()}?mode=rw"  # never makes a file: that would get the umask's mode
    return sqlite3.connect(place, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False)


def _schema(connection: sqlite3.Connection) -> list[tuple[str, ...]]:
    return connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY 1, 2").fetchall()


def _is(error: sqlite3.Error, *codes: int) -> bool:
    """Whether the error is one of SQLite's primary codes: the low byte of what it reports."""
    return getattr(error, "sqlite_errorcode", -1) & 0xFF in codes


def _inode(path: Path) -> int:
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return 0


@contextmanager
def _told() -> Iterator[None]:
    """Turn what the system or SQLite says into a typed failure."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise AgentError(one_line(said), reason="disk", what_now="Check the disk and STATE_DIR.") from error
