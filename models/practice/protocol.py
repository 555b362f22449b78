"""What the Messages API puts on the wire, for everything here that plays the API (floor 4).

Pure: a finished message in, bytes out. The stream is the one the real API would have sent for it, one
`event:`/`data:` frame per item, in the real order::

    message_start  ping  (content_block_start  delta...  content_block_stop)...  message_delta  message_stop

Whoever injects faults cuts, swaps or stalls these frames; nothing here is wrong unless it is asked to be.
It deliberately knows neither models nor tools nor HTTP. What the API refuses is told by
`validate_request`, which has its own file and belongs to this vocabulary.

Sources: the event sequence and error shape of platform.claude.com/docs (Messages, streaming, errors),
API version 2026-10-21, and the types of the `anthropic` SDK 2.12.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from models.practice.validation import validate_request

__all__ = [
    "CHUNK_CHARS",
    "error_body",
    "error_event",
    "error_json",
    "message_json",
    "sse_event",
    "sse_events",
    "validate_request",
]

CHUNK_CHARS = 6  # about what one token of the real API carries
_DELTAS_MAX = 400  # a long block gets longer deltas, not more: a 256 KiB note must not cost 50,000 events

Block = dict[str, Any]


def message_json(message: dict[str, Any]) -> bytes:
    """The body of a 200 answer that is not streamed."""
    return _encode(message)


def error_body(error_type: str, message: str, request_id: str | None = None) -> dict[str, Any]:
    """The error object the API answers with; `error_type` is e.g. "overloaded_error"."""
    return {"type": "error", "error": {"type": error_type, "message": message}, "request_id": request_id}


def error_json(error_type: str, message: str, request_id: str | None = None) -> bytes:
    """`error_body` as the body of a 4xx or 5xx answer."""
    return _encode(error_body(error_type, message, request_id))


def error_event(error_type: str, message: str, request_id: str | None = None) -> bytes:
    """`error_body` as the frame that ends a stream which had begun with status 200."""
    return sse_event("error", error_body(error_type, message, request_id))


def sse_event(name: str, data: dict[str, Any]) -> bytes:
    """One frame of a stream."""
    return b"event: " + name.encode() + b"\ndata: " + _encode(data) + b"\n\n"


def sse_events(message: dict[str, Any], chunk_chars: int = CHUNK_CHARS) -> Iterator[bytes]:
    """The stream the API sends for this finished message, one frame an item.

    `chunk_chars` is the length of a delta in characters; long blocks get longer ones. A tool `input`
    that is a string goes out as it stands: a model's broken JSON is written like that.
    """
    usage = dict(message.get("usage") or {})
    begun = {**message, "content": [], "stop_reason": None, "stop_sequence": None}
    begun["usage"] = {**usage, "output_tokens": min(1, int(usage.get("output_tokens") or 0))}
    yield sse_event("message_start", {"type": "message_start", "message": begun})
    yield sse_event("ping", {"type": "ping"})
    for index, block in enumerate(message.get("content") or []):
        yield from _block_events(index, block, max(1, chunk_chars))
    ending = {key: message.get(key) for key in ("stop_reason", "stop_sequence")}
    if message.get("stop_details") is not None:
        ending["stop_details"] = message["stop_details"]
    yield sse_event("message_delta", {"type": "message_delta", "delta": ending, "usage": usage})
    yield sse_event("message_stop", {"type": "message_stop"})


def _block_events(index: int, block: Block, chunk_chars: int) -> Iterator[bytes]:
    opening, deltas = _opening(block, chunk_chars)
    yield sse_event("content_block_start", {"type": "content_block_start", "index": index, "content_block": opening})
    for delta in deltas:
        yield sse_event("content_block_delta", {"type": "content_block_delta", "index": index, "delta": delta})
    yield sse_event("content_block_stop", {"type": "content_block_stop", "index": index})


def _opening(block: Block, chunk_chars: int) -> tuple[Block, list[Block]]:
    """A block as `content_block_start` shows it, and the deltas that complete it."""
    match block.get("type"):
        case "text":
            pieces = _pieces(block.get("text") or "", chunk_chars)
            return {**block, "text": ""}, [{"type": "text_delta", "text": piece} for piece in pieces]
        case "thinking":
            pieces = _pieces(block.get("thinking") or "", chunk_chars)
            deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces]
            deltas.append({"type": "signature_delta", "signature": block.get("signature") or ""})
            return {**block, "thinking": "", "signature": ""}, deltas
        case "tool_use" | "server_tool_use":
            # The API opens every input with an empty delta and sends nothing more for an empty object.
            pieces = ["", *_pieces(_input_text(block.get("input")), chunk_chars)]
            return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
        case _:  # redacted_thinking and results of server tools come whole
            return block, []


def _input_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False) if value else ""


def _pieces(text: str, chunk_chars: int) -> list[str]:
    size = max(chunk_chars, -(-len(text) // _DELTAS_MAX))
    return [text[start : start + size] for start in range(0, len(text), size)]


def _encode(value: dict[str, Any]) -> bytes:
    # A lone surrogate cannot be sent as UTF-8; a question mark keeps the frame valid.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
