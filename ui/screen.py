"""Draws what happens, as it happens: the answer, each step on the way, and a status line.  (floor 6)

The screen is a listener and draws from events only. Three things share the terminal, and
each line belongs to exactly one of them:

    answer    the model's words, by finished Markdown blocks (`markdown_stream.py`)
    steps     one committed line for each thing worth knowing (`steps.py`)
    status    one transient last line, erased before anything else is written

In the chat all of them go to stdout. A one-shot writes the answer to stdout, where it is
streamed only for a person: into a pipe goes the final text and nothing else, since a
stream may still die and be void. Its steps go to stderr, all of them for a person or with
--verbose, else only warnings.

What this does not do: ask, read keys, or decide anything. A closed output raises
`OutputClosed`; a door drops what listeners raise, so `end_turn` raises it again.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from typing import TextIO

from events import (
    ApprovalAsked,
    AttemptAbandoned,
    AttemptStarted,
    Event,
    ModelAnswered,
    RoundStarted,
    Stamped,
    TextStreamed,
    ToolCallEnded,
    ToolCallStarted,
    TurnCancelled,
    TurnEnded,
    TurnStarted,
)
from safe_text import StreamMask, clean, mask, one_line
from ui.markdown_stream import MarkdownStream
from ui.sink import OutputClosed, Sink
from ui.standing import Standing
from ui.steps import Line, Steps, is_model

__all__ = ["OutputClosed", "Screen", "Sink", "Standing", "preload"]

STATUS_CHARS_MAX = 200

COLUMNS_TO_WRAP = 30
"""In less there is no room for words and an indent."""


class Screen:
    """The screen of one program. Use `Screen.for_chat` or `Screen.for_one_shot`.

    Args:
        answer: where the model's words go; None shows none (`--json`).
        steps: where lines and status go; the same sink as `answer` in the chat.
        streams: show words as they arrive; else only the final text.
        quiet: only lines that warn.
        verbose: also each attempt, and what it cost.
    """

    def __init__(
        self, answer: Sink | None, steps: Sink, *, streams: bool, quiet: bool = False, verbose: bool = False
    ) -> None:
        self._answer, self._out = answer, steps
        self._streams, self._quiet, self._verbose = streams, quiet, verbose
        self._shared = answer is steps or (answer is not None and answer.is_terminal and steps.is_terminal)
        self._steps = Steps()
        self._status = ""
        self._asking = False
        out = answer or steps
        self._markdown = MarkdownStream(out.write, lambda: out.size().columns, lambda: out.size().lines, out.theme)
        self._reset()

    def _reset(self) -> None:
        self._said = ""  # by the message under way
        self._mask = StreamMask()
        self._texts: list[str] = []  # of the messages that ended properly
        self._void_if_repeated = False
        self._lines_since_text = False
        self._under_way = False
        self._abandoned = False

    @classmethod
    def for_chat(cls, out: Sink, *, verbose: bool = False) -> Screen:
        """Everything on one stream, words as they arrive."""
        return cls(out, out, streams=True, verbose=verbose)

    @classmethod
    def for_one_shot(
        cls,
        stdout: TextIO | None,
        stderr: TextIO | None,
        environ: Mapping[str, str],
        *,
        verbose: bool = False,
        answers: bool = True,
    ) -> Screen:
        """The answer on stdout, all else on stderr. `answers=False` leaves stdout alone (`--json`)."""
        answer = Sink(stdout, environ) if answers else None
        steps = Sink(stderr, environ, needed=False)
        streams = answer is not None and answer.theme.moves
        return cls(answer, steps, streams=streams, quiet=not (verbose or steps.is_terminal), verbose=verbose)

    # --- for the program ---------------------------------------------------------------------------------

    @property
    def status_source(self) -> Callable[[], Standing] | None:
        """Where to ask what stands (model, open circuits, faults); None: what events told."""
        return self._steps.source

    @status_source.setter
    def status_source(self, source: Callable[[], Standing] | None) -> None:
        self._steps.source = source

    @property
    def columns(self) -> int:
        """Width right now."""
        return self._out.size().columns

    def begin_turn(self) -> None:
        """A question is on its way. Raises OutputClosed."""
        self._reset()
        self._steps.begin()
        self._under_way = True
        self._show_status()

    def end_turn(self) -> None:
        """The question is over, however it went: leave whole lines behind. Raises OutputClosed."""
        self._erase_status()
        if self._markdown.open:
            self._markdown.void(erase=False)
        self._reset()
        if self._answer is not None:
            self._answer.check()

    def notice(self, text: str, style: str = "") -> None:
        """Print words of the program itself, any number of lines. Raises OutputClosed."""
        self._commit(self._out.theme.lines(style, text))

    def clear(self) -> None:
        """Take everything transient off the screen, before somebody else writes (an approval dialog)."""
        self._erase_status()
        self._markdown.hide()

    # --- events ------------------------------------------------------------------------------------------

    def __call__(self, stamped: Stamped) -> None:
        """Draw one event. Raises OutputClosed."""
        event = stamped.event
        line = self._steps.follow(stamped)
        self._judge_abandoned(event)
        match event:
            case TextStreamed():
                return self._on_text(event.text)
            case AttemptAbandoned():
                self._abandoned = True
            case AttemptStarted() if is_model(event.dependency):
                self._on_attempt()
            case ModelAnswered():
                self._on_answered(event.stop_reason)
            case RoundStarted():
                self._on_round()
            case ToolCallStarted() | ToolCallEnded():
                self._void_if_repeated = False
            case TurnStarted():
                self._under_way = True
            case TurnCancelled():
                self._stop_text()
            case TurnEnded():
                self._on_end(event)
        self._asking = isinstance(event, ApprovalAsked)
        if line is not None:
            self._tell(line)
        if isinstance(event, TurnEnded):
            self._under_way = False
        if self._asking or not self._under_way:
            return self._erase_status()
        return self._show_status()

    def _judge_abandoned(self, event: Event) -> None:
        """An attempt broke off: its words go, unless what follows says that it was the person who stopped it."""
        abandoned, self._abandoned = self._abandoned, False
        if abandoned and not isinstance(event, TurnCancelled):
            self._on_void()

    def _on_text(self, text: str) -> None:
        self._say(self._mask.feed(text))

    def _say(self, text: str) -> None:
        self._said += text
        if not self._streams or not text:
            return
        self._erase_status()
        if self._lines_since_text and self._shared:
            self._out.write("\n")
        self._lines_since_text = False
        self._markdown.feed(text)

    def _on_void(self) -> None:
        self._erase_status()
        if self._markdown.open:
            self._markdown.void()
        elif self._void_if_repeated and self._texts and self._texts.pop().strip() and self._streams:
            self._markdown.mark_void()  # it had ended, and was thrown away after that
        self._said, self._void_if_repeated = "", False
        self._mask = StreamMask()

    def _on_attempt(self) -> None:
        """A new attempt: whatever the one before left open is void."""
        self._mask = StreamMask()
        if self._said:
            self._on_void()

    def _on_answered(self, stop_reason: str) -> None:
        self._say(self._mask.rest())
        self._erase_status()
        self._markdown.finish()
        if self._said:
            self._texts.append(self._said)
            self._void_if_repeated = stop_reason != "pause_turn"
        self._said = ""

    def _on_round(self) -> None:
        """Asked once more although no tool ran and the model had not paused: its last words were not taken."""
        if self._void_if_repeated:
            self._on_void()

    def _stop_text(self) -> None:
        """Stopped by the person: leave standing what they were reading, and mark it."""
        self._erase_status()
        if self._markdown.open:
            self._markdown.void(erase=False)
        self._said = ""

    def _on_end(self, event: TurnEnded) -> None:
        self._erase_status()
        self._markdown.finish()
        if self._answer is None:
            return
        text = mask(event.text)
        if not self._streams:
            if text.strip():
                self._answer.write(clean(text).rstrip("\n") + "\n")
            return
        shown = self._shown_of(text)
        if not shown and self._void_if_unused(event.status):
            self._markdown.mark_void()
        rest = text[len(shown) :]
        if rest.strip():
            if shown or self._lines_since_text:
                self._answer.write("\n")
            self._markdown.feed(rest.lstrip("\n"))
            self._markdown.finish()

    def _shown_of(self, text: str) -> str:
        """The longest beginning of the final text that stands on the screen already."""
        texts = [*self._texts, self._said] if self._said else self._texts
        for first in range(len(texts)):
            shown = "".join(texts[first:]).rstrip()
            if shown and text.startswith(shown):
                return shown
        return ""

    def _void_if_unused(self, status: str) -> bool:
        said = self._said or (self._texts[-1] if self._texts and self._void_if_repeated else "")
        return bool(said.strip()) and status in ("failed", "needs_human")

    # --- drawing -----------------------------------------------------------------------------------------

    def _tell(self, line: Line) -> None:
        if (line.detail and not self._verbose) or (self._quiet and not line.warning):
            return
        for text in self._wrapped(line.text):
            self._commit(self._out.theme.paint(line.style, text))

    def _wrapped(self, text: str) -> list[str]:
        """A long line broken between words, where a terminal would break it in the middle of one."""
        columns = self._out.size().columns
        if not self._out.is_terminal or columns < COLUMNS_TO_WRAP or len(text) < columns:
            return [text]
        return textwrap.wrap(text, columns - 1, subsequent_indent="    ", break_on_hyphens=False)

    def _commit(self, text: str) -> None:
        """Print whole lines, never in the middle of the model's words."""
        self._erase_status()
        if self._shared:
            self._markdown.hide()
        self._out.write(text + "\n")
        self._lines_since_text = True

    def _show_status(self) -> None:
        if not self._out.theme.moves or self._quiet or self._markdown.open:
            return
        status = self._fitting_status()
        if status and status != self._status:
            self._out.write("\r" + self._out.theme.paint("dim", status) + "\x1b[K")
            self._status = status

    def _fitting_status(self) -> str:
        from ui.cells import fitted

        activity = self._steps.activity
        standing = self._steps.standing
        stands = standing.words(with_model=not activity)
        parts = (stands, activity) if standing.faults else (activity, stands)
        words = one_line(" · ".join(part for part in parts if part), STATUS_CHARS_MAX)
        return fitted(self._out.theme.spelled(words), self._out.size().columns - 1)

    def _erase_status(self) -> None:
        if self._status:
            self._status = ""
            self._out.write("\r\x1b[K")


def preload() -> None:
    """Import what the first answer needs (150 ms), for a thread behind the prompt."""
    import ui.cells
    import ui.markdown_render  # noqa: F401  (both for their effect)
