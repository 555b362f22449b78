"""Writes to the terminal or a pipe, and says once and clearly when nobody is there any more.  (floor 6)

Every byte the program shows goes through a `Sink`. Python's own stream fails in four
different ways when the other side is gone (a broken pipe, EIO on a closed pty, a closed
file, no stream at all) and once more at exit, when it flushes what is left. Here all of
them are `OutputClosed`, and the descriptor is pointed at the null device so that the exit
stays quiet. A character the encoding does not know is replaced, never an error.

What this does not do: clean foreign text. That happens where foreign text comes in
(`screen.py`, `markdown_stream.py`), since the sink also carries our own escapes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import TextIO

from ui.theme import Theme, is_terminal

# What programs assume of a terminal that does not say (also of one that says 0 x 0, as
# serial lines and fresh containers do).
USUAL_SIZE = os.terminal_size((80, 24))


class OutputClosed(Exception):
    """Nobody reads our output any more (closed pipe or terminal). The program ends with exit 141."""


class Sink:
    """One output stream.

    Args:
        stream: where to write; None when the descriptor was closed before the start.
        environ: for what the stream can show (`TERM`, `NO_COLOR`).
        needed: False for a stream whose loss is no reason to stop (progress on stderr).
    """

    def __init__(self, stream: TextIO | None, environ: Mapping[str, str], *, needed: bool = True) -> None:
        self.theme = Theme.of(stream, environ)
        self.closed = False
        self.written = False
        self._stream = stream
        self._needed = needed
        self._why: Exception | None = None

    @property
    def is_terminal(self) -> bool:
        """Whether a person looks at this stream."""
        return is_terminal(self._stream)

    def size(self) -> os.terminal_size:
        """Columns and rows right now, asked anew at each call; at least 1 x 1."""
        if self._stream is None:
            return USUAL_SIZE
        try:
            size = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError, AttributeError):  # no terminal, closed, not even a file
            return USUAL_SIZE
        return size if size.columns > 0 and size.lines > 0 else USUAL_SIZE

    def write(self, text: str) -> None:
        """Write and flush. Raises OutputClosed when nobody reads it (now and at every later call)."""
        if not text:
            return
        if not self.closed:
            try:
                self._put(self.theme.spelled(text))
                self.written = True
            except (OSError, ValueError) as error:  # ValueError: a closed file
                self.closed, self._why = True, error
                _point_at_nothing(self._stream)
        if self._needed:
            self.check()

    def check(self) -> None:
        """Raise OutputClosed, with what happened as its cause, when a write failed before."""
        if self.closed:
            raise OutputClosed("nobody reads the output any more") from self._why

    def _put(self, text: str) -> None:
        if self._stream is None:
            raise ValueError("no stream")
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding
            self._stream.write(text.encode(encoding, "replace").decode(encoding))
        self._stream.flush()


def _point_at_nothing(stream: TextIO | None) -> None:
    """Let what is still buffered go nowhere, or the interpreter complains about it at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        descriptor = stream.fileno() if stream is not None else -1
        nothing = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nothing, descriptor)
        finally:
            os.close(nothing)
