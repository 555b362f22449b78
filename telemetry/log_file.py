"""Appends log lines to a file that several processes share, and turns it over when it is full.  (floor 4)

`RotatingFileHandler` is made for one process: after a rotation the others go on writing to the
file that was renamed, and rotate it again. Here every line is one `write` in append mode, which the
kernel does not mix with another's, and before each one the handler looks whether the file under
the name is still the one it holds. Who finds it full locks it, looks again, and renames. Nobody
waits for that lock: who does not get it writes a line beyond the limit instead.

A disk that is full or gone costs lines, never an error: a log must not hurt what it watches.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from pathlib import Path

from stores.private import private_file, private_folder

try:
    from fcntl import LOCK_EX, LOCK_NB, flock
except ImportError:  # Windows: there an open file cannot be renamed, which keeps two from rotating at once
    flock = None  # type: ignore[assignment]

BYTES_MAX = 2_000_000
"""Of one file: some 10,000 lines, which an editor still opens at once."""

OLD_FILES_MAX = 3


class SharedFileHandler(logging.Handler):
    """Writes to `path`, older lines are in `path.1` to `path.3`. All of them have mode 0600.

    Raises:
        OSError: the file cannot be opened now; what happens later costs lines only.
    """

    def __init__(self, path: Path, bytes_max: int = BYTES_MAX) -> None:
        super().__init__()
        self._path, self._bytes_max = path, bytes_max
        self._file = -1
        self._is_torn = False
        self._open()

    def emit(self, record: logging.LogRecord) -> None:
        """Append one line."""
        try:
            line = self.format(record).encode("utf-8", "replace") + b"\n"
            self._follow(len(line))
            self._write(line)
        except Exception:  # see above: a full disk is nobody's error here
            self.handleError(record)

    def close(self) -> None:
        """Let go of the file."""
        with self.lock or contextlib.nullcontext():
            self._close()
        super().close()

    def _write(self, line: bytes) -> None:
        line = b"\n" + line if self._is_torn else line  # a disk that filled up left half a line
        self._is_torn = os.write(self._file, line) < len(line)

    def _follow(self, more: int) -> None:
        """Make sure the open file is the one under the name, and not full."""
        if self._file < 0 or not self._is_current():
            self._reopen()
        if os.fstat(self._file).st_size + more > self._bytes_max and self._turn_over():
            self._reopen()

    def _is_current(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._file))
        except FileNotFoundError:
            return False

    def _turn_over(self) -> bool:
        """Rename the full file, unless another process is at it or done with it."""
        with contextlib.suppress(OSError):
            if flock is not None:
                flock(self._file, LOCK_EX | LOCK_NB)
            if self._is_current():
                for number in range(OLD_FILES_MAX - 1, 0, -1):
                    with contextlib.suppress(FileNotFoundError):
                        os.replace(self._old(number), self._old(number + 1))
                os.replace(self._path, self._old(1))
            return True
        return False

    def _old(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _reopen(self) -> None:
        self._close()
        self._open()

    def _open(self) -> None:
        private_folder(self._path.parent)
        private_file(self._path)
        careful = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | careful)

    def _close(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)  # and with it the lock


class ErrorStreamHandler(logging.Handler):
    """Writes to whatever `sys.stderr` is at that moment; a closed one costs the line only."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        try:
            if sys.stderr is not None:
                sys.stderr.write(self.format(record) + "\n")
                sys.stderr.flush()
        except Exception:  # closed, full, or a terminal that is gone
            self.handleError(record)
