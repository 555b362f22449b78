"""What a command of the chat is: what it may look at, and what it can come to.  (floor 6)

Most commands answer at once. One that must ask the agent's stores hands back `Work`, since only the
chat's loop knows how to wait and how Ctrl-C stops it; one that goes on with a question hands back a
turn. The commands themselves are in `commands.py` and its siblings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from errors import ConfigurationError
from safe_text import one_line

if TYPE_CHECKING:
    from wiring import Agent


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What a command came to. All of it may be empty.

    Args:
        text: words to print.
        question: what is asked next.
        turn: asks it in another way than `agent.ask(question)` does, such as `agent.resume`.
        work: what has to be done before the command is over.
        leaves: the chat ends.
    """

    text: str = ""
    question: str | None = None
    turn: Callable[[], Any] | None = None
    work: Work | None = None
    leaves: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """Something that takes time, and what it comes to.

    Args:
        begin: a call of the agent: with asyncio it answers with a coroutine, else with the value.
        tell: what the value comes to; may hand back more work.
    """

    begin: Callable[[], Any]
    tell: Callable[[Any], CommandResult]


@dataclass(frozen=True, slots=True)
class Situation:
    """What a command may look at. `last_question` is the one before, None at the beginning."""

    agent: Agent
    last_question: str | None = None
    unicode: bool = True


@dataclass(frozen=True, slots=True)
class Command:
    """One command."""

    name: str
    usage: str
    what: str
    run: Callable[[Situation, str], CommandResult]


def number_in(word: str, where: str) -> int:
    """The number a person typed. Raises ConfigurationError for anything else; `where` says where numbers stand."""
    if not (word.isascii() and word.isdecimal() and len(word) < 10):
        raise ConfigurationError(f"{one_line(word, 20)!r} is no number: {where}")
    return int(word)


def counted(count: int, what: str) -> str:
    """`1 note`, `2 notes`, `2 tries`."""
    many = f"{what[:-1]}ies" if what.endswith("ry") else f"{what}s"
    return f"{count:,} {what if count == 1 else many}"
