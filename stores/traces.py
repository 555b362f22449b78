"""Keeps the traces of past questions, and what was counted, so that one can look at them later.  (floor 4)

    save -> bounded queue -> writer thread -> traces.sqlite3          get, latest: read it directly

`save` never waits: it is called between two events of a question, on the loop. And a trace is
worth less than the question it tells of: whatever is wrong with the disk (full, locked,
read-only, damaged), the trace is dropped, counted, said once in the log, and the next one is
tried anew. Counts are not dropped with their trace: they go with the next write that succeeds,
at the latest the one at the end of the program; a disk that refuses that one too loses them.
The file itself is `trace_file.py`.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from errors import ConfigurationError
from safe_text import encodable, one_line

if TYPE_CHECKING:
    import sqlite3  # at run time `trace_file` loads it (7 ms), with the first trace

    from stores.trace_file import TraceFile

FILE_NAME = "traces.sqlite3"
TRACES_MAX = 1_000
BYTES_MAX = 50_000_000

QUEUE_MAX = 200
"""Traces waiting for the writer. More means the disk has stopped; then the newest are dropped."""

READ_AFTER_WRITE_S = 0.25
"""How long a reader waits for this process's own traces to arrive on disk."""

DROPPED = ("unflappable_trace_writes_dropped_total", "{}")
"""The one counter that is counted here."""

_LATEST = """
SELECT CASE WHEN :whole THEN trace WHEN json_valid(trace) THEN json_remove(trace, '$.root') ELSE '' END FROM traces
WHERE (:status IS NULL OR status = :status)
  AND (:user IS NULL OR user = :user)
  AND (:session IS NULL OR session = :session)
ORDER BY number DESC LIMIT :limit
"""
_COUNTERS = "SELECT name, labels, value FROM counters"
_EXACT = "SELECT id, trace FROM traces WHERE id = :id"
_ALIKE = "SELECT id, trace FROM traces WHERE substr(id, 1, length(:id)) = :id ORDER BY number DESC LIMIT 4"


Counts: TypeAlias = Mapping[tuple[str, str], float]
"""Amounts to add to counters, by name and labels (JSON with sorted keys)."""

NOTHING_COUNTED: Counts = {}

_Item: TypeAlias = tuple[Mapping[str, Any] | None, Counts]


