"""Asks the person in front of the terminal whether one action may run.  (floor 6)

    ── may save_note run? ──────────────────────────────
    why: text from outside was read before it was asked for
    content (2 lines, 21 characters):
    │ milk
    ┆  and honey                    a long line goes on
    digest 3f2a91c04d7e
    run save_note? y = yes, anything else = no:

The whole input is shown, however long, and everything of it stands behind a bar that it cannot
leave: lines are broken here, never by the terminal, and characters that cannot be seen or that
move others are spelled out. Only secrets are hidden, and the dialog says where. Only "y" or "yes"
is a yes, and only when typed after the question stood there. No answer in time, the end of
input, or no terminal: nobody was there.

Both performers leave the terminal as they found it, also when they are cancelled (asyncio) or
an alarm or a stop strikes (blocking). What this does not do: decide who must be asked
(`oversight/approvals.py`).
"""

from __future__ import annotations

import asyncio
import codecs
import json
import os
import select
import sys
import time
import unicodedata
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from oversight.approvals import Answer, ApprovalRequest, AskHuman
from safe_text import mask, one_line
from ui.cells import cells_of
from ui.keys import SEQUENCE, Keys, draws, person_at
from ui.sink import OutputClosed, Sink
from ui.theme import is_terminal

if TYPE_CHECKING:
    from ui.screen import Screen

DIGEST_CHARS = 12
QUESTION = "y = yes, anything else = no: "
WIDTH_MIN = 4
"""A bar, a blank and one wide character: with fewer columns nothing can be kept behind a bar."""
ANSWER_CHARS_MAX = 100
"""A longer line is no yes, however it begins."""
WAIT_S_MAX = 1e6
"""Longer waits overflow some systems' timers."""

# Letters and symbols that draw nothing (Unicode: Default_Ignorable_Code_Point, and Braille's blank).
_BLANKS = {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0, *range(0xFE00, 0xFE10)}
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}  # Zs: blanks that are not the space


def approving_async(screen: Screen, keys: Keys | None = None) -> Callable[[AskHuman, Any], Awaitable[Answer]]:
    """The performer of AskHuman on asyncio; `keys` when somebody else is listening to the keyboard."""

    async def ask(effect: AskHuman, branch: Any) -> Answer:
        out = _terminal()
        if out is None:
            return Answer.NOBODY
        keyboard = keys or Keys(sys.stdin, draws(sys.stdin, sys.stdout, os.environ))
        try:
            with _asking(screen, keyboard, out, effect.request):
                return await _answer_async(keyboard, out, effect.limit_s)
        except OutputClosed:
            return Answer.NOBODY

    return ask


def approving_blocking(screen: Screen, keys: Keys | None = None) -> Callable[[AskHuman, Any], Answer]:
    """The performer of AskHuman without asyncio: an alarm or a stop may strike inside."""

    def ask(effect: AskHuman, branch: Any) -> Answer:
        out = _terminal()
        if out is None:
            return Answer.NOBODY
        keyboard = keys or Keys(sys.stdin, draws(sys.stdin, sys.stdout, os.environ))
        try:
            with _asking(screen, keyboard, out, effect.request):
                return _answer_blocking(keyboard, out, effect.limit_s)
        except OutputClosed:
            return Answer.NOBODY

    return ask


def _terminal() -> Sink | None:
    """Where to ask; None when nobody is there. stderr where it is a terminal: stdout may carry a report."""
    if not person_at(sys.stdin, sys.stdout):
        return None
    return Sink(sys.stderr if is_terminal(sys.stderr) else sys.stdout, os.environ)


@contextmanager
def _asking(screen: Screen, keys: Keys, out: Sink, request: ApprovalRequest) -> Iterator[None]:
    """Show the dialog, hold the keyboard while it is answered, and leave a whole line behind."""
    with keys.lent():
        screen.clear()
        out.write(dialog(request, out.size().columns, unicode=out.theme.unicode))
        keys.forget()
        out.write(f"run {_name(request.tool)}? {QUESTION}")
        try:
            yield
        finally:
            with suppress(OutputClosed):
                out.write("\n")


# --- what is shown ---------------------------------------------------------------------------------------


def dialog(request: ApprovalRequest, columns: int, *, unicode: bool = True) -> str:
    """The whole dialog but its last line: what will run, exactly, and the digest it is bound to."""
    width = max(columns - 1, WIDTH_MIN)
    bar, more, rule = ("│ ", "┆ ", "─") if unicode else ("| ", ": ", "-")
    lines = [f"{rule * 2} may {_name(request.tool)} run? {rule * width}"[:width], f"why: {one_line(request.why, 400)}"]
    for name, value in request.input.items():
        text = _text_of(value)
        hidden = ", secrets hidden" if mask(text) != text else ""
        lines.append(f"{_name(name)} ({_size(text)}{hidden}):")
        lines += _behind(bar, more, seen(mask(text), unicode=unicode), width)
    lines.append(f"digest {request.digest[:DIGEST_CHARS]}")
    return "\n".join(lines) + "\n"


