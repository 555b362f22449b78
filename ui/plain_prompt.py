"""The prompt where nothing can be drawn: a dumb terminal, or output that goes to a file.  (floor 6)

The system's own line editing does the work (Backspace, Ctrl-U, Ctrl-D), and echoes. A thread
reads the lines, since a read of a terminal cannot be left on every system; it reads only while
a line is wanted. There is no history and no completion. `ui/prompt.py` says what each method is for.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
from collections.abc import Callable
from typing import TextIO

from safe_text import encodable
from ui.keys import Typed
from ui.prompt_port import MARK, NOTHING
from ui.sink import Sink

READ_BYTES = 1 << 16
LINE_BYTES_MAX = 4 << 20
"""A longer line is cut: it is no question."""


class PlainPrompt:
    """Asks for one line after the other.

    Args:
        stdin: where lines come from.
        out: where the mark before each line goes.
        on_painted: called once, when the first mark was written.
        is_wanted: whether the terminal is wanted for something else before the next line.
    """

    def __init__(
        self, stdin: TextIO | None, out: Sink, *, on_painted: Callable[[], object], is_wanted: Callable[[], bool]
    ) -> None:
        self._stdin, self._out, self._is_wanted = stdin, out, is_wanted
        self._on_painted: Callable[[], object] | None = on_painted
        self._wanted: queue.SimpleQueue[Callable[[str | None], object]] = queue.SimpleQueue()
        self._reader: threading.Thread | None = None
        self._rest = b""
        self._left = False
        self._answer: Callable[[str | None], object] | None = None

    async def ask_async(self, typed: Typed = NOTHING) -> str | None:
        """Wait for a line on the running loop. None: no more input. Raises OutputClosed."""
        if self._is_wanted() and not self._left:
            return ""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[str | None] = loop.create_future()

        def settle(line: str | None) -> None:
            if not future.done():
                future.set_result(line)

        def answer(line: str | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the chat has been left
                loop.call_soon_threadsafe(settle, line)

        self._want(answer)
        return self._said(await future)

    def ask(self, typed: Typed = NOTHING) -> str | None:
        """Wait for a line. None: no more input. Raises OutputClosed."""
        if self._is_wanted() and not self._left:
            return ""
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()  # its put may interrupt its get: signal handlers
        self._want(lines.put)
        return self._said(lines.get())

    def clear(self) -> None:
        """The terminal has dropped the line by itself; a new mark says so."""
        if self._answer is not None:
            self._out.write("\n" + MARK)

    def leave(self) -> None:
        """End this question and all later ones with None."""
        self._left = True
        if self._answer is not None:
            self._answer(None)

    def resume(self) -> None:
        """The program was stopped and goes on."""
        self.clear()

    def above(self, tell: Callable[[], object]) -> None:
        """Nothing can stand above a line that the terminal edits: it is told with the next one."""

    def leftover(self) -> bytes:
        """The terminal keeps what is typed."""
        return b""

    def trouble(self) -> str:
        """There is none: nothing is kept here."""
        return ""

    def _want(self, answer: Callable[[str | None], object]) -> None:
        self._out.write(MARK)
        painted, self._on_painted = self._on_painted, None
        if painted is not None:
            painted()
        self._answer = answer
        if self._left:
            answer(None)
            return
        if self._reader is None:
            self._reader = threading.Thread(target=self._read_lines, name="lines", daemon=True)
            self._reader.start()
        self._wanted.put(answer)

    def _said(self, line: str | None) -> str | None:
        self._answer = None
        return None if self._left or line is None else encodable(line)

    def _read_lines(self) -> None:
        while True:
            answer = self._wanted.get()
            answer(self._line())

    def _line(self) -> str | None:
        """The next line without its end; None when there is none."""
        while b"\n" not in self._rest and len(self._rest) < LINE_BYTES_MAX:
            try:
                data = os.read(self._stdin.fileno(), READ_BYTES) if self._stdin is not None else b""
            except (OSError, ValueError):  # hung up, closed
                data = b""
            if not data:
                line, self._rest = self._rest, b""  # the end in the middle of a line: that line still counts
                return line.decode("utf-8", "replace") if line else None
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode("utf-8", "replace").rstrip("\r")
