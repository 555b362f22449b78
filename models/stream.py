"""Turns the events of a model's stream into a reply, or refuses: half an answer is no answer.  (floor 4)

The SDK's own accumulator takes streams that were cut off for whole ones, tool calls in them
included, and guesses tool input that was never finished. So this is our own state machine,
without I/O: events go in with `feed`, the reply comes out of `finish`, and only when
`message_stop` was seen, a stop reason was given and every block was closed.

    START --message_start--> OPEN --content_block_start--> BLOCK  (deltas stay in BLOCK)
                             OPEN <--content_block_stop--- BLOCK
                             OPEN --message_delta--> ENDING --message_stop--> DONE

The picture is the table `_NEXT`; an event that is not in it for the present state is a
protocol error and ends the parser. Two kinds of trouble are kept apart:

- A stream that breaks the protocol (wrong order, wrong index, data of the wrong shape, an
  error event) raises AgentError: nothing of it may be used.
- A stream in order that says something odd (a tool input that is no JSON, a stop reason,
  block, delta, event or field unknown to us) is told, not raised: `ToolUse.problem`,
  `Other`, or plainly ignored where nothing depends on it.

It decides nothing about the reply: whether a refusal or a cut is an answer is for `core/`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from enum import Enum
from typing import Any, NoReturn

from error_words import WHAT_NOW, describe
from errors import AgentError, reason_of_response
from events import Event
from messages import Block, Reply, Text, Usage
from models.open_block import OpenBlock
from safe_text import encodable, one_line

CONTENT_CHARS_MAX = 16 * 1024 * 1024
"""Characters of one reply. 128,000 tokens, the longest answer there is, are some 600,000."""

BLOCKS_MAX = 1_000
"""Blocks of one reply; calls beyond 16 are refused later anyway, one by one and in words."""

CONTENT_EVENTS = frozenset(
    {"content_block_start", "content_block_delta", "content_block_stop", "message_delta", "message_stop"}
)
"""The events that show that the model is at work. Not pings, which a dead model's server sends, too."""


class _State(Enum):
    START = "before the answer began"
    OPEN = "between two blocks"
    BLOCK = "in the middle of a block"
    ENDING = "after the stop reason"
    DONE = "after its end"
    BROKEN = "in a broken stream"


_NEXT = {
    (_State.START, "message_start"): _State.OPEN,
    (_State.OPEN, "content_block_start"): _State.BLOCK,
    (_State.BLOCK, "content_block_delta"): _State.BLOCK,
    (_State.BLOCK, "content_block_stop"): _State.OPEN,
    (_State.OPEN, "message_delta"): _State.ENDING,
    (_State.ENDING, "message_delta"): _State.ENDING,  # usage may be brought up to date once more
    (_State.ENDING, "message_stop"): _State.DONE,
}
_KNOWN = frozenset(name for _, name in _NEXT) | {"error"}


