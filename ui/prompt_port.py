"""What the chat needs of a prompt, drawn (`prompt.py`) or plain (`plain_prompt.py`).  (floor 6)"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ui.keys import Typed

MARK = "> "
NOTHING = Typed()


class AnyPrompt(Protocol):
    """What the chat needs of a prompt, drawn or plain."""

    async def ask_async(self, typed: Typed = NOTHING) -> str | None:
        """Wait for a line on the running loop. None: no more input. Raises OutputClosed."""

    def ask(self, typed: Typed = NOTHING) -> str | None:
        """Wait for a line. None: no more input. Raises OutputClosed."""

    def clear(self) -> None:
        """Empty the line; one that was submitted but not handed over yet is void."""

    def leave(self) -> None:
        """End this question and all later ones with None."""

    def resume(self) -> None:
        """The program was stopped and goes on: draw anew."""

    def above(self, tell: Callable[[], object]) -> None:
        """Call `tell`, which prints whole lines, while the line stays open below; perhaps not before the next one."""

    def leftover(self) -> bytes:
        """Keys that came right behind the last line."""

    def trouble(self) -> str:
        """Something the person should know once, "" mostly."""
