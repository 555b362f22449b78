"""The history of a conversation: valid at every moment, whatever fails.  (floor 3)

History is a tuple of frozen messages. A turn works on a copy and hands it over at its end,
so a failed turn is undone by not handing over. The rules every history obeys (promise A1):
roles alternate, no empty content, each tool call is answered in the very next message,
results first, ids are unique, inputs are objects.

A turn that wrote something and then failed keeps the user's message, its closed tool pairs
and one line by the program, so that the next turn neither denies nor repeats the write.
What this does not do: decide what happens next in a turn (`turn.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from flow import Effect
from messages import Block, CallResult, Message, Text, Thinking, ToolResult, ToolUse, assistant
from safe_text import encodable, mask

_NAME = re.compile(r"[^A-Za-z0-9_-]")
_NAME_CHARS_MAX = 64
_ID_CHARS_MAX = 200
CHARS_PER_TOKEN = 3
"""A cautious estimate: English has about 4 characters a token, code and other scripts fewer."""


@dataclass(frozen=True, slots=True)
class Checkpoint(Effect):
    """Keep this state: performed by nothing now, by a store later."""

    session_id: str
    messages: tuple[Message, ...]


class Conversation:
    """One session's history. Only a turn that ended changes it."""

    def __init__(self, session_id: str, messages: tuple[Message, ...] = ()) -> None:
        self.session_id = session_id
        self.messages = messages


def sendable(blocks: Iterable[Block]) -> tuple[Block, ...]:
    """The blocks that may ever be sent back: words, tool calls, thinking.

    Blank text is left out, and thinking that nothing follows: the API takes neither.
    """
    kept: list[Block] = []
    for block in blocks:
        if isinstance(block, Text) and block.text.strip():
            kept.append(Text(encodable(block.text)))
        elif isinstance(block, (ToolUse, Thinking)):
            kept.append(block)
    while kept and isinstance(kept[-1], Thinking):
        kept.pop()
    return tuple(kept)


def with_sendable_calls(blocks: Sequence[Block], history: Iterable[Message]) -> tuple[Block, ...]:
    """The same blocks with every tool call's id unique in the whole history and its name acceptable to the API."""
    used = {block.id for message in history for block in message.blocks if isinstance(block, ToolUse)}
    kept: list[Block] = []
    for block in blocks:
        if isinstance(block, ToolUse):
            block = replace(block, id=_fresh_id(block.id, used), name=sendable_name(block.name))
            used.add(block.id)
        kept.append(block)
    return tuple(kept)


def _fresh_id(wanted: str, used: set[str]) -> str:
    base = _NAME.sub("_", mask(wanted))[:_ID_CHARS_MAX] or "call"
    fresh, number = base, 2
    while fresh in used:
        fresh, number = f"{base}_{number}", number + 1
    return fresh


def sendable_name(name: str) -> str:
    """A tool name the API accepts (letters, digits, _ and -, at most 64).

    One that had to be changed is marked, or `save note` would become the name of a tool that exists. A secret in
    it is masked before anything is cut: half a secret is one no mask knows.
    """
    plain = _NAME.sub("_", mask(name))[:_NAME_CHARS_MAX]
    return name if plain == name != "" else f"unknown_{plain}"[:_NAME_CHARS_MAX]


def results_message(results: Sequence[CallResult]) -> Message:
    """The message that answers every call of a batch, in the order asked."""
    blocks = tuple(
        ToolResult(result.call.id, encodable(result.output) or "(empty)", not result.is_answer) for result in results
    )
    return Message("user", blocks, untrusted=any(result.untrusted for result in results))


def closing_line(results: Iterable[CallResult]) -> str:
    """The program's own line under a turn that wrote something and has no answer; "" when nothing was written."""
    said = []
    for result in results:
        if result.wrote:
            said.append("note saved" if result.call.name == "save_note" else f"{result.call.name} done")
        elif result.status == "unknown":
            said.append(f"{result.call.name}: may or may not have happened")
    return f"[stopped: {', '.join(dict.fromkeys(said))}, no answer]" if said else ""


def kept_after_failure(
    before: tuple[Message, ...], during: tuple[Message, ...], results: Sequence[CallResult]
) -> tuple[Message, ...]:
    """The history after a turn that failed or was stopped.

    Args:
        before: the history when the turn began.
        during: the turn's own copy: the user's message and closed tool pairs, results last.
        results: how its calls ended.
    """
    line = closing_line(results)
    return (*during, assistant(line)) if line else before


# --- fitting the model's window -------------------------------------------------------------------------


def tokens_of(messages: Iterable[Message]) -> int:
    """About how many tokens these messages take; an estimate on the cautious side."""
    return sum(map(_chars_of, messages)) // CHARS_PER_TOKEN


def _chars_of(message: Message) -> int:
    return len(json.dumps(message.to_wire(), ensure_ascii=False, default=str))


def starts_turn(message: Message) -> bool:
    """Whether a user's question begins here: the only places where history may be cut."""
    return message.role == "user" and not any(isinstance(block, ToolResult) for block in message.blocks)


def trimmed(messages: tuple[Message, ...], tokens_max: int) -> tuple[Message, ...]:
    """The newest whole turns that fit; always at least the last one."""
    start, chars = None, 0
    for index in range(len(messages) - 1, -1, -1):
        chars += _chars_of(messages[index])
        if start is not None and chars // CHARS_PER_TOKEN > tokens_max:
            break
        if starts_turn(messages[index]):
            start = index
    return messages[start or 0 :]
