"""The SQLite file of traces and counters: how it is written, trimmed and read.  (floor 4)

How such a file is made, shared and rescued is in `sqlite_file.py`. A trace and what was counted while
it grew are one write, so that they agree whatever happens in between. Old traces are trimmed,
counters never. What this does not do: promise that the last traces survive a power cut (the file
stays whole), save what a damaged file still holds (traces are not worth garbage among the counters),
or keep the event loop free (`traces.py` does).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from errors import AgentError
from safe_text import encodable, one_line
from stores.sqlite_file import SqliteFile, connect, told, version_of

if TYPE_CHECKING:
    from stores.traces import Counts

T = TypeVar("T")

TRACE_BYTES_MAX = 4_000_000
"""Of one trace. The recorder's own limits keep it below; this one keeps a single trace from
pushing all others out."""

BUSY_S = 2.0
"""How long a write waits for those of other processes: nobody waits for it."""

MIGRATIONS = (
    """
CREATE TABLE traces (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    status TEXT, user TEXT, session TEXT,
    bytes INTEGER NOT NULL,
    trace TEXT NOT NULL
);
CREATE INDEX traces_size ON traces (number, bytes)
""",
    """
CREATE TABLE counters (
    name TEXT NOT NULL, labels TEXT NOT NULL, value NOT NULL,
    PRIMARY KEY (name, labels)
) WITHOUT ROWID
""",
)
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
    """The file as its one writer in this process sees it.

    Args:
        path: of the file; its folder is made with mode 0700 when missing.
        traces_max, bytes_max: the oldest traces beyond either are deleted.
        warn: told when a damaged file was put aside.
    """

    def __init__(self, path: Path, traces_max: int, bytes_max: int, warn: Callable[[str], None]) -> None:
        self._limits = (traces_max, bytes_max)

        def damaged(what: str, kept: str) -> None:
            warn(f"the traces in {path} are damaged: kept as {kept}, a new file begins")

        self._file = SqliteFile(path, MIGRATIONS, damaged, durable=False, busy_s=BUSY_S)

    def write(self, trace: Mapping[str, Any] | None, counts: Counts) -> None:
        """Keep a trace, or its newer state, which takes the place of the older, and add to the counters.

        Args:
            trace: as JSON; None when there is only something to count.
            counts: by name and labels. Added once, together with the trace, or not at all.

        Raises:
            ValueError: it is too large.
            AgentError: it could not be written; the next one may.
        """
        row = None if trace is None else _row(trace)

        def insert(connection: sqlite3.Connection) -> None:
            if row is not None:
                connection.execute(_SAVE, row)
                connection.execute(_TRIM, self._limits)
            connection.executemany(_COUNT, ((*key, value) for key, value in counts.items()))

        self._file.write(insert)

    def close(self) -> None:
        """Let go of the file; the next write opens it again."""
        self._file.close()


def read(path: Path, ask: Callable[[sqlite3.Connection], list[T]], since_version: int = 1) -> list[T]:
    """Ask the file something; one that is not there (yet), or older than `since_version`, has nothing.

    Raises:
        AgentError: it cannot be read, or a newer version made it.
    """
    try:
        with told():
            if not path.exists():
                return []
            with closing(connect(path)) as connection:
                return ask(connection) if version_of(connection, len(MIGRATIONS)) >= since_version else []
    except AgentError as error:
        words = one_line(f"the traces in {path} cannot be read: {error}", 400)
        raise AgentError(words, reason=error.reason, what_now=error.what_now) from error


def _row(trace: Mapping[str, Any]) -> tuple[Any, ...]:
    text = json.dumps(trace, default=str)  # ASCII: what no encoder accepts survives as an escape
    if len(text) > TRACE_BYTES_MAX:
        raise ValueError(f"a trace of more than {TRACE_BYTES_MAX:,} bytes")
    labels = (trace["id"], trace.get("status"), trace.get("user"), trace.get("session"))
    columns = (None if label is None else encodable(str(label)) for label in labels)
    return (*columns, len(text), text)
