"""The terminal as prompt-toolkit sees it, mended where its own view fails us.  (floor 6)

- A terminal that hung up reads as EIO for ever. prompt-toolkit takes that for "nothing typed"
  and spins at 100 % CPU; here it is the end of input.
- A paste that comes without its markers is thousands of keys, and 0.5 ms each (20,000
  characters took 10 s). A run of characters that nobody types in one moment becomes one key.
- It asks the terminal where the cursor is, to know how much room is left for the status line.
  Some terminals never answer, others answer late, into the next program. Here nothing is asked
  and the status line stands right under the input.

On Windows prompt-toolkit's own is used.
"""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from prompt_toolkit.input import Input
    from prompt_toolkit.output import Output

RUN_CHARS_MIN = 64
"""Characters in one read that are a paste: nobody types so fast, and no escape sequence is so long."""

READ_BYTES = 1 << 16

if sys.platform == "win32":
    from prompt_toolkit.input import create_input
    from prompt_toolkit.output import create_output

    def terminal_input(stdin: TextIO) -> Input:
        """Keys from the console."""
        return create_input(stdin)

    def terminal_output(stdout: TextIO, environ: dict[str, str]) -> Output:
        """The console."""
        return create_output(stdout)

    def make_raw(fd: int) -> None:
        """Nothing to do: a console keeps its mode."""

else:
    from prompt_toolkit.input.posix_utils import PosixStdinReader
    from prompt_toolkit.input.vt100 import Vt100Input, raw_mode
    from prompt_toolkit.key_binding.key_processor import KeyPress
    from prompt_toolkit.keys import Keys
    from prompt_toolkit.output.color_depth import ColorDepth
    from prompt_toolkit.output.vt100 import Vt100_Output

    _RUNS = re.compile(rf"([^\x00-\x1f\x7f]{{{RUN_CHARS_MIN},}})")

    class _Reader(PosixStdinReader):
        """Reads what is there; the end of the terminal is the end, however it shows."""

        def read(self, count: int = READ_BYTES) -> str:
            """What is typed, "" for nothing yet; sets `closed` at the end."""
            if self.closed:
                return ""
            try:
                data = os.read(self.stdin_fd, count)
            except (BlockingIOError, InterruptedError):
                return ""
            except OSError:  # EIO: hung up
                data = b""
            self.closed = not data
            return self._stdin_decoder.decode(data)

    class _Input(Vt100Input):
        """Keys from the terminal."""

        def __init__(self, stdin: TextIO) -> None:
            super().__init__(stdin)
            self.stdin_reader = _Reader(stdin.fileno(), encoding=stdin.encoding)
            self._tail = ""

        def read_keys(self) -> list[KeyPress]:
            """The keys since the last call."""
            for place, piece in enumerate(_RUNS.split(self.stdin_reader.read())):
                is_run = place % 2 == 1
                if is_run and not self._in_sequence():
                    self._buffer.append(KeyPress(Keys.BracketedPaste, piece))
                else:
                    self.vt100_parser.feed(piece)
                self._tail = (self._tail + piece)[-16:]
            keys, self._buffer = self._buffer, []
            return keys

        def _in_sequence(self) -> bool:
            """Whether the parser may be in the middle of something: an escape sequence, a marked paste."""
            return "\x1b" in self._tail or self.vt100_parser._in_bracketed_paste

    class _Output(Vt100_Output):
        """The terminal, which is never asked anything."""

        @property
        def responds_to_cpr(self) -> bool:
            """No."""
            return False

        def get_rows_below_cursor_position(self) -> int:
            """One is sure: the line of the cursor."""
            return 1

    def terminal_input(stdin: TextIO) -> Input:
        """Keys from the terminal."""
        return _Input(stdin)

    def terminal_output(stdout: TextIO, environ: dict[str, str]) -> Output:
        """The terminal."""
        return _Output.from_pty(stdout, term=environ.get("TERM"), default_color_depth=ColorDepth.from_env())

    def make_raw(fd: int) -> None:
        """Every key is a key, none a signal; who called `prompt` puts back what was before."""
        raw_mode(fd).__enter__()
