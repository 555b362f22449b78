"""Keeps the questions typed so far in a private file, for the arrow keys.  (floor 6)

One entry is a few lines that begin with `+`, as prompt-toolkit writes them. Secrets are masked
before anything reaches the disk; the copy in memory is what was typed. A disk that does not
take it costs the file, never the chat: `trouble` says so once.

What this does not do: lock. Each entry is one append, so that two chats side by side keep both.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

from prompt_toolkit.history import History

from safe_text import mask, one_line
from stores.private import private_file, private_folder

FILE_NAME = "history"

ENTRY_BYTES_MAX = 64 * 1024
"""A longer entry is a paste: it stays in memory only."""

FILE_BYTES_MAX = 4 << 20
LOADED_BYTES_MAX = 1 << 20
"""A file that grew beyond the first is cut to the newest of the second when it is loaded."""

_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class PrivateHistory(History):
    """The history of one STATE_DIR: folder 0700, file 0600, whatever the umask."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder, self._path = folder, folder / FILE_NAME
        self._trouble = ""
        self._told = False

    def trouble(self) -> str:
        """Why nothing is kept, for the person; "" when all is well or when it was said before."""
        if not self._trouble or self._told:
            return ""
        self._told = True
        return f"questions are not kept for the next time: {self._trouble}"

    def load_history_strings(self) -> Iterable[str]:
        """The entries, newest first."""
        try:
            entries = _parsed(self._read())
        except FileNotFoundError:
            return []
        except OSError as error:
            self._fail(error)
            return []
        return reversed(entries)

    def store_string(self, string: str) -> None:
        """Append one entry, masked."""
        lines = mask(string).split("\n")
        entry = f"\n# {time.strftime('%Y-%m-%d %H:%M:%S')}\n" + "".join(f"+{line}\n" for line in lines)
        data = entry.encode("utf-8", "replace")
        if len(data) > ENTRY_BYTES_MAX:
            return
        try:
            private_folder(self._folder)
            private_file(self._path)
            self._append(data)
        except OSError as error:
            self._fail(error)

    def _append(self, data: bytes) -> None:
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | _FLAGS)
        try:
            os.write(handle, data)
        finally:
            os.close(handle)

    def _read(self) -> bytes:
        handle = os.open(self._path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _FLAGS)
        with os.fdopen(handle, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - LOADED_BYTES_MAX))
            data = file.read(LOADED_BYTES_MAX)
        if size > FILE_BYTES_MAX:
            self._cut(data)
        return data

    def _cut(self, data: bytes) -> None:
        new = self._path.with_name(f"{FILE_NAME}.{os.getpid()}.tmp")
        try:
            private_file(new)
            new.write_bytes(data)
            os.replace(new, self._path)
        except OSError:
            new.unlink(missing_ok=True)  # it stays long; the next start tries again

    def _fail(self, error: OSError) -> None:
        self._trouble = one_line(f"{self._path}: {error.strerror or error}")


def _parsed(data: bytes) -> list[str]:
    entries: list[str] = []
    lines: list[str] = []
    for line in [*data.decode("utf-8", "replace").split("\n"), ""]:
        if line.startswith("+"):
            lines.append(line[1:])
        elif lines:
            entries.append("\n".join(lines))
            lines = []
    return entries
