"""The words of a conversation: blocks, messages, a model's reply, what a request asks for.  (floor 0)

History is kept in the shape of the Messages API (`to_wire` is the identity in spirit), as
frozen values: a turn that fails simply goes back to the tuple it started from. Thinking
blocks are kept verbatim, since their signatures cover every byte. What is not here: how a
stream becomes a reply (`models/stream.py`) and what may be sent back (`core/`).

There are two forms as JSON: `to_wire` is what the API takes; `message_to_json` and its siblings
lose nothing (who made a thinking block, why an input could not be read, taint), for the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias

Json: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Text:
    """Words, of the user or of the model."""

    text: str

    def to_wire(self) -> dict[str, Any]:
        return {"type": "text", "text": self.text}


@dataclass(frozen=True, slots=True)
class Thinking:
    """A thinking or redacted_thinking block, verbatim; `model` is the one that made it and may read it."""

    block: Json
    model: str = ""

    def to_wire(self) -> dict[str, Any]:
        return dict(self.block)


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A tool call the model asks for.

    `input` is what goes back into history: the parsed object, or {} when it could not be
    parsed. Then `problem` says why and `raw` holds the unparsed text (shown, never sent back).
    """

    id: str
    name: str
    input: Json
    raw: str = ""
    problem: str | None = None

    def to_wire(self) -> dict[str, Any]:
        return {"type": "tool_use", "id": self.id, "name": self.name, "input": dict(self.input)}


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The answer to one tool call."""

    tool_use_id: str
    content: str
    is_error: bool = False

    def to_wire(self) -> dict[str, Any]:
        wire: dict[str, Any] = {
            "type": "tool_result",
            "tool_use_id": self.tool_use_id,
            "content": self.content or "(empty)",
        }
        return {**wire, "is_error": True} if self.is_error else wire


@dataclass(frozen=True, slots=True)
class Other:
    """A block of a kind we don't know: kept for the trace, never sent back (but in a paused turn)."""

    block: Json

    def to_wire(self) -> dict[str, Any]:
        return dict(self.block)


Block: TypeAlias = Text | Thinking | ToolUse | ToolResult | Other
Role: TypeAlias = Literal["user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the history. `untrusted` marks one that carries text from outside (taint)."""

    role: Role
    blocks: tuple[Block, ...]
    untrusted: bool = False

    def to_wire(self) -> dict[str, Any]:
        return {"role": self.role, "content": [block.to_wire() for block in self.blocks]}


def user(text: str) -> Message:
    """A user message of one text block."""
    return Message("user", (Text(text),))


def assistant(text: str) -> Message:
    """An assistant message of one text block."""
    return Message("assistant", (Text(text),))


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one or more model answers; None means not known, which is not 0."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None

    def plus(self, other: Usage) -> Usage:
        """The sum; a part that is unknown on either side is unknown in the sum."""
        return Usage(
            _sum(self.input_tokens, other.input_tokens),
            _sum(self.output_tokens, other.output_tokens),
            _sum(self.cache_read_tokens, other.cache_read_tokens),
            _sum(self.cache_write_tokens, other.cache_write_tokens),
        )


NO_USAGE = Usage(0, 0, 0, 0)


def _sum(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else a + b


@dataclass(frozen=True, slots=True)
class Reply:
    """One complete answer of a model: the stream ended properly and every block is closed.

    `stop_reason` is the API's own word. `model` is what the server said it is, `link` the
    name of the chain link that was asked (`anthropic:claude-sonnet-5-5`).
    """

    blocks: tuple[Block, ...]
    stop_reason: str
    usage: Usage = field(default_factory=Usage)
    model: str = ""
    id: str = ""
    link: str = ""
    stop_details: Json | None = None
    cost_usd: float | None = None

    @property
    def text(self) -> str:
        """All text blocks, joined."""
        return "".join(block.text for block in self.blocks if isinstance(block, Text))

    @property
    def tool_uses(self) -> tuple[ToolUse, ...]:
        """The tool calls in the order asked."""
        return tuple(block for block in self.blocks if isinstance(block, ToolUse))


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """What a model is told about a tool."""

    name: str
    description: str
    input_schema: Json

    def to_wire(self) -> dict[str, Any]:
        return {"name": self.name, "description": self.description, "input_schema": dict(self.input_schema)}


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """What is asked of a model, whichever it is."""

    system: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    max_tokens: int = 16384


CallStatus: TypeAlias = Literal["ok", "invalid", "failed", "degraded", "denied", "unknown", "skipped"]


@dataclass(frozen=True, slots=True)
class CallResult:
    """How one tool call ended. Every call gets one, whatever happened.

    `output` is what the model reads, `source` where the answer came from (a provider, "cache, 5 min
    old"), `untrusted` marks text from outside, `fatal` that a critical tool could not work,
    `notice` what the program itself tells the user about it.
    """

    call: ToolUse
    status: CallStatus
    output: str
    attempts: int = 1
    duration_ms: int = 0
    source: str | None = None
    untrusted: bool = False
    fatal: bool = False
    wrote: bool = False
    notice: str = ""

    @property
    def is_answer(self) -> bool:
        """Whether the model got what it asked for, if only an old answer; a degraded one without a source is none."""
        return self.status == "ok" or (self.status == "degraded" and self.source is not None)


# --- lossless JSON, for the store ------------------------------------------------------------------------

_KINDS: dict[str, type[Block]] = {
    "text": Text, "thinking": Thinking, "tool_use": ToolUse, "tool_result": ToolResult, "other": Other,
}  # fmt: skip
_KIND_OF = {kind: name for name, kind in _KINDS.items()}


def values_of(value: Any) -> dict[str, Any]:
    """The fields of one of these frozen values by name, as they are."""
    return {one.name: getattr(value, one.name) for one in fields(value)}


def block_to_json(block: Block) -> dict[str, Any]:
    """A block with all it knows; `block_from_json` is its inverse."""
    return {"kind": _KIND_OF[type(block)], **values_of(block)}


def block_from_json(kept: Json) -> Block:
    """The block that was kept. Raises KeyError or TypeError for anything else."""
    rest = {name: value for name, value in kept.items() if name != "kind"}
    return _KINDS[kept["kind"]](**rest)


def message_to_json(message: Message) -> dict[str, Any]:
    """A message with all it knows, taint included; `message_from_json` is its inverse."""
    return {**values_of(message), "blocks": [block_to_json(block) for block in message.blocks]}


def message_from_json(kept: Json) -> Message:
    """The message that was kept. Raises KeyError or TypeError for anything else."""
    return Message(**{**kept, "blocks": tuple(block_from_json(block) for block in kept["blocks"])})


def result_to_json(result: CallResult) -> dict[str, Any]:
    """How a call ended, with the call; `result_from_json` is its inverse."""
    return {**values_of(result), "call": values_of(result.call)}


def result_from_json(kept: Json) -> CallResult:
    """The result that was kept. Raises KeyError or TypeError for anything else."""
    return CallResult(**{**kept, "call": ToolUse(**kept["call"])})
