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
from dataclasses import replace

from messages import Block, CallResult, Message, Text, Thinking, ToolResult, ToolUse, assistant, user
from safe_text import encodable, mask

_NAME = re.compile(r"[^A-Za-z0-9_-]")
_NAME_CHARS_MAX = 64
_ID_CHARS_MAX = 200
CHARS_PER_TOKEN = 3
"""A cautious estimate: English has about 4 characters a token, code and other scripts fewer."""


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


# --- mending ---------------------------------------------------------------------------------------------

LOST_START = "[what came before is lost]"
LOST_RESULT = "The result of this call is lost: it may or may not have done its work."
LOST_END = "[stopped: what came after this is lost]"


def repaired(messages: Iterable[Message]) -> tuple[Message, ...]:
    """A history that can be continued, out of any messages, whatever was lost, torn or doubled among them.

    A valid one comes back as it is. Words and calls are kept wherever the rules allow it: neighbours of
    one role are joined, a call without a result gets one that says so, a missing beginning or end is
    marked. Only what cannot be sent is lost, such as a result whose call is gone.
    """
    kept: list[Message] = []
    used: set[str] = set()
    unanswered: list[tuple[str, str]] = []  # the calls of the last message: their ids as they were, and as they are
    for message in _joined(filter(None, map(_cleaned, messages))):
        if message.role == "user":
            message, unanswered = _with_results(message, unanswered), []
        else:
            message, unanswered = _with_fresh_ids(message, used)
        if message.blocks:
            _add(kept, message)
    if kept and kept[0].role == "assistant":
        kept.insert(0, user(LOST_START))
    if unanswered:
        kept.append(_with_results(Message("user", ()), unanswered))
    return (*kept, assistant(LOST_END)) if kept and kept[-1].role == "user" else tuple(kept)


def _cleaned(message: Message) -> Message | None:
    """The message with what its role may say; None when that is nothing."""
    if message.role == "assistant":
        blocks = sendable(block for block in message.blocks if not isinstance(block, Thinking) or _is_signed(block))
    else:
        blocks = tuple(
            block for block in message.blocks
            if isinstance(block, ToolResult) or (isinstance(block, Text) and block.text.strip())
        )  # fmt: skip
    return _with(message, blocks) if blocks else None


def _is_signed(block: Thinking) -> bool:
    return any(isinstance(value := block.block.get(key), str) and value.strip() for key in ("signature", "data"))


def _joined(messages: Iterable[Message]) -> list[Message]:
    joined: list[Message] = []
    for message in messages:
        _add(joined, message)
    return joined


def _add(messages: list[Message], message: Message) -> None:
    """Append a message, or join it with the last one where that is of the same role."""
    if messages and messages[-1].role == message.role:
        last = messages.pop()
        message = Message(last.role, last.blocks + message.blocks, last.untrusted or message.untrusted)
    messages.append(message)


def _with_fresh_ids(message: Message, used: set[str]) -> tuple[Message, list[tuple[str, str]]]:
    blocks: list[Block] = []
    ids: list[tuple[str, str]] = []
    for block in message.blocks:
        if isinstance(block, ToolUse):
            fresh = replace(block, id=_fresh_id(block.id, used), name=sendable_name(block.name))
            used.add(fresh.id)
            ids.append((block.id, fresh.id))
            block = fresh
        blocks.append(block)
    return _with(message, tuple(blocks)), ids


def _with_results(message: Message, calls: Sequence[tuple[str, str]]) -> Message:
    """The message with one result for each of these calls, first, and none for others."""
    results: list[Block] = []
    open_calls = list(calls)
    for block in message.blocks:
        call = next((one for one in open_calls if isinstance(block, ToolResult) and one[0] == block.tool_use_id), None)
        if call and isinstance(block, ToolResult):
            open_calls.remove(call)
            results.append(replace(block, tool_use_id=call[1], content=encodable(block.content)))
    results += [ToolResult(fresh, LOST_RESULT, is_error=True) for _, fresh in open_calls]
    words = [Text(encodable(block.text)) for block in message.blocks if isinstance(block, Text)]
    return _with(message, (*results, *words))


def _with(message: Message, blocks: tuple[Block, ...]) -> Message:
    return message if blocks == message.blocks else replace(message, blocks=blocks)


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
