"""A SQLite file that keeps what it acknowledged, and says so when it could not.  (floor 4)

Every process that works in the same STATE_DIR uses the same file; each piece of work is one
transaction in WAL mode, so readers never wait for writers. The file has a version
(`PRAGMA user_version`): an older one is brought up step by step, one that a newer program made is
left alone, since only that program knows what it would break. A damaged file is copied aside, never
deleted, and a new one begins. Opening is done by one process at a time and a new file is made under
another name, so that no half-made file is taken for a damaged one.

A `durable` file (sessions) is more than that: `synchronous = FULL`, so what has returned survives a
power cut; and since SQLite keeps no checksum of its pages, it is checked whole when it is opened
(1 ms a megabyte or so), its users check each row (`row_sum`), and what can still be read of a damaged
one, row by row, begins the new one. One that is not (traces) may lose its last writes with the power.

What this does not do: keep the event loop free (its callers run it aside), or judge what a row says.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from errors import AgentError
from flow import Gate
from safe_text import one_line
from stores.file_lock import FileLock
from stores.private import private_file, private_folder
from stores.sqlite_parts import copy_rows, inode, keep_copy, put, remove

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

BUSY_S = 1.0
"""How long a transaction waits for the one before it, of this process or another; each takes milliseconds."""

LOCKED_S = 0.25
"""How long SQLite waits before we ask anew: its lock has no queue, and the longer it waits the more rarely it looks."""

CLOSING_S = 0.25
"""How long the end of the program waits for a transaction under way."""

OPENING_S = 2.0
"""How long to wait for another process that is just opening the file."""

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
        durable: whether it must survive power cuts and flipped bits (see above).
        busy_s: how long a transaction waits for the one before it.
    """

    def __init__(
        self,
        place: Path | sqlite3.Connection,
        migrations: Sequence[str],
        damaged: Callable[[str, str], None],
        *,
        durable: bool = True,
        busy_s: float = BUSY_S,
    ) -> None:
        self.path = place if isinstance(place, Path) else None
        self._given = None if isinstance(place, Path) else place
        self._migrations, self._damaged, self._durable = migrations, damaged, durable
        self._busy_s = busy_s
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()
        self._inode = 0
        self.generation = 0
        """Counts the times the file was opened: what was true of the one before need not be of this one."""

    def write(self, work: Work[T], gate: Gate | None = None) -> T:
        """Do `work` in one transaction; it is kept when this returns.

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
        return "" if self.path is None else keep_copy(self.path)

    # --- one transaction ---------------------------------------------------------------------------------

    def _run(self, begin: str, work: Work[T], gate: Gate | None) -> T:
        if not self._lock.acquire(timeout=self._busy_s):
            raise AgentError("the disk does not answer", reason="disk")
        try:
            with told():
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
        connection = self._begun(begin)
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

    def _begun(self, begin: str) -> sqlite3.Connection:
        """The open file, where a transaction has begun."""
        end_s = time.monotonic() + self._busy_s
        while True:
            try:
                connection = self._connected()
                connection.execute(begin)
                return connection
            except sqlite3.Error as error:
                if not _is(error, sqlite3.SQLITE_BUSY) or time.monotonic() >= end_s:
                    raise
                time.sleep(0.01)  # some locks SQLite does not wait for at all

    # --- opening -----------------------------------------------------------------------------------------

    def _connected(self) -> sqlite3.Connection:
        """The open file; opened anew when it is no longer the one under its name (moved, deleted, rescued)."""
        if self._connection is not None and (self.path is None or inode(self.path) == self._inode):
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
        self._inode = inode(path)
        if not os.path.lexists(path):
            put(self._made_aside(path), path)
        elif path.is_file() and path.stat().st_size < FILE_BYTES_MIN:
            self._rescue(path, "empty")
        private_file(path)  # first, since SQLite gives -wal and -shm the mode it finds here
        self._connection, self._inode = connect(path), inode(path)
        try:
            self._version(self._connection)  # first: a file that is not ours must not be changed
            if self._durable and self._is_damaged(self._connection):
                self._close()
                self._rescue(path, "damaged")
                self._connection, self._inode = connect(path), inode(path)
            self._prepare(self._connection)
        except BaseException:  # whatever it is, it goes on; only the handle must not leak
            self._close()
            raise

    def _is_damaged(self, connection: sqlite3.Connection) -> bool:
        """Whether SQLite finds fault with it, or its tables are not those that its version has."""
        try:
            if connection.execute("PRAGMA integrity_check(1)").fetchone()[0] != "ok":
                return True
            with closing(sqlite3.connect(":memory:", isolation_level=None)) as model:
                self._migrate(model, self._version(connection))
                return _schema(model) != _schema(connection)
        except UnicodeDecodeError:  # SQLite's own words may quote the damage
            return True

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.text_factory = lambda data: data.decode("utf-8", "replace")  # checksums judge it, not the decoder
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'NORMAL'}")
        connection.execute("PRAGMA journal_size_limit = 4194304")  # SQLite's checkpoint size, 1,000 pages
        self._migrate(connection, len(self._migrations))

    def _migrate(self, connection: sqlite3.Connection, version: int) -> None:
        for number in range(self._version(connection), version):
            script = self._migrations[number]
            connection.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number + 1}; COMMIT")

    def _version(self, connection: sqlite3.Connection) -> int:
        return version_of(connection, len(self._migrations))

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and connection is not self._given:
            with suppress(sqlite3.Error):  # a damaged file may refuse to be tidied up
                connection.close()

    # --- a new file --------------------------------------------------------------------------------------

    def _rescue(self, path: Path, what: str) -> None:
        """Keep a copy of the damaged file; a new one takes its place."""
        self._close()
        if inode(path) != self._inode:
            return  # another process was faster
        fresh = self._made_aside(path)  # first, since on a full disk each try would leave one more copy
        kept = self.keep_copy()
        put(fresh, path)
        self._damaged(f"{path.name} was {what}", kept)

    def _made_aside(self, path: Path) -> Path:
        """Make a new file, with what can be read of the one in its place; under its name it would stand half-made."""
        fresh = path.with_name(f"{path.name}.new")
        remove(fresh, "", "-wal", "-shm")
        private_file(fresh)
        with closing(connect(fresh)) as new:
            self._prepare(new)
            if self._durable and path.exists():
                with suppress(sqlite3.Error), closing(connect(path)) as old:
                    copy_rows(old, new)
        return fresh


def connect(path: Path) -> sqlite3.Connection:
    """Open a file that is there, for those who only look: nothing is made, locked, migrated or mended."""
    place = f"{path.absolute().as_uri()}?mode=rw"  # never makes a file: that would get the umask's mode
    return sqlite3.connect(place, uri=True, timeout=LOCKED_S, isolation_level=None, check_same_thread=False)


def version_of(connection: sqlite3.Connection, newest: int) -> int:
    """The version of a file. Raises AgentError when a program newer than ours, which knows `newest`, made it."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > newest:
        raise AgentError(
            f"its format is {version}, of a newer version of this program (the newest known here is {newest})",
            reason="configuration",
            what_now="Update this program, or move the file away.",
        )
    return version


def _schema(connection: sqlite3.Connection) -> list[tuple[str, ...]]:
    return connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY 1, 2").fetchall()


def _is(error: sqlite3.Error, *codes: int) -> bool:
    """Whether the error is one of SQLite's primary codes: the low byte of what it reports."""
    return getattr(error, "sqlite_errorcode", -1) & 0xFF in codes


@contextmanager
def told() -> Iterator[None]:
    """Turn what the system or SQLite says into a typed failure: an AgentError of the disk."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise AgentError(one_line(said), reason="disk", what_now="Check the disk and STATE_DIR.") from error
