"""Keeps the terminal quiet while the agent works, and keeps what is typed meanwhile for the next prompt.  (floor 6)

    at the prompt      raw: every key goes to the prompt, which draws it
    everywhere else    quiet: no echo, no waiting for Enter, Ctrl-C is a signal; what is typed is kept
    at the end         as it was found

Quiet is the chat's base: the prompt goes raw from there and comes back to it, so that there is
no gap in which a key would be echoed into an answer. One reader at a time owns the keyboard:
the prompt, this (`listening`), or whoever it is lent to (an approval dialog).

Where there is no terminal, a dumb one, or a system without termios (Windows), the mode is left
alone, nothing is kept, and the system's own line editing stays. What this does not do: read lines, or judge
which of the kept keys are a question.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import re
import select
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from ui.theme import Theme, is_terminal

try:
    import termios
except ImportError:  # Windows
    termios = None  # type: ignore[assignment]

KEPT_BYTES_MAX = 1 << 20
"""More than this is not typing; what comes after it is dropped."""

_INTERRUPT = b"\x03"
# CSI, SS3 (ECMA-48) and Alt with a key; the markers of a bracketed paste are CSI sequences too.
SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]?|O.?|[^\[O])?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Typed:
    """What was typed ahead. `entered`: it is one line that ended with Enter, meant to be asked as it is."""

    text: str = ""
    entered: bool = False


def understood(data: bytes) -> Typed:
    """Make text of the keys that were typed without a prompt: Backspace, Ctrl-W and Ctrl-U work, arrows don't.

    Several lines are never entered by themselves: they are a paste more likely than questions.
    """
    text = SEQUENCE.sub("", data.decode("utf-8", "replace"))
    kept: list[str] = []
    for character in text:
        if character in "\x7f\x08":
            del kept[-1:]
        elif character == "\x15":
            _drop_back_to(kept, "\n")
        elif character == "\x17":
            while kept and kept[-1] in " \n":
                kept.pop()
            _drop_back_to(kept, " \n")
        elif character in "\r\n":
            kept.append("\n")
        elif character == "\t":
            kept.append(" ")
        elif character >= " " and not "\x80" <= character < "\xa0":
            kept.append(character)
    line = "".join(kept).strip("\n")
    return Typed(line, text.endswith("\r") and "\n" not in line and bool(line.strip()))


def _drop_back_to(kept: list[str], ends: str) -> None:
    while kept and kept[-1] not in ends:
        kept.pop()


class Keys:
    """The keyboard of this program.

    Args:
        stdin: where keys come from.
        quiets: whether quiet mode is wanted at all: somebody else draws what is typed (see `draws`).

    `fd` is the terminal's descriptor, None where there is none. `is_quiet`: it is switched to quiet
    mode where that is asked for, and does not echo.
    """

    def __init__(self, stdin: TextIO | None, quiets: bool = True) -> None:
        terminal = stdin is not None and is_terminal(stdin) and termios is not None
        self.fd = stdin.fileno() if stdin is not None and terminal else None
        self.is_quiet = self.fd is not None and quiets
        self.on_interrupt: Callable[[], object] = lambda: None
        self.on_hangup: Callable[[], object] = lambda: None
        self._kept = bytearray()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._found: list[Any] | None = None
        self._quiet: list[Any] | None = None

    # --- the terminal's mode ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Quiet inside, as before outside, however it is left; also when the program just exits."""
        outer, before = (self._found, self._quiet), self._mode() if self.is_quiet else None
        if before is None:
            yield
            return
        self._found, self._quiet = outer[0] or before, _quieted(before)
        atexit.register(self.restore)
        try:
            self._set(self._quiet)
            yield
        finally:
            self._set(before)
            self._found, self._quiet = outer
            if outer[0] is None:
                atexit.unregister(self.restore)

    def restore(self) -> None:
        """Leave the terminal as it was found."""
        if self._found is not None:
            self._set(self._found)

    def resume(self) -> None:
        """Be quiet again: the program was stopped (Ctrl-Z), and the shell has set its own mode since."""
        if self._quiet is not None and self._in_foreground():
            self._set(self._quiet)

    def _in_foreground(self) -> bool:
        try:
            return self.fd is not None and os.tcgetpgrp(self.fd) == os.getpgrp()
        except OSError:
            return False

    def _mode(self) -> list[Any] | None:
        if self.fd is None:
            return None
        try:
            return termios.tcgetattr(self.fd)
        except termios.error:  # it hung up
            return None

    def _set(self, mode: list[Any]) -> None:
        if self.fd is None:
            return
        with contextlib.suppress(termios.error):  # it hung up: nobody sees its mode any more
            # NOW, not DRAIN: output that is held up must not hold up Ctrl-C.
            termios.tcsetattr(self.fd, termios.TCSANOW, mode)

    # --- what is typed ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def listening(self, loop: asyncio.AbstractEventLoop | None = None) -> Iterator[None]:
        """Keep what is typed: on `loop` as it comes, without one (it waits in the terminal) at the end."""
        if not self.is_quiet:
            yield
            return
        self._loop = loop
        self._attach()
        try:
            yield
        finally:
            self._detach()
            self._loop = None
            self.drain()

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Somebody else reads the keyboard, in quiet mode; `forget` keeps from them what was typed before."""
        self._detach()
        try:
            with self.quiet():
                yield
        finally:
            self._attach()

    def forget(self) -> None:
        """Drop everything typed so far."""
        self._kept.clear()
        if self.fd is not None:
            with contextlib.suppress(termios.error):
                termios.tcflush(self.fd, termios.TCIFLUSH)

    def drain(self) -> None:
        """Take what is typed already, without waiting."""
        for _ in range(KEPT_BYTES_MAX // 1024):
            if self.fd is None or not _is_readable(self.fd):
                return
            try:
                data = os.read(self.fd, 1 << 16)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # EIO: it hung up
                data = b""
            if not data:
                self._hang_up()
                return
            self.keep(data)

    def take_early(self) -> None:
        """Take what was typed before the program had the terminal: there, Enter was made a newline already."""
        self.drain()
        self._kept = self._kept.replace(b"\n", b"\r")

    def keep(self, data: bytes) -> None:
        """Take in keys. A Ctrl-C among them was typed in a raw moment: what came before it is void."""
        _void, interrupt, after = data.rpartition(_INTERRUPT)
        if interrupt:
            self._kept.clear()
            self.on_interrupt()
        self._kept += after[: KEPT_BYTES_MAX - len(self._kept)]

    def typed(self) -> Typed:
        """What was typed ahead; forgotten after that."""
        data = bytes(self._kept)
        self._kept.clear()
        return understood(data)

    def hung_up(self) -> bool:
        """Whether the terminal is gone: its window was closed, its line dropped."""
        return self.fd is not None and hung_up(self.fd)

    def _hang_up(self) -> None:
        self._detach()  # a dead terminal is readable for ever: this would spin
        self._loop = None
        self.on_hangup()

    def _attach(self) -> None:
        if self._loop is not None and self.fd is not None:
            self._loop.add_reader(self.fd, self.drain)

    def _detach(self) -> None:
        if self._loop is not None and self.fd is not None:
            self._loop.remove_reader(self.fd)


def _quieted(mode: list[Any]) -> list[Any]:
    """No echo, no lines, no Ctrl-S, Ctrl-O or Ctrl-V; Enter stays a carriage return, unlike a pasted newline.

    NOFLSH: Ctrl-C stops the answer, not the question that was typed ahead.
    """
    iflag, oflag, cflag, lflag, ispeed, ospeed, characters = mode
    iflag &= ~(termios.ICRNL | termios.INLCR | termios.IGNCR | termios.IXON)
    lflag &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN)
    lflag |= termios.ISIG | termios.NOFLSH
    characters = list(characters)
    characters[termios.VMIN], characters[termios.VTIME] = 1, 0
    return [iflag, oflag, cflag, lflag, ispeed, ospeed, characters]


def _is_readable(fd: int) -> bool:
    try:
        return bool(select.select([fd], [], [], 0)[0])
    except (OSError, ValueError):  # closed
        return False


def hung_up(fd: int) -> bool:
    """Whether the other side of this terminal is gone."""
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(fd, 0)  # hang-ups and errors are always reported
    return bool(poll.poll(0))


def draws(stdin: TextIO | None, stdout: TextIO | None, environ: Mapping[str, str]) -> bool:
    """Whether a prompt can be drawn: a terminal on both sides that can move its cursor."""
    return Theme.of(stdin, environ).moves and Theme.of(stdout, environ).moves


def person_at(stdin: TextIO | None, stdout: TextIO | None) -> bool:
    """Whether somebody is there to be asked: both streams are terminals."""
    return is_terminal(stdin) and is_terminal(stdout)
