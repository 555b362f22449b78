"""Keeps a thing to one process: a locked file, whose lock falls when its holder ends, however it ends.  (floor 4)

A process number proves nothing: it may be somebody else's by now, or stand for another process in
another container. The kernel's lock on an open file does: it is there as long as its holder lives,
also a stopped one, and never longer. The holder can leave a word in the file (`note`), which
outlives a crash and tells the next one how far it came; who lets go properly removes the file.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from platform_edges import is_held, take
from stores.private import private_folder

TAKE_S = 0.25
"""A "no" is asked again for so long: those who only look at a file have its lock too, for an instant."""

ASK_AGAIN_S = 0.01


class FileLock:
    """One lock on one file, taken or not. Belongs to whoever made it; not for several threads at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left = ""
        """What a holder that crashed had noted, once the lock is taken."""
        self._handle: int | None = None

    @property
    def is_taken(self) -> bool:
        """Whether we have it."""
        return self._handle is not None

    def take(self, wait_s: float = TAKE_S) -> bool:
        """Take it, waiting at most so long; False when another process has it.

        Raises:
            OSError: the file cannot be made, or there are no locks here.
        """
        end_s = time.monotonic() + wait_s
        while not self.is_taken and not self._try():
            if time.monotonic() >= end_s:
                return False
            time.sleep(ASK_AGAIN_S)
        return True

    def _try(self) -> bool:
        private_folder(self.path.parent)
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
        handle = os.open(self.path, flags, 0o600)
        try:
            if hasattr(os, "fchmod"):
                os.fchmod(handle, 0o600)
            if take(handle) and _is_at(handle, self.path):  # else its last holder has just removed it
                self.left = os.read(handle, 64).decode("ascii", "replace")
                self._handle, handle = handle, -1
        finally:
            if handle >= 0:
                os.close(handle)
        return self.is_taken

    def __del__(self) -> None:
        """Whoever forgets it loses it as by a crash."""
        self.release(keep=True)

    def note(self, word: str) -> None:
        """Leave a short word of always the same length, for the next holder should we crash."""
        if self._handle is not None:
            os.lseek(self._handle, 0, os.SEEK_SET)
            os.write(self._handle, word.encode("ascii"))

    def release(self, *, keep: bool = False) -> None:
        """Let go, and remove the file unless its word is to `keep`. Harmless when it is not taken."""
        handle, self._handle = self._handle, None
        if handle is None:
            return
        if not keep:
            with suppress(OSError):  # Windows removes no open file; then after the close, unless somebody took it
                self.path.unlink()
        os.close(handle)
        if not keep and os.name == "nt":
            with suppress(OSError):
                self.path.unlink()


def is_in_use(path: Path) -> bool:
    """Whether a living process holds the lock on this file."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0))
    except OSError:
        return False
    try:
        return is_held(handle)
    except OSError:  # no locks here: nobody can be held to one
        return False
    finally:
        os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False