def _name(name: str) -> str:
    return one_line(seen(name), 80)


def _text_of(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2, default=repr)


def _size(text: str) -> str:
    lines, characters = text.count("\n") + 1, len(text)
    counted = f"{characters:,} character{'' if characters == 1 else 's'}"
    return counted if lines == 1 else f"{lines:,} lines, {counted}"


def seen(text: str, *, unicode: bool = True) -> str:
    """The text with everything spelled out that a person could not see, or that would move what they see.

    Newlines stay. `⟨U+202E⟩` stands for the character of that number. Where the terminal knows no
    more than ASCII, all else is spelled out too.
    """
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    spelled = "⟨U+{:04X}⟩" if unicode else "<U+{:04X}>"
    return "".join(c if _shows(c) and (unicode or c.isascii()) else spelled.format(ord(c)) for c in text)


def _shows(character: str) -> bool:
    if character == "\n" or " " <= character <= "~":
        return True
    code, category = ord(character), unicodedata.category(character)
    return not (category in _UNSEEN or code in _BLANKS or 0xE0100 <= code < 0xE01F0)


def _behind(bar: str, more: str, text: str, width: int) -> Iterator[str]:
    """Each line behind a bar; where it is broken, it goes on behind a broken bar."""
    for line in text.split("\n"):
        row, used, start = [bar], len(bar), True
        for character in line:
            cells = 1 if " " <= character <= "~" else cells_of(character)
            if used + cells > width and not start:
                yield "".join(row)
                row, used = [more], len(more)
            row.append(character)
            used, start = used + cells, False
        yield "".join(row)


# --- the answer ------------------------------------------------------------------------------------------


def _meaning(text: str) -> Answer:
    says_yes = len(text) <= ANSWER_CHARS_MAX and text.strip().lower() in ("y", "yes")
    return Answer.YES if says_yes else Answer.NO


class _Line:
    """One line as it is typed. `answer` is set at its end. In quiet mode it echoes itself."""

    def __init__(self, out: Sink, echoes: bool) -> None:
        self.answer: Answer | None = None
        self._out, self._echoes = out, echoes
        self._text = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes) -> None:
        if not data:
            self.answer = Answer.NOBODY
        for character in SEQUENCE.sub("", self._decoder.decode(data)):  # arrows and the like say nothing
            if self.answer is None:
                self._take(character)

    def _take(self, character: str) -> None:
        if character in "\r\n":
            self.answer = _meaning(self._text)
        elif character == "\x03":
            self.answer = Answer.NO
        elif character == "\x04":
            self.answer = Answer.NOBODY
        elif character in "\x7f\x08":
            if self._text:
                self._text = self._text[:-1]
                self._echo("\b \b")
        elif len(self._text) <= ANSWER_CHARS_MAX:
            self._text += character
            self._echo(character if " " <= character <= "~" else "?")

    def _echo(self, text: str) -> None:
        if self._echoes:
            self._out.write(text)


async def _answer_async(keys: Keys, out: Sink, limit_s: float) -> Answer:
    if keys.fd is None:
        return await _answer_of_console(limit_s)
    fd, line, loop = keys.fd, _Line(out, keys.is_quiet), asyncio.get_running_loop()
    ended = asyncio.Event()

    def read() -> None:
        line.feed(_read(fd))
        if line.answer is not None:
            ended.set()

    loop.add_reader(fd, read)
    try:
        async with asyncio.timeout(min(max(limit_s, 0.0), WAIT_S_MAX)):
            await ended.wait()
    except TimeoutError:
        return Answer.NOBODY
    finally:
        loop.remove_reader(fd)
    return line.answer or Answer.NOBODY


def _answer_blocking(keys: Keys, out: Sink, limit_s: float) -> Answer:
    if keys.fd is None:
        return Answer.NOBODY
    line, end_s = _Line(out, keys.is_quiet), time.monotonic() + min(max(limit_s, 0.0), WAIT_S_MAX)
    while line.answer is None:
        left_s = end_s - time.monotonic()
        if left_s <= 0 or not select.select([keys.fd], [], [], left_s)[0]:
            return Answer.NOBODY
        line.feed(_read(keys.fd))
    return line.answer


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 1024)
    except OSError:  # EIO: it hung up
        return b""


async def _answer_of_console(limit_s: float) -> Answer:
    """Without termios (Windows): prompt-toolkit knows how to read a line there."""
    from prompt_toolkit import PromptSession

    try:
        async with asyncio.timeout(min(max(limit_s, 0.0), WAIT_S_MAX)):
            text = await PromptSession[str]().prompt_async("", handle_sigint=False, set_exception_handler=False)
    except KeyboardInterrupt:
        return Answer.NO
    except (TimeoutError, EOFError, OSError):
        return Answer.NOBODY
    return _meaning(text)
