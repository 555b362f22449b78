"""The line where one types: editing, history, completion, and what stands below it.  (floor 6)

    Enter            submits                      Ctrl-C   clears the line; twice in a second leaves
    Alt-Enter, Ctrl-J  a new line                 Ctrl-D   leaves, on an empty line
    paste            keeps its lines              Ctrl-Z   stops the program, as everywhere

`ask_async` and `ask` are the same prompt for the two colours. Both answer with the text or, at
the end of input or after `leave()`, with None. A signal handler may call `clear` and `leave` at
any moment, from any thread; SIGINT is never handled here: Ctrl-C is a key while the prompt is
open, and a signal of the program's own handler otherwise.

Where nothing can be drawn (TERM=dumb, output that is no terminal) `ui/plain_prompt.py` stands
in. What this does not do: say what a line means.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.input.typeahead import get_typeahead
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.styles import Style

from safe_text import encodable, one_line
from ui.history import PrivateHistory
from ui.keyboard import make_raw, terminal_input, terminal_output
from ui.keys import Typed
from ui.prompt_port import MARK, NOTHING
from ui.sink import OutputClosed

STATUS_CHARS_MAX = 300
HINT_S = 1.05
"""A status that says "Ctrl-C again leaves" is over after this time, and drawn once more."""

LOOK_S = 1.0
"""How often an empty prompt asks whether it is in the way. It asks memory only: some microseconds."""

_STYLE = Style.from_dict({"bottom-toolbar": "noreverse dim", "bottom-toolbar.text": ""})


class Prompt:
    """The prompt of one chat.

    Args:
        state_dir: where the history is kept.
        environ: for TERM.
        commands: slash commands and what they do, for completion.
        status: what stands below the line; asked at each drawing.
        on_interrupt: called for Ctrl-C.
        on_painted: called once, when the first prompt stands on the screen.
        is_wanted: whether the terminal is wanted for something else, asked now and then while nothing is typed:
            then the prompt steps aside, with an empty line for an answer.
    """

    def __init__(
        self,
        state_dir: Path,
        environ: Mapping[str, str],
        *,
        commands: Mapping[str, str],
        status: Callable[[], str],
        on_interrupt: Callable[[], object],
        on_painted: Callable[[], object],
        is_wanted: Callable[[], bool],
    ) -> None:
        self._on_interrupt, self._on_painted, self._is_wanted = on_interrupt, on_painted, is_wanted
        self._left = self._void = False
        self._lines = 0
        self._history = PrivateHistory(state_dir)
        completer = SlashCompleter(commands)
        self._session: PromptSession[str] = PromptSession(
            [("bold", MARK)],
            multiline=True,
            prompt_continuation=" " * len(MARK),
            wrap_lines=True,
            history=self._history,
            completer=completer,
            complete_while_typing=Condition(lambda: completer.concerns(get_app().current_buffer.document)),
            key_bindings=self._keys(),
            bottom_toolbar=lambda: one_line(status(), STATUS_CHARS_MAX) or None,
            style=_STYLE,
            enable_suspend=True,
            input=terminal_input(sys.stdin),
            output=terminal_output(sys.stdout, dict(environ)),
        )
        self._app = self._session.app
        self._app.after_render += self._painted

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("enter")
        def submit(event: KeyPressEvent) -> None:
            if event.current_buffer.text.strip():
                event.current_buffer.validate_and_handle()
            else:
                event.current_buffer.reset()

        @keys.add("escape", "enter")
        @keys.add("c-j")
        def new_line(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        @keys.add("c-c")
        @keys.add("<sigint>")
        def interrupt(event: KeyPressEvent) -> None:
            self._on_interrupt()

        return keys

    # --- asking -------------------------------------------------------------------------------------------

    async def ask_async(self, typed: Typed = NOTHING) -> str | None:
        """Wait for a line on the running loop. None: no more input. Raises OutputClosed."""
        self._void = False
        try:
            text = await self._session.prompt_async(**self._arguments(typed))
        except (EOFError, OSError) as error:
            self._check_end(error)
            return None
        return self._submitted(text)

    def ask(self, typed: Typed = NOTHING) -> str | None:
        """Wait for a line. None: no more input. Raises OutputClosed."""
        self._void = False
        try:
            text = self._session.prompt(**self._arguments(typed))
        except (EOFError, OSError) as error:
            self._check_end(error)
            return None
        return self._submitted(text)

    def _arguments(self, typed: Typed) -> dict[str, Any]:
        return {
            "default": typed.text,
            "accept_default": typed.entered,
            "handle_sigint": False,  # it would take our handler away with the first line (seen)
            "set_exception_handler": False,  # it stops the chat with "Press ENTER to continue"
            "pre_run": self._begin,
        }

    def _submitted(self, text: str) -> str | None:
        if self._left:
            return None
        return "" if self._void else encodable(text)

    def _check_end(self, error: Exception) -> None:
        if isinstance(error, OSError) and not self._left:
            raise OutputClosed("the terminal cannot be written to") from None

    # --- from outside -------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Empty the line; one that was submitted but not handed over yet is void."""
        self._soon(self._clear)

    def leave(self) -> None:
        """End this question and all later ones with None."""
        self._left = True
        self._soon(self._leave_if_told)

    def resume(self) -> None:
        """The program was stopped and goes on: draw anew."""
        self._soon(self._redraw)

    def above(self, tell: Callable[[], object]) -> None:
        """Print above the line that is being typed; where none is, whoever has something to tell still has it."""
        self._soon(partial(self._tell_above, tell))

    def leftover(self) -> bytes:
        """Keys that came right behind the last line."""
        return "".join(key.data for key in get_typeahead(self._session.input)).encode("utf-8", "replace")

    def trouble(self) -> str:
        """Why the history is not kept, once."""
        return self._history.trouble()

    def _soon(self, call: Callable[[], object]) -> None:
        loop = self._app.loop
        try:
            if loop is not None:
                loop.call_soon_threadsafe(call)
        except RuntimeError:
            return  # the loop has just closed: no line is being typed

    def _clear(self) -> None:
        if self._app.is_done:
            self._void = True
        self._session.default_buffer.reset()
        self._draw_again_later()
        self._app.invalidate()

    def _begin(self) -> None:
        self._app.erase_when_done = False
        self._lines += 1
        self._leave_if_told()
        self._draw_again_later()
        self._look(self._lines)

    def _look(self, line: int) -> None:
        """Step aside when the terminal is wanted and nothing is typed; else look again soon."""
        if line != self._lines or self._app.loop is None or self._app.is_done:
            return  # that line is over
        if self._app.is_running and not self._session.default_buffer.text and self._is_wanted():
            self._app.erase_when_done = True
            self._app.exit(result="")
        else:
            self._app.loop.call_later(LOOK_S, self._look, line)

    def _draw_again_later(self) -> None:
        if self._app.loop is not None:
            self._app.loop.call_later(HINT_S, self._app.invalidate)

    def _leave_if_told(self) -> None:
        if self._left and self._app.is_running and not self._app.is_done:
            self._app.exit(exception=EOFError())

    def _redraw(self) -> None:
        make_raw(self._session.input.fileno())
        self._app.renderer.erase(leave_alternate_screen=False)
        self._app.invalidate()

    def _tell_above(self, tell: Callable[[], object]) -> None:
        if not self._app.is_running or self._app.is_done:
            return
        # Not prompt_toolkit's run_in_terminal: for a moment it lets the terminal echo what is typed.
        self._app.renderer.erase(leave_alternate_screen=False)
        with suppress(OutputClosed):  # the next drawing finds out by itself
            tell()
        self._app.invalidate()

    def _painted(self, _: object) -> None:
        self._app.after_render -= self._painted
        self._on_painted()


class SlashCompleter(Completer):
    """Completes the word after a slash at the beginning."""

    def __init__(self, commands: Mapping[str, str]) -> None:
        self._commands = commands

    def concerns(self, document: Document) -> bool:
        """Whether a command is being typed."""
        text = document.text
        return text.startswith("/") and not any(character.isspace() for character in text[:40])

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """The commands that begin so."""
        word = document.text_before_cursor
        if self.concerns(document):
            for name, what in self._commands.items():
                if name.startswith(word):
                    yield Completion(name, -len(word), display_meta=what)