class StreamParser:
    """One stream of the Messages API, event by event.

    Args:
        link: name of the chain link that was asked; stands in the reply and in its thinking blocks.
        taken_ids: ids of the tool calls already in the history; using one again breaks the protocol,
            since such a call could neither be told apart nor sent back.
    """

    def __init__(self, link: str, taken_ids: Collection[str] = ()) -> None:
        self._link = link
        self._ids = set(taken_ids)
        self._state = _State.START
        self._blocks: list[Block] = []
        self._index = -1  # of the block opened last
        self._block: OpenBlock | None = None
        self._size = 0
        self._model = self._id = ""
        self._stop_reason: str | None = None
        self._stop_details: dict[str, Any] | None = None
        self._usage: dict[str, int | None] = {}
        self.heard = False
        """Whether the last event showed that the model is at work."""

    @property
    def done(self) -> bool:
        """Whether the stream has come to its proper end."""
        return self._state is _State.DONE

    def feed(self, name: str, data: Any) -> Event | None:
        """Take one event; the answer is what a screen should show of it, if anything.

        Args:
            name: the event's name; "" where the server sent none and the data's type says it.
            data: its decoded JSON.

        Raises AgentError: reason "protocol" for a broken stream, else what an error event says.
        """
        try:
            name = self._name_of(name, data)
            self.heard = name in CONTENT_EVENTS
            return self._take(name, data)
        except AgentError:
            self._state = _State.BROKEN
            raise

    def finish(self) -> Reply:
        """The reply, once the stream has ended. Raises AgentError(reason="protocol") when it is not whole."""
        if self._state is not _State.DONE:
            _refuse(f"the answer broke off {self._state.value}")
        if self._stop_reason is None:
            _refuse("the answer ended without a stop reason")
        return Reply(
            tuple(self._blocks),
            self._stop_reason,
            Usage(*(self._usage.get(field) for field in _USAGE_FIELDS)),
            self._model,
            self._id,
            self._link,
            self._stop_details,
        )

    def _name_of(self, name: str, data: Any) -> str:
        said = data.get("type") if isinstance(data, dict) else None
        if name and isinstance(said, str) and said != name and {name, said} & _KNOWN:
            _refuse(f"an event named {_quote(name)} says that it is {_quote(said)}")
        return name or (said if isinstance(said, str) else "")

    def _take(self, name: str, data: Any) -> Event | None:
        if name not in _KNOWN:
            return None
        if not isinstance(data, dict):
            _refuse(f"{name} without data")
        if name == "error":
            raise _error_of(data)
        state = _NEXT.get((self._state, name))
        if state is None:
            _refuse(f"{name} {self._state.value}")
        self._state = state
        handler: Callable[[dict[str, Any]], Event | None] = getattr(self, f"_on_{name}")
        return handler(data)

    def _on_message_start(self, data: dict[str, Any]) -> None:
        message = data.get("message")
        if not isinstance(message, dict):
            _refuse("message_start without a message")
        if message.get("content"):
            _refuse("message_start with content in it")
        self._model, self._id = _text_or_empty(message.get("model")), _text_or_empty(message.get("id"))
        self._count(message.get("usage"))
        self._usage.pop("output_tokens", None)  # what had been written by then, not what will have been

    def _on_content_block_start(self, data: dict[str, Any]) -> Event | None:
        if not _is_index(data.get("index"), self._index + 1):
            _refuse("a block with the wrong index")
        self._index += 1
        if self._index >= BLOCKS_MAX:
            _refuse(f"more than {BLOCKS_MAX} blocks")
        start = data.get("content_block")
        if not isinstance(start, dict) or not isinstance(start.get("type"), str):
            _refuse("a block without a type")
        if start["type"] == "tool_use":
            self._check_tool(start)
        self._grow(len(json.dumps(start)))
        self._block = OpenBlock(start)
        return self._block.opening()

    def _check_tool(self, start: dict[str, Any]) -> None:
        call_id = start.get("id")
        if not isinstance(call_id, str) or not call_id.strip():
            _refuse("a tool call without an id")
        if call_id in self._ids:
            _refuse("two tool calls with the same id")
        if not isinstance(start.get("name"), str):
            _refuse("a tool call without a name")
        self._ids.add(call_id)

    def _on_content_block_delta(self, data: dict[str, Any]) -> Event | None:
        block = self._open_block(data)
        delta = data.get("delta")
        if not isinstance(delta, dict) or not isinstance(delta.get("type"), str):
            _refuse("a delta without a type")
        shape = _DELTAS.get(delta["type"])
        if shape is None:
            return None
        field, kinds = shape
        piece = delta.get(field)
        if not isinstance(piece, str):
            _refuse(f"{delta['type']} without {field}")
        if block.kind not in kinds and block.kind in _OUR_KINDS:
            _refuse(f"{delta['type']} in a block of type {block.kind}")
        self._grow(len(piece))
        return block.add(delta["type"], piece)

    def _on_content_block_stop(self, data: dict[str, Any]) -> None:
        block = self._open_block(data).close(self._link)
        self._block = None
        if block != Text(""):  # an empty text says nothing and could not be sent back
            self._blocks.append(block)

    def _on_message_delta(self, data: dict[str, Any]) -> None:
        delta = data.get("delta")
        if not isinstance(delta, dict):
            _refuse("message_delta without a delta")
        reason = delta.get("stop_reason")
        if reason is not None and (not isinstance(reason, str) or not reason):
            _refuse("a stop reason that is no word")
        self._stop_reason = reason or self._stop_reason
        details = delta.get("stop_details")
        self._stop_details = details if isinstance(details, dict) else self._stop_details
        self._count(data.get("usage"))

    def _on_message_stop(self, data: dict[str, Any]) -> None:
        """The table has moved to DONE: that is all it says."""

    def _open_block(self, data: dict[str, Any]) -> OpenBlock:
        if self._block is None or not _is_index(data.get("index"), self._index):
            _refuse("a piece of a block that is not open")
        return self._block

    def _grow(self, chars: int) -> None:
        self._size += chars
        if self._size > CONTENT_CHARS_MAX:
            _refuse(f"an answer of more than {CONTENT_CHARS_MAX} characters")

    def _count(self, usage: Any) -> None:
        """Counts are cumulative: a later one overwrites. One that is no count makes it unknown."""
        for field in _USAGE_FIELDS:
            value = usage.get(field) if isinstance(usage, dict) else None
            if value is not None:
                known = isinstance(value, int) and not isinstance(value, bool) and value >= 0
                self._usage[field] = value if known else None


# In the order of the fields of `Usage`.
_USAGE_FIELDS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")

_OUR_KINDS = ("text", "thinking", "redacted_thinking", "tool_use")

# type of a delta: its field, and the blocks of ours it belongs in
_DELTAS = {
    "text_delta": ("text", ("text",)),
    "thinking_delta": ("thinking", ("thinking",)),
    "signature_delta": ("signature", ("thinking",)),
    "input_json_delta": ("partial_json", ("tool_use",)),
}


def _error_of(data: dict[str, Any]) -> AgentError:
    """What an error event says; its HTTP status is 200, so only its type tells."""
    error = data.get("error")
    error = error if isinstance(error, dict) else {"message": error}
    details = error.get("details")
    kind, words = _text_or_empty(error.get("type")), _text_or_empty(error.get("message"))
    code = _text_or_empty(details.get("error_code")) if isinstance(details, dict) else ""
    reason = reason_of_response(200, kind, code, words)
    return AgentError(
        describe(reason, words or kind),
        reason=reason,
        what_now=WHAT_NOW.get(reason, ""),
        request_id=_text_or_empty(data.get("request_id")) or None,
    )


def _is_index(value: Any, expected: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value == expected


def _text_or_empty(value: Any) -> str:
    return encodable(value) if isinstance(value, str) else ""


def _quote(word: str) -> str:
    return f'"{one_line(word, 40)}"'


def _refuse(what: str) -> NoReturn:
    raise AgentError(f"not a whole answer: {what}", reason="protocol")
