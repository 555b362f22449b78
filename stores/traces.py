"""Keeps the traces of past questions, so that one can look at them later.  (floor 4)

    save -> bounded queue -> writer thread -> traces.sqlite3          get, latest: read it directly

`save` never waits: it is called between two events of a question, on the loop. And a trace is
worth less than the question it tells of: whatever is wrong with the disk (full, locked,
read-only, damaged), the trace is dropped, counted, said once in the log, and the next one is
tried anew. The file itself is `trace_file.py`.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from errors import ConfigurationError
from safe_text import encodable, one_line

if TYPE_CHECKING:
    import sqlite3  # at run time `trace_file` loads it (7 ms), with the first trace

FILE_NAME = "traces.sqlite3"
TRACES_MAX = 1_000
BYTES_MAX = 50_000_000

QUEUE_MAX = 200
"""Traces waiting for the writer. More means the disk has stopped; then the newest are dropped."""

READ_AFTER_WRITE_S = 0.25
"""How long a reader waits for this process's own traces to arrive on disk."""

_LATEST = """
SELECT trace FROM traces
WHERE (:status IS NULL OR status = :status)
  AND (:user IS NULL OR user = :user)
  AND (:session IS NULL OR session = :session)
ORDER BY number DESC LIMIT :limit
"""
_EXACT = "SELECT id, trace FROM traces WHERE id = :id"
_ALIKE = "SELECT id, trace FROM traces WHERE substr(id, 1, length(:id)) = :id ORDER BY number DESC LIMIT 4"


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
        self._queue: queue.Queue[Mapping[str, Any] | threading.Event | None] = queue.Queue(QUEUE_MAX)
        self._writer: threading.Thread | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._warned: set[str] = set()

    def save(self, trace: Mapping[str, Any]) -> None:
        """Keep a trace, or its newer state, soon. Never waits, never raises.

        Args:
            trace: `Trace.to_json()`, a copy that nobody changes any more.
        """
        try:
            self._start()
            self._queue.put_nowait(trace)
        except queue.Full:
            self._drop("the disk does not keep up")
        except RuntimeError as error:  # closed, or the system has no thread left
            self._drop(str(error))

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
        self, limit: int, *, status: str | None = None, user: str | None = None, session: str | None = None
    ) -> list[dict[str, Any]]:
        """The newest traces, newest first, at most `limit`; only those that match what is given.

        Raises:
            AgentError: the file cannot be read.
        """
        from stores.trace_file import read

        labels = {"status": status, "user": user, "session": session}
        values: dict[str, Any] = {name: label and encodable(label) for name, label in labels.items()}
        values["limit"] = max(0, min(limit, self._limits[0]))
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
            try:
                file.write(item)
            except Exception as error:  # the last wall: a trace may be lost, its writer may not
                self._drop(one_line(f"{self.path}: {error}"))
        file.close()

    def _drop(self, why: str) -> None:
        with self._lock:
            self.dropped += 1
            is_new = why not in self._warned
            self._warned.add(why)
        if is_new:
            _warn(f"traces are not kept: {why}")


def _warn(message: str) -> None:
    import logging  # 10 ms of import that a healthy disk does not owe

    logging.getLogger("unflappable.traces").warning("%s", message)


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        trace = json.loads(text)
    except ValueError:  # a flipped bit, against which SQLite keeps no checksum
        return None
    return trace if isinstance(trace, dict) else None