class TraceStore:
    """The traces of one STATE_DIR. Nothing is opened or started before the first use.

    Args:
        folder: where the file stands; made with mode 0700 when missing.
        traces_max, bytes_max: the oldest traces beyond either are deleted.
    """

    def __init__(self, folder: Path, *, traces_max: int = TRACES_MAX, bytes_max: int = BYTES_MAX) -> None:
        self.path = folder / FILE_NAME
        self.dropped = 0
        self._limits = (traces_max, bytes_max)
        self._queue: queue.Queue[_Item | threading.Event | None] = queue.Queue(QUEUE_MAX)
        self._uncounted: dict[tuple[str, str], float] = {}
        self._writer: threading.Thread | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._warned: set[str] = set()

    def save(self, trace: Mapping[str, Any] | None, counts: Counts = NOTHING_COUNTED) -> None:
        """Keep a trace, or its newer state, soon, and add to the counters with it. Never waits, never raises.

        Args:
            trace: `Trace.to_json()`, a copy that nobody changes any more; None when there is only something to count.
            counts: amounts by name and labels; nobody changes them any more either.
        """
        try:
            self._start()
            self._queue.put_nowait((trace, counts))
        except queue.Full:
            self._drop("the disk does not keep up", trace, counts)
        except RuntimeError as error:  # closed, or the system has no thread left
            self._drop(str(error), trace, counts)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all saved so far is written or dropped; False when `timeout_s` was too short."""
        written = threading.Event()
        end_s = time.monotonic() + timeout_s
        return self._tell(written, timeout_s) and (
            not self._is_writing() or written.wait(max(0.0, end_s - time.monotonic()))
        )

    def close(self, timeout_s: float) -> bool:
        """Flush and end the writer; later saves are dropped. False when `timeout_s` was too short."""
        with self._lock:
            self._closed, writer = True, self._writer
        end_s = time.monotonic() + timeout_s
        if writer is None or not self._tell(None, timeout_s):
            return writer is None
        writer.join(max(0.0, end_s - time.monotonic()))
        return not writer.is_alive()

    def get(self, trace_id: str) -> dict[str, Any] | None:
        """The trace with this id, or the only one whose id begins so; None when there is none.

        Raises:
            ConfigurationError: several ids begin so.
            AgentError: the file cannot be read.
        """
        from stores.trace_file import read

        def find(connection: sqlite3.Connection) -> list[tuple[str, str]]:
            wanted = {"id": encodable(trace_id)}
            return connection.execute(_EXACT, wanted).fetchall() or connection.execute(_ALIKE, wanted).fetchall()

        self.flush(READ_AFTER_WRITE_S)
        found = read(self.path, find) if trace_id else []
        if len(found) > 1:
            names = ", ".join(one_line(name, 40) for name, _ in found[:3]) + (", …" if found[3:] else "")
            raise ConfigurationError(
                f"several traces begin with {one_line(trace_id, 40)}: {names}", what_now="Give more of the id."
            )
        return _parsed(found[0][1]) if found else None

    def latest(
        self,
        limit: int,
        *,
        status: str | None = None,
        user: str | None = None,
        session: str | None = None,
        whole: bool = True,
    ) -> list[dict[str, Any]]:
        """The newest traces, newest first, at most `limit`; only those that match what is given.

        Args:
            limit: how many at most.
            status, user, session: what a trace must have; None for any.
            whole: with their spans, which are most of them; a thousand may be 50 MB.

        Raises:
            AgentError: the file cannot be read.
        """
        from stores.trace_file import read

        labels = {"status": status, "user": user, "session": session}
        values: dict[str, Any] = {name: label and encodable(label) for name, label in labels.items()}
        values |= {"limit": max(0, min(limit, self._limits[0])), "whole": whole}
        self.flush(READ_AFTER_WRITE_S)
        rows = read(self.path, lambda connection: connection.execute(_LATEST, values).fetchall())
        return [trace for (text,) in rows if (trace := _parsed(text)) is not None]

    # --- the writer --------------------------------------------------------------------------------------

    def _start(self) -> None:
        with self._lock:
            if self._closed:
                raise RuntimeError("the store is closed")
            if self._writer is None:
                writer = threading.Thread(target=self._write_all, name="traces", daemon=True)
                writer.start()
                self._writer = writer

    def _is_writing(self) -> bool:
        return self._writer is not None and self._writer.is_alive()

    def _tell(self, word: threading.Event | None, timeout_s: float) -> bool:
        """Queue a word for the writer; False when the queue stayed full."""
        if not self._is_writing():
            return True
        try:
            self._queue.put(word, timeout=timeout_s)
        except queue.Full:
            return False
        return True

    def _write_all(self) -> None:
        from stores.trace_file import TraceFile

        file = TraceFile(self.path, *self._limits, warn=_warn)
        while (item := self._queue.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
                continue
            self._write(file, *item)
        if self._uncounted:
            self._write(file, None, {})
        file.close()

    def _write(self, file: TraceFile, trace: Mapping[str, Any] | None, counts: Counts) -> None:
        due = self._due(counts)
        try:
            file.write(trace, due)
        except Exception as error:  # the last wall: a trace may be lost, its writer may not
            self._drop(one_line(f"{self.path}: {error}"), trace, due)

    def _due(self, counts: Counts) -> Counts:
        """These counts and those whose own write failed."""
        with self._lock:
            due, self._uncounted = self._uncounted, {}
        _add(due, counts)
        return due

    def _drop(self, why: str, trace: Mapping[str, Any] | None, counts: Counts) -> None:
        with self._lock:
            _add(self._uncounted, counts)
            if trace is not None:
                self.dropped += 1
                _add(self._uncounted, {DROPPED: 1})
            is_new = why not in self._warned
            self._warned.add(why)
        if is_new:
            _warn(f"traces are not kept: {why}")


def read_counters(folder: Path) -> dict[tuple[str, str], float]:
    """What all agents of this STATE_DIR ever counted, by name and labels (JSON with sorted keys).

    Raises:
        AgentError: the file cannot be read.
    """
    from stores.trace_file import read

    rows = read(folder / FILE_NAME, lambda connection: connection.execute(_COUNTERS).fetchall(), since_version=2)
    return {(name, labels): value for name, labels, value in rows}


def _add(counts: dict[tuple[str, str], float], more: Counts) -> None:
    for key, amount in more.items():
        counts[key] = counts.get(key, 0) + amount


def _warn(message: str) -> None:
    import logging  # 10 ms of import that a healthy disk does not owe

    logging.getLogger("unflappable.traces").warning("%s", message)


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        trace = json.loads(text)
    except ValueError:  # a flipped bit, against which SQLite keeps no checksum
        return None
    return trace if isinstance(trace, dict) else None
